package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// signingKey makes a key and a file with it.
func signingKey(t *testing.T, name string) (file string, public nar.PublicKey) {
	t.Helper()
	key := generateKey(t, name)
	file = filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key.Encode()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, key.Public()
}

// wantCopied has real Nix copy a path from a cache into a new store, which verifies signatures and hashes.
func wantCopied(t *testing.T, from, storePath string, trusted nar.PublicKey) {
	t.Helper()
	to := cachetest.NewStore(t)
	if _, err := to.TryNix(t, "copy", "--from", from, "--to", to.URL(), storePath); err == nil {
		t.Error("Nix takes it without the key")
	}
	to.Nix(t, "copy", "--from", from, "--to", to.URL(), "--option", "trusted-public-keys", trusted.String(), storePath)
	to.Nix(t, "store", "verify", "--recursive", "--no-trust", storePath)
}

// TestPlainCaches pushes to caches that are just files, whatever holds them, and has Nix read them.
func TestPlainCaches(t *testing.T) {
	t.Parallel()
	dav := `root $DIR/cache; location / { dav_methods PUT; create_full_put_path on; }`
	file, public := signingKey(t, "plain-1")
	for name, urls := range map[string]func(t *testing.T) (push, read string){
		"folder": func(t *testing.T) (string, string) {
			u := "file://" + filepath.Join(t.TempDir(), "a/b")
			return u + "?secret-key=" + file, u
		},
		"over HTTP": func(t *testing.T) (string, string) {
			u := lab.Nginx(t, dav)
			return "nix+" + u + "/deep/er?secret-key=" + file, u + "/deep/er"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := cachetest.NewStore(t)
			paths := store.BuildClosure(t, "plain "+name)
			top := paths[len(paths)-1].StorePath
			push, read := urls(t)
			c := newClient(t, push, "")
			if strings.Contains(c.URL(), "key") {
				t.Errorf("%s names the key", c.URL())
			}
			_, missing, err := c.Closure(t.Context(), []string{top})
			if err != nil || len(missing) != 1 {
				t.Fatalf("an empty cache misses %v, %v", missing, err)
			}
			stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()})
			if err != nil || stats.Pushed != len(paths) {
				t.Fatalf("%+v, %v", stats, err)
			}
			if again, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil || again.Pushed != 0 {
				t.Errorf("again: %+v, %v", again, err)
			}
			have, missing, err := c.Closure(t.Context(), []string{top})
			if err != nil || len(missing) != 0 || len(have) != len(paths) {
				t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
			}
			wantCopied(t, read, top, public)
		})
	}
}

// TestPlainCacheIsFound: an https URL may be of a plain cache; that it is one shows in its nix-cache-info.
func TestPlainCacheIsFound(t *testing.T) {
	t.Parallel()
	u := lab.Nginx(t, `root $DIR; location /cache/ { dav_methods PUT; create_full_put_path on; }`)
	dir, paths := store(t, 3)
	c := newClient(t, u+"/cache", "")
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); fleet.ClassOf(err) != fleet.Local {
		t.Errorf("what is no cache is pushed to: %v", err)
	}
	put(t, u+"/cache/nix-cache-info", "StoreDir: /nix/store\n")
	c = newClient(t, u+"/cache", "")
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || stats.Pushed != 3 {
		t.Fatalf("%+v, %v", stats, err)
	}
	put(t, u+"/cache/nix-cache-info", "StoreDir: /other/store\n")
	if _, more := store(t, 4); true {
		_, err = c.Push(t.Context(), more[:1], client.PushOptions{RealStoreDir: dir})
	}
	if fleet.CodeOf(err) != fleet.CodeInvalid || !strings.Contains(err.Error(), "/other/store") {
		t.Errorf("another store's cache: %v", err)
	}
}

func put(t *testing.T, url, content string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode > 299 {
		t.Fatal(res.Status)
	}
}

// TestPlainCacheNeverHoldsAHalf breaks a push to a plain cache off after n uploads, for every n: what can be seen is whole each
// time, and no archive is sent twice.
func TestPlainCacheNeverHoldsAHalf(t *testing.T) {
	t.Parallel()
	u := lab.Nginx(t, `root $DIR; location / { dav_methods PUT; create_full_put_path on; client_max_body_size 0; }`)
	target, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	dir, paths := store(t, 4)
	for n := 1; n <= 9; n++ { // nix-cache-info, and two for each path
		name := fmt.Sprintf("cache-%d", n)
		ctx, kill := context.WithCancel(t.Context())
		var mu sync.Mutex
		done, sent := 0, map[string]int{}
		proxy := httputil.NewSingleHostReverseProxy(target)
		proxy.ModifyResponse = func(r *http.Response) error {
			if r.Request.Method == http.MethodPut {
				mu.Lock()
				defer mu.Unlock()
				sent[r.Request.URL.Path]++
				if done++; done == n {
					kill()
				}
			}
			return nil
		}
		front := httptest.NewServer(proxy)
		_, err := newClient(t, "nix+"+front.URL+"/"+name, "").Push(ctx, paths, client.PushOptions{RealStoreDir: dir})
		if err != nil && !errors.Is(err, context.Canceled) || err == nil && n < 9 {
			t.Fatal(err)
		}
		c := newClient(t, "nix+"+front.URL+"/"+name, "")
		for _, p := range paths {
			have, missing, err := c.Closure(t.Context(), []string{p.StorePath})
			if err != nil || len(have) > 0 && len(missing) > 0 {
				t.Errorf("after %d uploads %s is there without %v: %v", n, p.StorePath, missing, err)
			}
		}
		if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
			t.Fatal(err)
		}
		for path, times := range sent {
			if times > 1 && strings.HasSuffix(path, ".nar.zst") {
				t.Errorf("%s was sent %d times", path, times)
			}
		}
		have, missing, err := c.Closure(t.Context(), []string{paths[0].StorePath})
		if err != nil || len(missing) != 0 || len(have) != 4 {
			t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
		}
		kill()
		front.Close()
	}
}

func TestFaultyPlainCache(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nix-cache-info"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := &faulty{failures: 3, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
			return
		}
		name := filepath.Join(dir, filepath.FromSlash(r.URL.Path))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Error(err)
		}
		f, err := os.CreateTemp(t.TempDir(), "")
		if err == nil {
			_, err = f.ReadFrom(r.Body)
		}
		if err != nil {
			return // the client went away
		}
		if err := os.Rename(f.Name(), name); err != nil {
			t.Error(err)
		}
	})}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{URL: "nix+" + s.URL, Attempts: 12})
	if err != nil {
		t.Fatal(err)
	}
	from, paths := store(t, 3)
	if stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: from}); err != nil || stats.Pushed != 3 {
		t.Fatalf("%+v, %v", stats, err)
	}
	have, missing, err := newClient(t, "file://"+dir, "").Closure(t.Context(), []string{paths[0].StorePath})
	if err != nil || len(missing) != 0 || len(have) != 3 {
		t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
	}
}
