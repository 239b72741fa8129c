package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// recorder counts what reached the server and was done there, and has something happen after so many uploads.
type recorder struct {
	http.Handler
	after int    // uploads
	then  func() // may be nil

	mu     sync.Mutex
	posts  int
	gets   int
	puts   map[string]int   // how often each upload was done
	bytes  map[string]int64 // of what was uploaded
	n      int
	active atomic.Int64 // requests
}

func (r *recorder) wrap(h http.Handler) http.Handler {
	r.Handler, r.puts, r.bytes = h, map[string]int{}, map[string]int64{}
	return r
}

// settle waits until the server has dealt with what it received of a client that is no more, and forgets what it has not read yet.
func (r *recorder) settle(s *cachetest.Server) {
	s.CloseClientConnections()
	for r.active.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
}

type keptBody struct {
	io.ReadCloser
	b bytes.Buffer
}

func (k *keptBody) Read(b []byte) (int, error) {
	n, err := k.ReadCloser.Read(b)
	k.b.Write(b[:n])
	return n, err
}

// uploads are what a request sends, by its path: several paths' descriptions may come together.
func uploads(req *http.Request, body []byte) map[string]int64 {
	prefix, together := strings.CutSuffix(req.URL.Path, "/paths")
	if !together {
		return map[string]int64{req.URL.Path: int64(len(body))}
	}
	var q struct {
		NarInfos []string `json:"narinfos"`
	}
	of := map[string]int64{}
	if err := json.Unmarshal(body, &q); err != nil {
		return of
	}
	for _, text := range q.NarInfos {
		if info, err := nar.ParseNarInfo([]byte(text)); err == nil {
			of["/"+path.Base(prefix)+"/"+path.Base(info.StorePath)[:32]+".narinfo"] = int64(len(text))
		}
	}
	return of
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.active.Add(1)
	defer r.active.Add(-1)
	body := &keptBody{ReadCloser: req.Body}
	req.Body = body
	answer := httptest.NewRecorder()
	r.Handler.ServeHTTP(answer, req)
	r.mu.Lock()
	switch {
	case req.Method == http.MethodPost && !strings.HasSuffix(req.URL.Path, "/paths"):
		r.posts++
	case req.Method == http.MethodGet:
		r.gets++
	case answer.Code == http.StatusOK:
		before := r.n
		for path, size := range uploads(req, body.b.Bytes()) {
			r.puts[path]++
			r.bytes[path] += size
			r.n++
		}
		if before < r.after && r.n >= r.after && r.then != nil {
			r.then()
		}
	}
	r.mu.Unlock()
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func TestPushAsksOnceAndSendsOnce(t *testing.T) {
	r := &recorder{}
	s := cachetest.NewServer(t, r.wrap)
	dir, paths := store(t, 12)
	c := newClient(t, s.CacheURL(), cachetest.PushToken)
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	if r.posts != 1 || r.gets != 0 || len(r.puts) != 24 {
		t.Errorf("%d queries, %d other questions, %d uploads of 12 paths", r.posts, r.gets, len(r.puts))
	}
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	if r.posts != 2 || r.gets != 0 || r.n != 24 {
		t.Errorf("again: %d queries, %d other questions, %d uploads", r.posts, r.gets, r.n)
	}
}

// TestSameContentIsSentOnce: many paths of a system are the same file.
func TestSameContentIsSentOnce(t *testing.T) {
	r := &recorder{}
	s := cachetest.NewServer(t, r.wrap)
	dir := t.TempDir()
	var paths []nar.PathInfo
	for i := range 5 {
		info := describe(t, fmt.Sprintf("%032d-same", i), "same")
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(info.StorePath)), []byte("same"), 0o444); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			info.References = []string{paths[i-1].StorePath}
		}
		paths = append(paths, info)
	}
	stats, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	if err != nil || stats.Pushed != 5 || r.n != 6 {
		t.Errorf("%+v, %d uploads, %v", stats, r.n, err)
	}
	for _, p := range paths {
		if served(t, s, p.StorePath) == nil {
			t.Errorf("%s is not there", p.StorePath)
		}
	}
}

