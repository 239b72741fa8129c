package cache_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// between stands between a cache and the one that it pulls from.
type between struct {
	nars, infos atomic.Int32
	mu          sync.Mutex
	fault       func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
}

func (b *between) set(fault func(w http.ResponseWriter, r *http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
}

func (b *between) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			switch {
			case strings.Contains(r.URL.Path, "/nar/"):
				b.nars.Add(1)
			case strings.HasSuffix(r.URL.Path, ".narinfo"):
				b.infos.Add(1)
			}
		}
		b.mu.Lock()
		fault := b.fault
		b.mu.Unlock()
		if fault == nil || !fault(w, r) {
			h.ServeHTTP(w, r)
		}
	})
}

// pulling starts an upstream cache and one that pulls from it.
func pulling(t *testing.T, resign bool) (up, down *cachetest.Server, b *between) {
	t.Helper()
	b = &between{}
	up = cachetest.NewServer(t, b.wrap)
	down = cachetest.NewServer(t, nil)
	setPull(t, down, cache.PullThrough{URL: up.CacheURL(), Keys: []string{up.Key.String()}, Resign: resign})
	return up, down, b
}

func setPull(t *testing.T, s *cachetest.Server, from ...cache.PullThrough) {
	t.Helper()
	must(t, s.Index.UpdateCache(t.Context(), "c", func(c *cache.Cache) error { c.PullThrough = from; return nil }))
	time.Sleep(1100 * time.Millisecond) // caches are read anew by then
}

// TestPullThrough has a real Nix fetch a closure from a cache that pulls it from another: the signature is the other's, nothing is fetched twice,
// and it goes on without the other.
func TestPullThrough(t *testing.T) {
	up, down, b := pulling(t, false)
	from, to, again := cachetest.NewStore(t), cachetest.NewStore(t), cachetest.NewStore(t)
	paths := from.BuildClosure(t, t.Name())
	top := paths[len(paths)-1].StorePath
	if _, err := newClient(t, up).Push(t.Context(), paths, client.PushOptions{RealStoreDir: from.Dir()}); err != nil {
		t.Fatal(err)
	}
	copyTo := func(s cachetest.Store, key nar.PublicKey) error {
		_, err := s.TryNix(t, "copy", "--from", down.CacheURL(), "--option", "trusted-public-keys", key.String(), top)
		return err
	}
	if err := copyTo(to, down.Key); err == nil || !strings.Contains(err.Error(), "signature") {
		t.Errorf("what comes from elsewhere is trusted by our key: %v", err)
	}
	must(t, copyTo(to, up.Key))
	to.Nix(t, "store", "verify", "--recursive", "--no-trust", top)
	asked, fetched := b.infos.Load(), b.nars.Load()
	if int(fetched) != len(paths) {
		t.Errorf("%d archives were fetched of %d paths", fetched, len(paths))
	}
	up.Close()
	must(t, copyTo(again, up.Key))
	if b.infos.Load() != asked || b.nars.Load() != fetched {
		t.Error("something was asked for again")
	}
	if stats, err := down.Index.Stats(t.Context(), "c"); err != nil || int(stats.Paths) != len(paths) {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestPullThroughResigned(t *testing.T) {
	up, down, _ := pulling(t, true)
	o := newObject(t, "hello", "hello")
	o.put(t, up)
	for range 2 { // before and after the archive is here
		a := call(t, down, "GET", "/c/"+o.hash+".narinfo", nil)
		a.want(t, 200, "StorePath: "+o.info.StorePath)
		info, err := nar.ParseNarInfo([]byte(a.body))
		must(t, err)
		if !info.SignedBy(up.Key) || !info.SignedBy(down.Key) || len(info.Sigs) != 2 {
			t.Errorf("signatures: %q", info.Sigs)
		}
		call(t, down, "GET", "/c/"+info.URL, nil).want(t, 200, string(o.file))
	}
}

func TestPulledOnlyOnceAtATime(t *testing.T) {
	up, down, b := pulling(t, false)
	o := newObject(t, "hello", strings.Repeat("hello ", 10_000))
	o.put(t, up)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			a := call(t, down, "GET", "/c/"+o.hash+".narinfo", nil)
			info, err := nar.ParseNarInfo([]byte(a.body))
			if err != nil {
				t.Error(err)
				return
			}
			call(t, down, "GET", "/c/"+info.URL, nil).want(t, 200, string(o.file))
		})
	}
	all.Wait()
	if b.infos.Load() > 2 || b.nars.Load() != 1 { // the second narinfo says where the archive is
		t.Errorf("asked %d times for the narinfo, %d times for the archive", b.infos.Load(), b.nars.Load())
	}
}

