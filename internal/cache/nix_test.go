package cache_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/cache/s3"
	"github.com/garrison-nix/garrison/internal/nar"
)

func newClient(t testing.TB, s *cachetest.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNixReadsWhatWasPushed pushes real store paths and lets Nix fetch them into an empty store, checking signatures.
func TestNixReadsWhatWasPushed(t *testing.T) {
	from, to := cachetest.NewStore(t), cachetest.NewStore(t)
	server := cachetest.NewServer(t, nil)
	paths := from.BuildClosure(t, t.Name())
	stats, err := newClient(t, server).Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()})
	if err != nil || stats.Pushed != len(paths) {
		t.Fatal(stats, err)
	}
	server.WantClean(t)
	top := paths[len(paths)-1].StorePath
	to.Nix(t, "copy", "--from", server.CacheURL(), "--option", "trusted-public-keys", server.Key.String(), top)
	to.Nix(t, "store", "verify", "--recursive", "--no-trust", top)
	if got := to.Closure(t, top); len(got) != len(paths) {
		t.Errorf("%d paths arrived, %d were pushed", len(got), len(paths))
	}
	for _, p := range to.Closure(t, top) {
		if !p.SignedBy(server.Key) {
			t.Errorf("%s arrived without the cache's signature", p.StorePath)
		}
	}
}

// TestNixIsSentToTheBucket: archives come from the bucket itself, at the address that clients know it by.
func TestNixIsSentToTheBucket(t *testing.T) {
	t.Parallel()
	bucket, fetched := lab.Bucket(t), atomic.Int32{}
	target, err := url.Parse(bucket.Endpoint)
	check(t, err)
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host }}
	public := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fetched.Add(1)
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(public.Close)
	bucket.PublicEndpoint = public.URL
	blobs, err := s3.Open(t.Context(), bucket)
	check(t, err)
	from, to := cachetest.NewStore(t), cachetest.NewStore(t)
	server := cachetest.Start(t, cache.Options{Blobs: blobs}, nil)
	paths := from.BuildClosure(t, t.Name())
	_, err = newClient(t, server).Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()})
	check(t, err)
	if n := fetched.Load(); n != 0 {
		t.Errorf("pushing made %d requests at the address for clients", n)
	}
	top := paths[len(paths)-1].StorePath
	to.Nix(t, "copy", "--from", server.CacheURL(), "--option", "trusted-public-keys", server.Key.String(), top)
	to.Nix(t, "store", "verify", "--recursive", "--no-trust", top)
	if n := fetched.Load(); int(n) != len(paths) {
		t.Errorf("%d archives came from the bucket, of %d", n, len(paths))
	}
}

func TestNixRefusesAnotherKey(t *testing.T) {
	from, to := cachetest.NewStore(t), cachetest.NewStore(t)
	server := cachetest.NewServer(t, nil)
	paths := from.BuildClosure(t, t.Name())
	if _, err := newClient(t, server).Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()}); err != nil {
		t.Fatal(err)
	}
	other, err := nar.GenerateKey("c")
	if err != nil {
		t.Fatal(err)
	}
	_, err = to.TryNix(t, "copy", "--from", server.CacheURL(), "--option", "trusted-public-keys", other.Public().String(), paths[len(paths)-1].StorePath)
	if err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("Nix took a path that is signed by a key it does not trust: %v", err)
	}
}

// TestNixSeesLostContentAsAbsent removes an archive behind the server's back: its
// path must not be answered, and pushing again must heal it.
func TestNixSeesLostContentAsAbsent(t *testing.T) {
	from, to := cachetest.NewStore(t), cachetest.NewStore(t)
	server := cachetest.NewServer(t, nil)
	c := newClient(t, server)
	paths := from.BuildClosure(t, t.Name())
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(server.BlobFile(t, paths[0].NarHash)); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(server.BlobFile(t, paths[1].NarHash), 10); err != nil {
		t.Fatal(err)
	}
	top := paths[len(paths)-1].StorePath
	args := []string{"copy", "--from", server.CacheURL(), "--option", "trusted-public-keys", server.Key.String(), top}
	if _, err := to.TryNix(t, args...); err == nil {
		t.Error("Nix copied a closure whose content is lost")
	}
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()})
	if err != nil || stats.Pushed != 2 {
		t.Fatal(stats, err)
	}
	to.Nix(t, args...)
}

// TestArchiveIsTheOneThatNixMakes compares with what Nix recorded, for every kind of file.
func TestArchiveIsTheOneThatNixMakes(t *testing.T) {
	from, to := cachetest.NewStore(t), cachetest.NewStore(t)
	server := cachetest.NewServer(t, nil)
	tree := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "empty", "a", "a/deeper"} {
		if err := os.Mkdir(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, mode := range map[string]os.FileMode{"a.b": 0o644, "a/x": 0o755, "a/deeper/none": 0o444, "a-b": 0o711, "no\xfftext": 0o600, "Z": 0o654} {
		content := strings.Repeat(name, 20_000)
		if strings.HasSuffix(name, "none") {
			content = ""
		}
		if err := os.WriteFile(filepath.Join(tree, name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere/at all", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	added := strings.TrimSpace(from.Nix(t, "store", "add-path", tree))
	paths := from.Closure(t, added)
	if _, err := newClient(t, server).Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()}); err != nil {
		t.Fatal(err)
	}
	to.Nix(t, "copy", "--from", server.CacheURL(), "--option", "trusted-public-keys", server.Key.String(), added)
	to.Nix(t, "store", "verify", "--no-trust", added)
}
