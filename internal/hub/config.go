package hub

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/postgres"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the hub's file. Its tables [cache] and [notify] are for whoever wires those.
type Config[Cache, Notify any] struct {
	Listen  string `toml:"listen"`  // default 127.0.0.1:8420
	DataDir string `toml:"dataDir"` // default /var/lib/garrison-hub
	Tokens  string `toml:"tokens"`  // a file of its own, read again when it changes

	Cache Cache     `toml:"cache"`
	Web   WebTable  `toml:"web"`
	Keep  KeepTable `toml:"keep"`
	// Database is where what the hub knows is kept; default: SQLite, in dataDir/hub.db.
	Database postgres.Config `toml:"database"`
	Notify   Notify          `toml:"notify"`

	// CI is built-in when Remote is set.
	CI struct {
		Remote string `toml:"remote"` // URL of the fleet's repository
		// CredentialsFile has lines like https://user:token@host, for Remote and mirrors. At the forge its token does without one.
		CredentialsFile string            `toml:"credentialsFile"`
		Poll            tomlfile.Duration `toml:"poll"` // default 60s
		SigningKey      string            `toml:"signingKey"`
		AllowedSigners  string            `toml:"allowedSigners"` // who may have signed earlier releases; default: signingKey
		SourceSigners   string            `toml:"sourceSigners"`  // who may have signed the commits; default: source.signers of the last release
		Identity        string            `toml:"identity"`       // private key that secrets on the source branch are readable with
		// Cache is the URL of the cache that closures are pushed to, where it is not the hub's own; CacheTokenFile has a token for it.
		Cache          string `toml:"cache"`
		CacheTokenFile string `toml:"cacheTokenFile"`
	} `toml:"ci"`

	// Follow says where releases are published, whoever makes them.
	Follow struct {
		Remote          string            `toml:"remote"` // default ci.remote; nothing is followed without either
		Branch          string            `toml:"branch"` // of releases, default release
		CredentialsFile string            `toml:"credentialsFile"`
		SSHKeyFile      string            `toml:"sshKeyFile"`
		KnownHostsFile  string            `toml:"knownHostsFile"`
		AllowedSigners  string            `toml:"allowedSigners"` // who may sign releases; default ci.allowedSigners
		Poll            tomlfile.Duration `toml:"poll"`           // default 60s
		Silent          tomlfile.Duration `toml:"silent"`         // after that a host that says nothing is named, default 15m
	} `toml:"follow"`

	// Forge is where the repository lives. It is told of runs and rollouts where TokenFile is set, and heard where WebhookSecretFile is.
	Forge struct {
		Kind              forge.Kind `toml:"kind"`
		URL               string     `toml:"url"`
		API               string     `toml:"api"`
		Repo              string     `toml:"repo"` // owner/name
		TokenFile         string     `toml:"tokenFile"`
		WebhookSecretFile string     `toml:"webhookSecretFile"` // one a line
	} `toml:"forge"`

	Rollout RolloutTable `toml:"rollout"`
	Metrics MetricsTable `toml:"metrics"`
	Trace   TraceTable   `toml:"trace"`
}

