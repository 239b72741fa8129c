package hub

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the hub's file. Its table [cache] is for whoever wires the cache.
type Config[Cache any] struct {
	Listen  string `toml:"listen"`  // default 127.0.0.1:8420
	DataDir string `toml:"dataDir"` // default /var/lib/garrison-hub
	Tokens  string `toml:"tokens"`  // a file of its own, read again when it changes

	Cache Cache `toml:"cache"`

	// CI is built-in when Remote is set.
	CI struct {
		Remote         string            `toml:"remote"` // URL of the fleet's repository
		Poll           tomlfile.Duration `toml:"poll"`   // default 60s
		SigningKey     string            `toml:"signingKey"`
		AllowedSigners string            `toml:"allowedSigners"` // who may have signed earlier releases; default: signingKey
		SourceSigners  string            `toml:"sourceSigners"`  // who may have signed the commits; default: source.signers of the last release
		Identity       string            `toml:"identity"`       // private key that secrets on the source branch are readable with
	} `toml:"ci"`
}

// ReadConfig reads and checks the hub's file. Errors have CodeConfig.
func ReadConfig[Cache any](path string) (Config[Cache], error) {
	var c Config[Cache]
	if err := tomlfile.Read(path, &c); err != nil {
		return c, err
	}
	for s, def := range map[*string]string{&c.Listen: "127.0.0.1:8420", &c.DataDir: "/var/lib/garrison-hub"} {
		if *s == "" {
			*s = def
		}
	}
	c.CI.Poll = tomlfile.Duration(c.CI.Poll.Or(time.Minute))
	switch {
	case c.Tokens == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: tokens is missing", path).WithHint("set it to the file that lists the tokens (docs/FORMATS.md)")
	case c.CI.Remote != "" && c.CI.SigningKey == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: ci.signingKey is missing", path).WithHint("make one: ssh-keygen -t ed25519 -N '' -f FILE")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: listen %q is not host:port", path, c.Listen).WithCause(err)
	}
	return c, nil
}

// Scopes that a token may have. ScopeReport is followed by a colon and a host's name.
const (
	ScopePush   = "push"   // upload to the hub's cache, and read it
	ScopeCache  = "cache"  // everything with every cache of the hub
	ScopeWake   = "wake"   // have the hub look at git
	ScopeRead   = "read"   // runs, hosts, the whole stream; the hub's cache
	ScopeReport = "report" // report:<host>: speak for that host, hear wakes, read the hub's cache
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
			if !slices.Contains([]string{ScopePush, ScopeCache, ScopeWake, ScopeRead}, s) && (kind != ScopeReport || !fleet.ValidHostName(host)) {
				return t, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: token %q has the unknown scope %q", path, k.Name, s).
					WithHint("scopes are: push, cache, wake, read, report:<host>")
			}
		}
	}
	return t, nil
}

// Scopes are those of the token with that secret; known is false when it is none of ours. Every
// token is compared, in constant time.
func (t Tokens) Scopes(secret string) (scopes []string, known bool) {
	sum := []byte(HashToken(secret))
	for _, k := range t.Token {
		if subtle.ConstantTimeCompare(sum, []byte(strings.ToLower(k.SHA256))) == 1 && secret != "" {
			scopes, known = append(scopes, k.Scopes...), true
		}
	}
	return scopes, known
}

// With returns t and one more token.
func (t Tokens) With(k Token) Tokens {
	t.Token = append(slices.Clip(t.Token), k)
	return t
}

// bearer is the token of "Authorization: Bearer …", or the password of Basic.
func bearer(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(kind, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