// TestPullRefuses: what is not signed by the key that is named for that cache, not whole, or not what it says, is not taken; what is here is served all the same.
func TestPullRefuses(t *testing.T) {
	other, err := nar.GenerateKey("c")
	must(t, err)
	up, down, b := pulling(t, false)
	own := newObject(t, "own", "own")
	own.put(t, down)
	base := newObject(t, "base", strings.Repeat("base ", 1000))
	app := newObject(t, "app", "app", base.info.StorePath)
	base.put(t, up)
	app.put(t, up)
	absent := func(what string) {
		t.Helper()
		if a := call(t, down, "GET", "/c/"+app.hash+".narinfo", nil); a.status != 404 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
		call(t, down, "GET", "/c/"+own.hash+".narinfo", nil).want(t, 200, "")
		if len(live(t, down.Index)) != 1 {
			t.Errorf("%s: something was noted", what)
		}
		down.Cache.ForgetPulls()
	}
	setPull(t, down, cache.PullThrough{URL: up.CacheURL(), Keys: []string{other.Public().String()}})
	absent("signed by another key")
	setPull(t, down, cache.PullThrough{URL: "http://127.0.0.1:1/c", Keys: []string{up.Key.String()}})
	absent("nobody answers")
	setPull(t, down, cache.PullThrough{URL: up.CacheURL(), Keys: []string{up.Key.String()}})
	for what, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"a reference is nowhere": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, base.hash) {
				w.WriteHeader(404)
				return true
			}
			return false
		},
		"it fails": func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(500); return true },
		"garbage":  func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write([]byte("<html>")); return true },
		"endless": func(w http.ResponseWriter, _ *http.Request) bool {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return true
				}
			}
		},
		"another path": func(w http.ResponseWriter, r *http.Request) bool {
			a := call(t, up, "GET", "/c/"+base.hash+".narinfo", nil, pullMark, "1")
			_, _ = w.Write([]byte(a.body))
			return true
		},
	} {
		b.set(func(w http.ResponseWriter, r *http.Request) bool {
			return r.Header.Get(pullMark) != "" && r.Header.Get("Authorization") == "" && fault(w, r)
		})
		absent(what)
	}

	// The description is good, and the archive is not.
	b.set(nil)
	a := call(t, down, "GET", "/c/"+base.hash+".narinfo", nil)
	a.want(t, 200, "")
	info, err := nar.ParseNarInfo([]byte(a.body))
	must(t, err)
	for what, fault := range map[string]func(w http.ResponseWriter){
		"corrupt": func(w http.ResponseWriter) { _, _ = w.Write(compress(t, []byte("something else"))) },
		"short":   func(w http.ResponseWriter) { _, _ = w.Write(base.file[:len(base.file)/2]) },
		"fails":   func(w http.ResponseWriter) { w.WriteHeader(503) },
	} {
		b.set(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/nar/") {
				fault(w)
				return true
			}
			return false
		})
		if a := call(t, down, "GET", "/c/"+info.URL, nil); a.status != 502 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
		down.WantClean(t)
		down.Cache.ForgetPulls()
	}
	b.set(nil)
	call(t, down, "GET", "/c/"+info.URL, nil).want(t, 200, string(base.file))
	call(t, down, "GET", "/c/nar/"+app.hash+"-"+base.info.NarHash.Nix32()+".nar.zst", nil).want(t, 200, "")
	call(t, down, "GET", "/c/nar/"+own.hash+"-"+app.info.NarHash.Nix32()+".nar.zst", nil).want(t, 404, "")
}

const pullMark = "Garrison-Pull"

// TestPullInACircle: two caches that pull from each other answer.
func TestPullInACircle(t *testing.T) {
	up, down, _ := pulling(t, false)
	setPull(t, up, cache.PullThrough{URL: down.CacheURL(), Keys: []string{down.Key.String()}})
	call(t, down, "GET", "/c/"+newObject(t, "a", "a").hash+".narinfo", nil).want(t, 404, "")
	o := newObject(t, "b", "b")
	o.put(t, down)
	call(t, up, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 200, "")
}

// TestPulledPathIsPushed: what was pulled becomes ours when somebody pushes it.
func TestPulledPathIsPushed(t *testing.T) {
	up, down, _ := pulling(t, false)
	o := newObject(t, "hello", "hello")
	o.put(t, up)
	call(t, down, "GET", "/c/"+o.hash+".narinfo", nil).want(t, 200, "")
	o.put(t, down)
	info, err := nar.ParseNarInfo([]byte(call(t, down, "GET", "/c/"+o.hash+".narinfo", nil).body))
	must(t, err)
	if !info.SignedBy(down.Key) {
		t.Errorf("signatures: %q", info.Sigs)
	}
}