// ReadConfig reads and checks the hub's file. Errors have CodeConfig.
func ReadConfig[Cache, Notify any](path string) (Config[Cache, Notify], error) {
	var c Config[Cache, Notify]
	if err := tomlfile.Read(path, &c); err != nil {
		return c, err
	}
	for s, def := range map[*string]string{&c.Listen: "127.0.0.1:8420", &c.DataDir: "/var/lib/garrison-hub"} {
		if *s == "" {
			*s = def
		}
	}
	c.CI.Poll = tomlfile.Duration(c.CI.Poll.Or(time.Minute))
	c.Follow.Poll = tomlfile.Duration(c.Follow.Poll.Or(time.Minute))
	c.Follow.Silent = tomlfile.Duration(c.Follow.Silent.Or(15 * time.Minute))
	for s, def := range map[*string]string{&c.Follow.Remote: c.CI.Remote, &c.Follow.Branch: "release", &c.Follow.AllowedSigners: c.CI.AllowedSigners} {
		if *s == "" {
			*s = def
		}
	}
	switch {
	case c.Tokens == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: tokens is missing", path).WithHint("set it to the file that lists the tokens (docs/FORMATS.md)")
	case c.Rollout.Enable != nil && *c.Rollout.Enable && c.Follow.Remote == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: rollout.enable is set, and no repository", path).WithHint("set follow.remote to the URL of the fleet's repository, or ci.remote")
	case c.CI.Remote != "" && c.CI.SigningKey == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: ci.signingKey is missing", path).WithHint("make one: ssh-keygen -t ed25519 -N '' -f FILE")
	case c.CI.CacheTokenFile != "" && c.CI.Cache == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: ci.cacheTokenFile is set, and no ci.cache", path).WithHint("set ci.cache to the cache's URL; the hub's own needs no token")
	}
	if err := c.Keep.check(path); err != nil {
		return c, err
	}
	if c.Database.URL != "" && c.Database.URLFile != "" || c.Database != (postgres.Config{}) && c.Database.URL == "" && c.Database.URLFile == "" {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: database needs url or urlFile", path).WithHint("give one of them; without the table it is SQLite in %s", c.DataDir)
	}
	if err := c.checkForge(path); err != nil {
		return c, err
	}
	for _, check := range []func(string) error{c.Web.check, c.Metrics.check, c.Trace.check} {
		if err := check(path); err != nil {
			return c, err
		}
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: listen %q is not host:port", path, c.Listen).WithCause(err)
	}
	return c, nil
}

// RolloutTable is hub.toml's table [rollout].
type RolloutTable struct {
	// Enable has the hub give rings their releases, and take orders about that. Default: where it has a CI, which may push. Without one, what lets it in at follow.remote must.
	Enable *bool `toml:"enable"`
}

// MovesRings says whether the hub gives rings their releases.
func (c *Config[Cache, Notify]) MovesRings() bool {
	if c.Rollout.Enable != nil {
		return *c.Rollout.Enable
	}
	return c.CI.Remote != ""
}

// HasForge says whether there is a table [forge].
func (c *Config[Cache, Notify]) HasForge() bool {
	return c.Forge.Kind != "" || c.Forge.URL != "" || c.Forge.Repo != "" || c.Forge.TokenFile != "" || c.Forge.WebhookSecretFile != ""
}

func (c *Config[Cache, Notify]) checkForge(path string) error {
	bad := func(what, hint string) error {
		return fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: %s", path, what).WithHint("%s", hint)
	}
	if !c.HasForge() {
		if c.Forge.API != "" {
			return bad("forge.api is set, and no forge", "set forge.kind, forge.url and forge.repo too")
		}
		return nil
	}
	if c.Forge.TokenFile == "" && c.Forge.WebhookSecretFile == "" {
		return bad("forge has neither tokenFile nor webhookSecretFile: nothing would be told to it, or heard from it", "set one, or both (docs/FORMATS.md)")
	}
	if c.Follow.Remote == "" {
		return bad("follow.remote is missing: a forge is of no use to a hub that follows no repository", "set it to the URL of the fleet's repository, or ci.remote")
	}
	_, err := forge.Open(forge.Config{Kind: c.Forge.Kind, URL: c.Forge.URL, API: c.Forge.API, Repo: c.Forge.Repo})
	var wrong *fleet.Error
	if errors.As(err, &wrong) {
		return bad("forge: "+wrong.What, cmp.Or(wrong.Hint, "kind, url and repo say where the repository is (docs/FORMATS.md)"))
	}
	return err
}

// FollowFrom is the remote with releases, and what lets us in: the forge's token where nothing else is said and the repository is at that forge.
func (c *Config[Cache, Notify]) FollowFrom() git.Remote {
	m := git.Remote{URL: c.Follow.Remote, CredentialsFile: c.Follow.CredentialsFile, SSHKeyFile: c.Follow.SSHKeyFile, KnownHostsFile: c.Follow.KnownHostsFile}
	if m.CredentialsFile == "" && c.Forge.URL != "" && strings.HasPrefix(m.URL, strings.TrimRight(c.Forge.URL, "/")+"/") {
		m.CredentialsFile = c.Forge.TokenFile
	}
	return m
}

