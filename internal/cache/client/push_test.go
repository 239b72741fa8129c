package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

func newClient(t *testing.T, url, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: url, Token: func() (string, error) { return token + "\n", nil }, Attempts: 4})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// store makes a directory of n paths, each a file that refers to those before it, and describes them, last first.
func store(t *testing.T, n int) (dir string, paths []nar.PathInfo) {
	t.Helper()
	dir = t.TempDir()
	for i := range n {
		content := fmt.Sprintf("content of %d in %s\n", i, t.Name())
		base := fmt.Sprintf("%032d-path-%d", i, i)
		if err := os.WriteFile(filepath.Join(dir, base), []byte(content), 0o444); err != nil {
			t.Fatal(err)
		}
		info := describe(t, base, content)
		for _, p := range paths {
			info.References = append(info.References, p.StorePath)
		}
		paths = append([]nar.PathInfo{info}, paths...)
	}
	return dir, paths
}

func describe(t *testing.T, base, content string) nar.PathInfo {
	t.Helper()
	r, w := io.Pipe()
	go func() {
		archive := nar.NewWriter(w)
		archive.Regular(false, int64(len(content)), strings.NewReader(content))
		w.CloseWithError(archive.Close())
	}()
	checked, err := nar.Check(r, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return nar.PathInfo{StorePath: "/nix/store/" + base, NarHash: checked.Hash, NarSize: checked.Size}
}

func TestPush(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	c := newClient(t, s.CacheURL()+"/", cachetest.PushToken)
	dir, paths := store(t, 12)
	var seen []client.Progress
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir, Progress: func(p client.Progress) { seen = append(seen, p) }})
	if err != nil || stats.Pushed != 12 || stats.Paths != 12 || stats.NarBytes == 0 || len(stats.Differ) != 0 {
		t.Fatalf("%+v, %v", stats, err)
	}
	if last := seen[len(seen)-1]; len(seen) != 24 || last.Done != 12 || last.Total != 12 || last.NarBytes != stats.NarBytes { // archives, then paths
		t.Errorf("progress: %+v", seen)
	}
	for _, p := range paths {
		info := served(t, s, p.StorePath)
		if info == nil || !info.SignedBy(s.Key) || info.NarHash != p.NarHash {
			t.Errorf("%s: %+v", p.StorePath, info)
		}
	}
	again, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || again.Pushed != 0 {
		t.Errorf("%+v, %v", again, err)
	}
	info, err := c.Info(t.Context())
	if err != nil || info.Paths != 12 || info.NarBytes != stats.NarBytes || info.PublicKey != s.Key.String() {
		t.Errorf("%+v, %v", info, err)
	}
}

// served is what hosts get of a path, nil if it is not there.
func served(t *testing.T, s *cachetest.Server, path string) *nar.NarInfo {
	t.Helper()
	hash, err := nar.HashPart(path)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(s.CacheURL() + "/" + hash + ".narinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusNotFound {
		return nil
	}
	info, err := nar.ParseNarInfo(text)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestDamagedStoreIsFoundAndNotSpread(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"flipped": func(f string) error { return os.WriteFile(f, []byte("Content of 0 in "+t.Name()+"\n"), 0o600) },
		"shorter": func(f string) error { return os.Truncate(f, 3) },
		"mode":    func(f string) error { return os.Chmod(f, 0o755) },
		"gone":    os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			s := cachetest.NewServer(t, nil)
			dir, paths := store(t, 2)
			if err := os.Chmod(filepath.Join(dir, filepath.Base(paths[1].StorePath)), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := damage(filepath.Join(dir, filepath.Base(paths[1].StorePath))); err != nil {
				t.Fatal(err)
			}
			c := newClient(t, s.CacheURL(), cachetest.PushToken)
			_, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
			if fleet.CodeOf(err) != fleet.CodeState || fleet.ClassOf(err) != fleet.Local || !strings.Contains(err.Error(), paths[1].StorePath) && !strings.Contains(err.Error(), filepath.Base(paths[1].StorePath)) {
				t.Errorf("%v", err)
			}
			info, err := c.Info(t.Context())
			if err != nil || info.Paths != 0 {
				t.Errorf("%d paths were stored, %v", info.Paths, err)
			}
			s.WantClean(t)
		})
	}
}

// faulty makes every request fail until it was tried often enough, each in one of several ways.
type faulty struct {
	http.Handler
	n        atomic.Int64
	failures int64 // of so many requests all but the last fail
}

func (f *faulty) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := f.n.Add(1)
	if n%f.failures == 0 {
		f.Handler.ServeHTTP(w, r)
		return
	}
	switch n % 5 {
	case 0:
		w.WriteHeader(http.StatusServiceUnavailable)
	case 1:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusTooManyRequests)
	case 2:
		panic(http.ErrAbortHandler) // before anything was read
	case 3:
		f.Handler.ServeHTTP(httptest.NewRecorder(), r) // done, and the answer is lost
		panic(http.ErrAbortHandler)
	case 4:
		io.CopyN(io.Discard, r.Body, 10)
		panic(http.ErrAbortHandler)
	}
}

func TestTransientFailuresAreRetried(t *testing.T) {
	s := cachetest.NewServer(t, func(h http.Handler) http.Handler { return &faulty{Handler: h, failures: 3} })
	c, err := client.New(client.Config{URL: s.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }, Attempts: 12})
	if err != nil {
		t.Fatal(err)
	}
	dir, paths := store(t, 3)
	stats, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || stats.Pushed != 3 {
		t.Fatalf("%+v, %v", stats, err)
	}
	s.WantClean(t)
}

