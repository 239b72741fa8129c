package cli

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestServeUntil has a server told to stop while an upload is under way: that one is taken to its end, others are not let in.
func TestServeUntil(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	begun := make(chan struct{})
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n, err)
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	served := make(chan error, 1)
	go func() { served <- serveUntil(ctx, newServer(h, slog.New(slog.DiscardHandler)), l) }()

	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PUT / HTTP/1.1\r\nHost: c\r\nContent-Length: 10\r\n\r\n01234")
	<-begun
	stop()
	for { // until it listens no more
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		c.Close()
	}
	select {
	case err := <-served:
		t.Fatalf("it did not wait for the upload: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	fmt.Fprint(conn, "56789")
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200 ") || !strings.Contains(string(b), "10 <nil>") {
		t.Errorf("%q, %v", b, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestCacheServeTellsSystemd has the service manager told when the cache serves, and when it stops.
func TestCacheServeTellsSystemd(t *testing.T) {
	dir := t.TempDir()
	address := net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}
	manager, err := net.ListenUnixgram("unixgram", &address)
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", address.Name)
	told := func(want string) {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := manager.Read(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("%q, %v", b[:n], err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	a := &app{Stdio: Stdio{Out: io.Discard, Err: io.Discard}}
	go func() { ended <- a.runCache(ctx, CacheFile{Listen: "127.0.0.1:0", DataDir: dir}) }()
	told("READY=1")
	stop()
	told("STOPPING=1")
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestServeUntilTheListenerFails(t *testing.T) {
	t.Parallel()
	l, err := listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := serveUntil(t.Context(), newServer(http.NotFoundHandler(), slog.New(slog.DiscardHandler)), l); err == nil {
		t.Error("nothing is served, and nobody is told")
	}
}

func TestEitherToken(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	first := func(token string) (cache.Grant, error) {
		switch token {
		case "mine":
			return cache.Grant{ID: "mine"}, nil
		case "broken":
			return cache.Grant{}, broken
		}
		return cache.Grant{}, cache.ErrBadToken
	}
	either := eitherToken(first, &cache.TokenKeys{})
	if g, err := either("mine"); err != nil || g.ID != "mine" {
		t.Error(g, err)
	}
	if _, err := either("broken"); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := either("other"); !errors.Is(err, cache.ErrBadToken) {
		t.Error(err)
	}
}

// TestTwoServersShareABucketAndADatabase reads configurations of two servers, and has each see at once what the other did.
func TestTwoServersShareABucketAndADatabase(t *testing.T) {
	t.Parallel()
	var lab cachetest.Lab
	t.Cleanup(lab.Stop)
	dir, bucket := t.TempDir(), lab.Bucket(t)
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	url := write("url", lab.PostgresURL(t))
	secret := write("secret", base64.StdEncoding.EncodeToString(make([]byte, 32)))
	config := write("cache.toml", fmt.Sprintf(`
[cache]
name = "fleet"
tokenKeys = [%q]
[cache.s3]
endpoint = %q
bucket = %q
pathStyle = true
credentialsFile = %q
[cache.postgres]
urlFile = %q
`, secret, bucket.Endpoint, bucket.Bucket, bucket.CredentialsFile, url))
	var servers [2]*httptest.Server
	for i := range servers {
		c, err := ReadCacheFile(config)
		if err != nil {
			t.Fatal(err)
		}
		s, closeAll, err := openCache(t.Context(), c.Cache, filepath.Join(dir, fmt.Sprint("data", i)), cache.Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		servers[i] = httptest.NewServer(s.Handler())
		t.Cleanup(func() {
			servers[i].Close()
			if err := closeAll(); err != nil {
				t.Error(err)
			}
		})
	}
	key, err := cache.ReadTokenKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	g := cache.Grant{Subject: "t", ExpiresAt: time.Now().Add(time.Hour)}
	g.Allow("*", cache.Everything)
	token, err := key.Sign(&g, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	at := func(i int, name string) *client.Client {
		t.Helper()
		c, err := client.New(client.Config{URL: servers[i].URL + "/" + name, Token: func() (string, error) { return token, nil }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx := t.Context()
	if err := at(0, "team").Create(ctx, client.Settings{Keypair: "Generate"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, err := at(1, "team").Info(ctx); return err == nil })
	// Both have a key file for the declared cache; one of them made it, and both sign with its key.
	first, err := at(0, "fleet").Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := at(1, "fleet").Info(ctx); err != nil || second.PublicKey != first.PublicKey {
		t.Errorf("%s and %s, %v", first.PublicKey, second.PublicKey, err)
	}
	if err := at(1, "any").Revoke(ctx, g.ID, g.ExpiresAt); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { _, err := at(0, "team").Info(ctx); return fleet.CodeOf(err) == fleet.CodeUnauthorized })
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
}
