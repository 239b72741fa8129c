package cache_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func (g *guarded) Caches(ctx context.Context) ([]cache.Cache, error) { return g.real.Caches(ctx) }

func (g *guarded) Revoked(ctx context.Context) ([]string, error) { return g.real.Revoked(ctx) }

// signHS256 signs claims by hand, with the secret of tenants.
func signHS256(t *testing.T, claims any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	e := base64.RawURLEncoding
	text := e.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + e.EncodeToString(body)
	mac := hmac.New(sha256.New, []byte("garrison garrison garrison garrison"))
	mac.Write([]byte(text))
	return text + "." + e.EncodeToString(mac.Sum(nil))
}

func TestTokenKeys(t *testing.T) {
	t.Parallel()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	privatePEM, publicPEM := file("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(private)), file("PUBLIC KEY", public)
	secret := []byte(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	parse := func(b []byte) *cache.TokenKey {
		k, err := cache.ParseTokenKey(b)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		return k
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "short": []byte("c2hvcnQ="), "words": []byte("my secret!"), "junk PEM": []byte("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----"),
	} {
		if _, err := cache.ParseTokenKey(bad); err == nil {
			t.Errorf("%s is taken for a key", name)
		}
	}

	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", b, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write(publicPEM)
	keys, err := cache.OpenTokenKeys([]string{path})
	if err != nil {
		t.Fatal(err)
	}
	sign := func(k *cache.TokenKey) string {
		t.Helper()
		token, err := k.Sign(&cache.Grant{Subject: "s", ExpiresAt: time.Now().Add(time.Hour), Caches: cache.CacheGrants{{Pattern: "*", May: cache.Pull}}}, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	byRSA, bySecret := sign(parse([]byte(base64.StdEncoding.EncodeToString(privatePEM)))), sign(parse(secret))
	want := func(token string, good bool) {
		t.Helper()
		if g, err := keys.Grant(token); (err == nil) != good || good && g.Subject != "s" {
			t.Errorf("%+v, %v", g, err)
		}
	}
	want(byRSA, true)
	want(bySecret, false)
	// The public key is no secret, and must not be taken for one.
	if _, err := parse(publicPEM).Sign(&cache.Grant{}, time.Now()); fleet.CodeOf(err) != fleet.CodeKey {
		t.Error(err)
	}
	write(secret)
	want(bySecret, true)
	want(byRSA, false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Grant(bySecret); fleet.CodeOf(err) != fleet.CodeKey {
		t.Errorf("without its key: %v", err)
	}
	if _, err := cache.OpenTokenKeys([]string{path}); fleet.CodeOf(err) != fleet.CodeKey {
		t.Error(err)
	}
}
