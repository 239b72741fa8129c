package cache

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// ErrBadToken is wrapped by what Options.Tokens returns of a token that is not valid: whoever brings it is treated as one without, and told why.
var ErrBadToken = errors.New("the token is not valid here")

// Tokens that Attic's atticadm makes are ours, and ours are Attic's: claims below this name, HS256 or RS256.
type claims struct {
	jwt.RegisteredClaims
	Attic struct {
		Caches CacheGrants `json:"caches"`
	} `json:"https://jwt.attic.rs/v1"`
}

const (
	// tokenLeeway is how far the clocks of who signs a token and of who reads it may differ.
	tokenLeeway = time.Minute
	// leastSecret is what RFC 7518 demands for HS256.
	leastSecret = 32
	maxKeyFile  = 64 << 10
)

// TokenKey verifies tokens, and signs them unless it is a public key.
type TokenKey struct {
	method jwt.SigningMethod
	verify any
	sign   any // nil for a public key
}

// ParseTokenKey reads a key: base64 of at least 32 bytes for HS256, or PEM of an RSA key (private or public) for RS256, or the base64
// of such PEM, as Attic has it.
func ParseTokenKey(text []byte) (*TokenKey, error) {
	trimmed := strings.TrimSpace(string(text))
	if !strings.HasPrefix(trimmed, "-----BEGIN") {
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(trimmed), ""))
		if err != nil {
			return nil, errors.New("it is neither base64 nor PEM")
		}
		if trimmed = string(b); !strings.HasPrefix(trimmed, "-----BEGIN") {
			if len(b) < leastSecret {
				return nil, fmt.Errorf("the secret has %d bytes, and needs at least %d", len(b), leastSecret)
			}
			return &TokenKey{method: jwt.SigningMethodHS256, verify: b, sign: b}, nil
		}
	}
	k := &TokenKey{method: jwt.SigningMethodRS256}
	public, err := jwt.ParseRSAPublicKeyFromPEM([]byte(trimmed))
	if err != nil {
		private, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(trimmed))
		if err != nil {
			return nil, errors.New("the PEM holds no RSA key")
		}
		k.sign, public = private, &private.PublicKey
	}
	if public.N.BitLen() < 2048 {
		return nil, fmt.Errorf("the RSA key has %d bits, and needs at least 2048", public.N.BitLen())
	}
	k.verify = public
	return k, nil
}

// ReadTokenKey is ParseTokenKey of a file. Errors have CodeKey.
func ReadTokenKey(path string) (*TokenKey, error) {
	f, err := os.Open(path)
	if err == nil {
		defer f.Close()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxKeyFile)); err == nil {
			var k *TokenKey
			if k, err = ParseTokenKey(b); err == nil {
				return k, nil
			}
		}
	}
	return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the key of tokens in %s cannot be used", path).WithCause(err).
		WithHint("it must hold base64 (openssl rand 64 | base64 -w0) for HS256, or an RSA key as PEM for RS256")
}

// Sign makes a token for g, valid from now on. It sets g.ID where it is empty, and returns it.
func (k *TokenKey) Sign(g *Grant, now time.Time) (string, error) {
	if k.sign == nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "a public key cannot sign tokens").WithHint("give the private key, or the secret")
	}
	if g.ID == "" {
		g.ID = strings.ToLower(rand.Text())
	}
	c := claims{RegisteredClaims: jwt.RegisteredClaims{ID: g.ID, Subject: g.Subject, NotBefore: jwt.NewNumericDate(now)}}
	if !g.ExpiresAt.IsZero() {
		c.ExpiresAt = jwt.NewNumericDate(g.ExpiresAt)
	}
	c.Attic.Caches = g.Caches
	return jwt.NewWithClaims(k.method, c).SignedString(k.sign)
}