// TestInterruptedPushGoesOn ends the client after n uploads, for every n: the next push sends what is left, and nothing twice.
func TestInterruptedPushGoesOn(t *testing.T) {
	dir, paths := store(t, 6)
	var whole int64
	for n := 12; n > 0; n-- {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			ctx, kill := context.WithCancel(t.Context())
			defer kill()
			r := &recorder{after: n, then: kill}
			s := cachetest.NewServer(t, r.wrap)
			_, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(ctx, paths, client.PushOptions{RealStoreDir: dir})
			if err != nil && !errors.Is(err, context.Canceled) || err == nil && n < 12 {
				t.Fatal(err)
			}
			r.settle(s)
			s.WantClean(t)
			_, err = newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			var bytes int64
			for path, times := range r.puts {
				if times != 1 {
					t.Errorf("%s was sent %d times", path, times)
				}
				bytes += r.bytes[path]
			}
			if n == 12 {
				whole = bytes
			}
			if len(r.puts) != 12 || bytes != whole {
				t.Errorf("%d uploads of %d bytes, not 12 of %d", len(r.puts), bytes, whole)
			}
			have, missing, err := newClient(t, s.CacheURL(), "").Closure(t.Context(), []string{paths[0].StorePath})
			if err != nil || len(missing) != 0 || len(have) != 6 {
				t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
			}
		})
	}
}

// TestUpstreamPathsAreNotSent: only what the cache's upstreams really signed is left to them.
func TestUpstreamPathsAreNotSent(t *testing.T) {
	r := &recorder{}
	s := cachetest.NewServer(t, r.wrap)
	up, impostor := generateKey(t, "up"), generateKey(t, "up")
	s.Cache.Upstreams = []nar.PublicKey{up.Public()}
	dir, paths := store(t, 8) // paths[0] refers to all others, and so on
	for i, key := range map[int]*nar.PrivateKey{7: up, 6: up, 5: up, 4: impostor, 2: generateKey(t, "other"), 1: up} {
		paths[i].Sigs = []string{key.Sign(paths[i].Fingerprint())}
	}
	var last client.Progress
	stats, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths,
		client.PushOptions{RealStoreDir: dir, Progress: func(p client.Progress) { last = p }})
	if err != nil || stats.Upstream != 4 || stats.Pushed != 4 || last.Done != 8 || last.Total != 8 || last.NarBytes != stats.NarBytes || last.NarTotal != last.NarBytes {
		t.Fatalf("%+v, %+v, %v", stats, last, err)
	}
	for i, p := range paths {
		upstream := slices.Contains([]int{7, 6, 5, 1}, i)
		sent := r.puts["/c/nar/"+p.NarHash.Nix32()+".nar.zst"] == 1
		if sent == upstream || (served(t, s, p.StorePath) != nil) == upstream {
			t.Errorf("path %d: archive sent: %v", i, sent)
		}
	}
	uploads := r.n
	if again, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil || again.Upstream+again.Pushed != 0 || r.n != uploads {
		t.Errorf("again: %+v, %d uploads, %v", again, r.n-uploads, err)
	}
	have, missing, err := newClient(t, s.CacheURL(), "").Closure(t.Context(), []string{paths[0].StorePath})
	if err != nil || len(missing) != 0 || len(have) != 8 || !slices.ContainsFunc(have, func(p nar.PathInfo) bool {
		return p.NarSize == paths[7].NarSize && strings.HasSuffix(p.StorePath, "-path-0")
	}) {
		t.Errorf("%d paths, missing %v, %v", len(have), missing, err)
	}
}

func generateKey(t *testing.T, name string) *nar.PrivateKey {
	t.Helper()
	k, err := nar.GenerateKey(name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
