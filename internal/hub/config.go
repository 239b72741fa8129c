package hub

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// Config is the hub's file.
type Config struct {
	Listen  string `toml:"listen"`  // default 127.0.0.1:8420
	DataDir string `toml:"dataDir"` // default /var/lib/garrison-hub
	Tokens  string `toml:"tokens"`  // a file of its own, read again when it changes

	Cache struct {
		Name string `toml:"name"` // default "fleet"
		// Upstreams are public keys: what these caches signed is not kept here, hosts fetch it from there.
		// Default: cache.nixos.org's; none when the list is there and empty.
		Upstreams []string `toml:"upstreams"`
	} `toml:"cache"`

	// CI is built-in when Remote is set.
	CI struct {
		Remote         string            `toml:"remote"` // URL of the fleet's repository
		Poll           tomlfile.Duration `toml:"poll"`   // default 60s
		SigningKey     string            `toml:"signingKey"`
		AllowedSigners string            `toml:"allowedSigners"` // who may have signed earlier releases; default: signingKey
		Identity       string            `toml:"identity"`       // private key that secrets on the source branch are readable with
	} `toml:"ci"`
}

// nixosKey is the key of cache.nixos.org, which NixOS trusts unless it is told otherwise.
const nixosKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="

// ReadConfig reads and checks the hub's file. Errors have CodeConfig.
func ReadConfig(path string) (Config, error) {
	var c Config
	if err := tomlfile.Read(path, &c); err != nil {
		return c, err
	}
	for s, def := range map[*string]string{&c.Listen: "127.0.0.1:8420", &c.DataDir: "/var/lib/garrison-hub", &c.Cache.Name: "fleet"} {
		if *s == "" {
			*s = def
		}
	}
	if c.Cache.Upstreams == nil {
		c.Cache.Upstreams = []string{nixosKey}
	}
	c.CI.Poll = tomlfile.Duration(c.CI.Poll.Or(time.Minute))
	switch {
	case c.Tokens == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: tokens is missing", path).WithHint("set it to the file that lists the tokens (docs/FORMATS.md)")
	case c.CI.Remote != "" && c.CI.SigningKey == "":
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: ci.signingKey is missing", path).WithHint("make one: ssh-keygen -t ed25519 -N '' -f FILE")
	}
	if _, err := c.UpstreamKeys(); err != nil {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: cache.upstreams: %v", path, err).
			WithHint("list public keys as nix.conf's trusted-public-keys does: name:base64")
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return c, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: listen %q is not host:port", path, c.Listen).WithCause(err)
	}
	return c, nil
}

// UpstreamKeys are Cache.Upstreams, read.
func (c Config) UpstreamKeys() ([]nar.PublicKey, error) {
	var keys []nar.PublicKey
	for _, s := range c.Cache.Upstreams {
		k, err := nar.ParsePublicKey(s)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// Scopes that a token may have. ScopeReport is followed by a colon and a host's name.
const (
	ScopePush   = "push"   // upload to the cache
	ScopeWake   = "wake"   // have the hub look at git
	ScopeRead   = "read"   // runs, hosts, the whole stream
	ScopeReport = "report" // report:<host>: speak for that host, hear wakes
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
			if !slices.Contains([]string{ScopePush, ScopeWake, ScopeRead}, s) && (kind != ScopeReport || !fleet.ValidHostName(host)) {
				return t, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: token %q has the unknown scope %q", path, k.Name, s).
					WithHint("scopes are: push, wake, read, report:<host>")
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

// TokenFile is a tokens file that is read again when it changes.
type TokenFile struct {
	Path string

	mu     sync.Mutex
	info   os.FileInfo
	tokens Tokens
}

// Tokens are those in the file now. Errors have CodeConfig.
func (f *TokenFile) Tokens() (Tokens, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.Path) // before it is read: of a change in between, the next call learns
	if err == nil && f.info != nil && os.SameFile(info, f.info) && info.ModTime().Equal(f.info.ModTime()) && info.Size() == f.info.Size() {
		return f.tokens, nil
	}
	t, err := ReadTokens(f.Path)
	if err == nil && time.Since(info.ModTime()) > settled {
		f.info, f.tokens = info, t
	}
	return t, err
}

// settled is the age from which on a file's time is believed: a second write within the same tick of the clock would not show.
const settled = 2 * time.Second

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