// Scopes that a token may have. ScopeReport is followed by a colon and a host's name.
const (
	ScopePush    = "push"    // upload to the hub's cache, and read it
	ScopeCache   = "cache"   // everything with every cache of the hub
	ScopeWake    = "wake"    // have the hub look at git
	ScopeRead    = "read"    // runs, hosts, the whole stream; the hub's cache
	ScopeCI      = "ci"      // tell of runs of CI and of drills
	ScopeOperate = "operate" // test senders, forget a host
	ScopeRollout = "rollout" // order about the roll-out: promote, pause, freeze, abort
	ScopeReport  = "report"  // report:<host>: speak for that host, hear wakes, read the hub's cache
)

// Token is one entry of the tokens file; of the secret only the SHA-256 is known.
type Token struct {
	Name   string   `toml:"name"`
	SHA256 string   `toml:"sha256"` // 64 hex digits
	Scopes []string `toml:"scopes"`
}

// Tokens is the tokens file.
type Tokens struct {
	Token []Token `toml:"token"`

	scopes map[string][]string // by HashToken of the secret
}

// HashToken is what Token.SHA256 holds of a secret.
func HashToken(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// ReadTokens reads and checks a tokens file. Errors have CodeConfig.
func ReadTokens(path string) (Tokens, error) {
	var t Tokens
	if err := tomlfile.Read(path, &t); err != nil {
		return t, err
	}
	for _, k := range t.Token {
		if b, err := hex.DecodeString(k.SHA256); err != nil || len(b) != sha256.Size {
			return t, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: the sha256 of token %q is not 64 hex digits", path, k.Name).
				WithHint("printf %%s SECRET | sha256sum")
		}
		for _, s := range k.Scopes {
			kind, host, _ := strings.Cut(s, ":")
			if !slices.Contains([]string{ScopePush, ScopeCache, ScopeWake, ScopeRead, ScopeCI, ScopeOperate, ScopeRollout}, s) && (kind != ScopeReport || !fleet.ValidHostName(host)) {
				return t, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: token %q has the unknown scope %q", path, k.Name, s).
					WithHint("scopes are: push, cache, wake, read, ci, operate, rollout, report:<host>")
			}
		}
	}
	return t.indexed(), nil
}

// Scopes are those of the token with that secret; known is false when it is none of ours. They are found by the secret's hash: how long that takes
// tells of hashes alone, and nobody can choose a secret by those.
func (t Tokens) Scopes(secret string) (scopes []string, known bool) {
	if secret == "" {
		return nil, false
	}
	return t.ScopesOf(HashToken(secret))
}

// ScopesOf are those of the token whose secret has that hash, in small letters; known is false when it is none of ours.
func (t Tokens) ScopesOf(hash string) (scopes []string, known bool) {
	scopes, known = t.scopes[hash]
	return scopes, known
}

// NameOf is the name of the token whose secret has that hash; by its hash, if it has none.
func (t Tokens) NameOf(hash string) string {
	for _, k := range t.Token {
		if strings.EqualFold(k.SHA256, hash) && k.Name != "" {
			return k.Name
		}
	}
	return hash[:min(12, len(hash))]
}

// With returns t and one more token.
func (t Tokens) With(k Token) Tokens {
	t.Token = append(slices.Clip(t.Token), k)
	return t.indexed()
}

func (t Tokens) indexed() Tokens {
	t.scopes = make(map[string][]string, len(t.Token))
	for _, k := range t.Token {
		hash := strings.ToLower(k.SHA256)
		t.scopes[hash] = append(t.scopes[hash], k.Scopes...)
	}
	return t
}

// Bearer is the token of "Authorization: Bearer …", or the password of Basic.
func Bearer(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