func TestLastingFailures(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	gone := httptest.NewServer(nil)
	gone.Close()
	status := func(code int, body string) string {
		h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}))
		t.Cleanup(h.Close)
		return h.URL + "/c"
	}
	dir, paths := store(t, 2)
	for name, c := range map[string]struct {
		url, token string
		class      fleet.Class
		code       fleet.Code
		text       string
	}{
		"unreachable":   {gone.URL + "/c", cachetest.PushToken, fleet.Transient, fleet.CodeCache, gone.URL},
		"wrong token":   {s.CacheURL(), "wrong", fleet.Local, fleet.CodeUnauthorized, "refuses the token"},
		"no token":      {s.CacheURL(), "", fleet.Local, fleet.CodeUnauthorized, "refuses the token"},
		"no such cache": {s.URL + "/d", cachetest.PushToken, fleet.Local, fleet.CodeNotFound, "no cache d"},
		"failing":       {status(500, ""), "", fleet.Transient, fleet.CodeCache, "fails"},
		"nonsense":      {status(200, "<html>"), "", fleet.Transient, fleet.CodeCache, "what a cache does not answer"},
		"forbidden":     {status(403, `{"message":"not you"}`), "", fleet.Local, fleet.CodeUnauthorized, "not you"},
	} {
		_, err := newClient(t, c.url, c.token).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
		if fleet.ClassOf(err) != c.class || fleet.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %s, %s, %v", name, fleet.ClassOf(err), fleet.CodeOf(err), err)
		}
		var told *fleet.Error
		if !errors.As(err, &told) || told.Hint == "" {
			t.Errorf("%s: no hint in %v", name, err)
		}
	}
}

func TestUnreadableTokenIsNotRetried(t *testing.T) {
	asked := 0
	c, err := client.New(client.Config{URL: "http://127.0.0.1:1/c", Token: func() (string, error) { asked++; return "", os.ErrNotExist }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Info(t.Context()); fleet.CodeOf(err) != fleet.CodeUnauthorized || asked != 1 {
		t.Errorf("%v after %d attempts", err, asked)
	}
}

func TestSomebodyElseWasFirst(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	dir, paths := store(t, 1)
	other := describe(t, filepath.Base(paths[0].StorePath), "built otherwise")
	otherDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(otherDir, filepath.Base(other.StorePath)), []byte("built otherwise"), 0o444); err != nil {
		t.Fatal(err)
	}
	// The other push comes between the question and the upload.
	pushed := false
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && !pushed {
			pushed = true
			if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(r.Context(), []nar.PathInfo{other}, client.PushOptions{RealStoreDir: otherDir}); err != nil {
				t.Error(err)
			}
		}
		s.Config.Handler.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	stats, err := newClient(t, proxy.URL+"/c", cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || len(stats.Differ) != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestSomebodyElseWasFirstWithOneOfMany: the others are stored.
func TestSomebodyElseWasFirstWithOneOfMany(t *testing.T) {
	dir, paths := store(t, 5)
	last := paths[4] // which all others refer to
	other := describe(t, filepath.Base(last.StorePath), "built otherwise")
	otherDir := t.TempDir()
	if err := os.WriteFile(filepath.Join(otherDir, filepath.Base(other.StorePath)), []byte("built otherwise"), 0o444); err != nil {
		t.Fatal(err)
	}
	together := 0
	var s *cachetest.Server
	s = cachetest.NewServer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/paths") {
				together++
				if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(r.Context(), []nar.PathInfo{other}, client.PushOptions{RealStoreDir: otherDir}); err != nil {
					t.Error(err)
				}
			}
			h.ServeHTTP(w, r)
		})
	})
	stats, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir, Parallel: 1})
	if err != nil || !slices.Equal(stats.Differ, []string{last.StorePath}) || stats.Pushed != 5 || together != 1 {
		t.Errorf("%+v, %d requests, %v", stats, together, err)
	}
	for _, p := range paths[:4] {
		if info := served(t, s, p.StorePath); info == nil || info.NarHash != p.NarHash {
			t.Errorf("%s: %+v", p.StorePath, info)
		}
	}
	if info := served(t, s, last.StorePath); info == nil || info.NarHash != other.NarHash {
		t.Errorf("what came first: %+v", info)
	}
}

func TestUnusablePaths(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	c := newClient(t, s.CacheURL(), cachetest.PushToken)
	_, paths := store(t, 2)
	circle := []nar.PathInfo{paths[0], paths[1]}
	circle[1].References = []string{circle[0].StorePath}
	for name, list := range map[string][]nar.PathInfo{
		"twice":  {paths[0], paths[0]},
		"bad":    {{StorePath: "/tmp/x"}},
		"circle": circle,
	} {
		if _, err := c.Push(t.Context(), list, client.PushOptions{}); fleet.CodeOf(err) != fleet.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if stats, err := c.Push(t.Context(), nil, client.PushOptions{}); err != nil || stats.Paths != 0 {
		t.Errorf("nothing to push: %+v, %v", stats, err)
	}
}

func TestCanceledPushSaysSo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := cachetest.NewServer(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut {
				cancel()
			}
			h.ServeHTTP(w, r)
		})
	})
	dir, paths := store(t, 3)
	if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(ctx, paths, client.PushOptions{RealStoreDir: dir}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestBadURLs(t *testing.T) {
	for _, u := range []string{"", "cache.example.org/c", "http://", "http://host", "http://host/", "ftp://host/c", "http://host/c?x=1", "://"} {
		if _, err := client.New(client.Config{URL: u}); fleet.CodeOf(err) != fleet.CodeConfig {
			t.Errorf("%q: %v", u, err)
		}
	}
	c, err := client.New(client.Config{URL: "https://host:1/sub/c/"})
	if err != nil || c.URL() != "https://host:1/sub/c" {
		t.Error(c.URL(), err)
	}
}