// grant is what token allows, if this key signed it; else an error that is ErrBadToken.
func (k *TokenKey) grant(token string) (Grant, error) {
	var c claims
	_, err := jwt.NewParser(jwt.WithValidMethods([]string{k.method.Alg()}), jwt.WithLeeway(tokenLeeway), jwt.WithStrictDecoding()).
		ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return k.verify, nil })
	switch {
	case errors.Is(err, jwt.ErrTokenExpired):
		return Grant{}, fmt.Errorf("%w: it ended on %s", ErrBadToken, c.ExpiresAt.UTC().Format(time.DateTime))
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return Grant{}, fmt.Errorf("%w: it is valid from %s on", ErrBadToken, c.NotBefore.UTC().Format(time.DateTime))
	case err != nil:
		return Grant{}, ErrBadToken
	}
	return c.grant(token), nil
}

func (c *claims) grant(token string) Grant {
	g := Grant{ID: c.ID, Subject: c.Subject, Caches: c.Attic.Caches}
	if g.ID == "" {
		g.ID = anonymousID(token)
	}
	if c.ExpiresAt != nil {
		g.ExpiresAt = c.ExpiresAt.Time
	}
	return g
}

// anonymousID names a token that was given no id, as Attic's are: by the part of it that the signature protects.
func anonymousID(token string) string {
	sum := sha256.Sum256([]byte(token[:strings.LastIndex(token, ".")]))
	return "sha256-" + hex.EncodeToString(sum[:])
}

// PeekToken reads a token without verifying it, to learn its id and when it ends.
func PeekToken(token string) (Grant, error) {
	var c claims
	if _, _, err := jwt.NewParser(jwt.WithStrictDecoding()).ParseUnverified(token, &c); err != nil {
		return Grant{}, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "this is not a token of a cache").WithCause(err)
	}
	return c.grant(token), nil
}

// TokenKeys are keys in files, which are read again when they change.
type TokenKeys struct {
	files []*durable.Watched[*TokenKey]

	mu       sync.Mutex
	verified map[[sha256.Size]byte]verified // by the token's hash
}

// verified is a token that was good; verifying it takes longer than most requests.
type verified struct {
	grant Grant
	by    *TokenKey
}

// maxVerified bounds what is remembered.
const maxVerified = 10_000

// OpenTokenKeys reads the keys in files; all must be there now.
func OpenTokenKeys(files []string) (*TokenKeys, error) {
	t := &TokenKeys{}
	for _, f := range files {
		k := &durable.Watched[*TokenKey]{Path: f, Read: ReadTokenKey}
		if _, err := k.Get(); err != nil {
			return nil, err
		}
		t.files = append(t.files, k)
	}
	return t, nil
}

// Grant is an Options.Tokens: it is what a token allows that one of the keys signed.
func (t *TokenKeys) Grant(token string) (Grant, error) {
	sum := sha256.Sum256([]byte(token))
	t.mu.Lock()
	before, known := t.verified[sum]
	t.mu.Unlock()
	bad, failed := ErrBadToken, error(nil)
	for _, file := range t.files {
		k, err := file.Get()
		if err != nil {
			failed = err
			continue
		}
		if known && before.by == k && !before.grant.ended(time.Now()) {
			return before.grant, nil
		}
		g, err := k.grant(token)
		if err == nil {
			t.remember(sum, verified{g, k})
			return g, nil
		}
		if err != ErrBadToken { // this key signed it, and says what is wrong besides
			bad = err
		}
	}
	if failed != nil {
		return Grant{}, failed
	}
	return Grant{}, bad
}

func (t *TokenKeys) remember(sum [sha256.Size]byte, v verified) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.verified == nil || len(t.verified) >= maxVerified {
		t.verified = map[[sha256.Size]byte]verified{}
	}
	t.verified[sum] = v
}

// ended says whether the token's time is over, the leeway of clocks included.
func (g Grant) ended(now time.Time) bool {
	return !g.ExpiresAt.IsZero() && now.After(g.ExpiresAt.Add(tokenLeeway))
}
