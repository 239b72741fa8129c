package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// noise makes a path that compresses to as many bytes as it has: what it repeats is larger than the window of the compression.
func noise(t testing.TB, dir string, size int) nar.PathInfo {
	t.Helper()
	block := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{byte(size >> 20)}).Read(block)
	content := bytes.Repeat(block, size/len(block)+1)[:size]
	base := fmt.Sprintf("%032d-noise", size)
	if err := os.WriteFile(filepath.Join(dir, base), content, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	archive := nar.NewWriter(sum)
	if err := archive.Regular(false, int64(size), bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return nar.PathInfo{StorePath: "/nix/store/" + base, NarHash: nar.Hash(sum.Sum(nil)), NarSize: int64(8*14 + size + (8-size%8)%8)}
}

// largeServer is one that takes large archives.
func largeServer(t testing.TB, wrap func(http.Handler) http.Handler) *cachetest.Server {
	return cachetest.Start(t, cache.Options{MaxNarBytes: 1 << 30}, wrap)
}

// TestPushThroughProxyWithBodyLimit: what a reverse proxy does not let through in one request goes in parts.
func TestPushThroughProxyWithBodyLimit(t *testing.T) {
	t.Parallel()
	s := largeServer(t, nil)
	u := lab.Nginx(t, `client_max_body_size 32m; location / { proxy_pass `+s.URL+`; }`)
	dir := t.TempDir()
	paths := []nar.PathInfo{noise(t, dir, 34<<20), noise(t, dir, 1<<20)}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, u+"/c/nar/"+paths[0].NarHash.Nix32()+".nar.zst", bytes.NewReader(make([]byte, 33<<20)))
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("the proxy has no limit: %s", res.Status)
	}
	var seen []client.Progress
	stats, err := newClient(t, u+"/c", cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir, Progress: func(p client.Progress) { seen = append(seen, p) }})
	if err != nil || stats.Pushed != 2 {
		t.Fatalf("%+v, %v", stats, err)
	}
	parts := 0
	for i, p := range seen {
		if p.StorePath == "" {
			parts++
		}
		if i > 0 && p.NarBytes < seen[i-1].NarBytes || p.NarBytes > p.NarTotal {
			t.Errorf("progress goes back, or too far: %+v", seen)
		}
	}
	if last := seen[len(seen)-1]; parts != 4 || last.Done != 2 || last.NarBytes != last.NarTotal { // the small archive; the beginning, and two parts
		t.Errorf("%d parts, %+v", parts, seen)
	}
	for _, p := range paths {
		if n, ok, err := s.Index.Nar(t.Context(), p.NarHash); err != nil || !ok || n.NarSize != p.NarSize {
			t.Errorf("%s: %+v, %v, %v", p.StorePath, n, ok, err)
		}
	}
	wantNoParts(t, s)
}

func wantNoParts(t *testing.T, s *cachetest.Server) {
	t.Helper()
	if err := s.Blobs.List(t.Context(), "part-", func(b cache.Blob) error { return errors.New(b.Key + " is left") }); err != nil {
		t.Error(err)
	}
	s.WantClean(t)
}

// TestPartsThatArrivedAreNotSentAgain kills the client's process after n of the two parts.
func TestPartsThatArrivedAreNotSentAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	paths := []nar.PathInfo{noise(t, dir, 34<<20)}
	for n := 1; n <= 2; n++ {
		kill := make(chan struct{})
		r := &recorder{after: n, then: func() { close(kill) }}
		s := largeServer(t, r.wrap)
		killed := aPush{s.CacheURL(), dir, paths}.command(t)
		temp := t.TempDir()
		killed.Env = append(killed.Env, "TMPDIR="+temp)
		check(t, killed.Start())
		<-kill
		check(t, killed.Process.Kill())
		if err := killed.Wait(); err == nil || killed.ProcessState.Exited() {
			t.Fatalf("it was not killed: %v", err)
		}
		if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
			t.Errorf("%v is left, %v", left, err)
		}
		r.settle(s)
		if out, err := (aPush{s.CacheURL(), dir, paths}).command(t).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(r.puts) != 3 { // two parts and the path
			t.Errorf("after %d: %v", n, r.puts)
		}
		for path, times := range r.puts {
			if times != 1 {
				t.Errorf("after %d parts: %s was sent %d times", n, path, times)
			}
		}
		if served(t, s, paths[0].StorePath) == nil {
			t.Error("it is not there")
		}
		wantNoParts(t, s)
	}
}

// TestDamagedParts: what was damaged on the server is found when the parts are put together, and sent anew.
func TestDamagedParts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	paths := []nar.PathInfo{noise(t, dir, 34<<20)}
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	r := &recorder{after: 1, then: kill}
	s := largeServer(t, r.wrap)
	if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(ctx, paths, client.PushOptions{RealStoreDir: dir}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	r.settle(s)
	replaced := 0
	err := s.Blobs.List(t.Context(), "part-", func(b cache.Blob) error {
		replaced++
		return s.Blobs.Put(t.Context(), b.Key, func(w io.Writer) error {
			_, err := w.Write(make([]byte, b.Size))
			return err
		})
	})
	if err != nil || replaced == 0 {
		t.Fatal(replaced, err)
	}
	if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	if served(t, s, paths[0].StorePath) == nil {
		t.Error("it is not there")
	}
	wantNoParts(t, s)
}

// TestFaultyUploadInParts: parts and their assembly are tried again like everything else.
func TestFaultyUploadInParts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	paths := []nar.PathInfo{noise(t, dir, 34<<20)}
	s := largeServer(t, func(h http.Handler) http.Handler { return &faulty{Handler: h, failures: 3} })
	c, err := client.New(client.Config{URL: s.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }, Attempts: 12})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		t.Fatal(err)
	}
	wantNoParts(t, s)
}

// withoutParts makes a server one from before there were parts, and paths that come together.
func withoutParts(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/uploads/") || strings.HasSuffix(r.URL.Path, "/paths") {
			r.URL.Path = "/no/such/thing/as/that"
		}
		h.ServeHTTP(w, r)
	})
}

// TestServerWithoutParts: one from before there were parts gets a large archive whole, and each path by itself.
func TestServerWithoutParts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	paths := []nar.PathInfo{noise(t, dir, 34<<20), noise(t, dir, 1000), noise(t, dir, 2000)}
	paths[1].References, paths[2].References = []string{paths[0].StorePath}, []string{paths[0].StorePath, paths[1].StorePath}
	asked := 0
	s := largeServer(t, func(h http.Handler) http.Handler {
		old := withoutParts(h)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/paths") {
				asked++
			}
			old.ServeHTTP(w, r)
		})
	})
	if _, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir, Parallel: 1}); err != nil || asked != 1 {
		t.Fatalf("%d times it was asked to take several, %v", asked, err)
	}
	for _, p := range paths {
		if served(t, s, p.StorePath) == nil {
			t.Errorf("%s is not there", p.StorePath)
		}
	}
}

// TestDamagedLargePath: what is damaged is found before any of it is sent.
func TestDamagedLargePath(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := noise(t, dir, 34<<20)
	f := filepath.Join(dir, filepath.Base(path.StorePath))
	if err := os.Truncate(f, 34<<20-1); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	s := largeServer(t, r.wrap)
	_, err := newClient(t, s.CacheURL(), cachetest.PushToken).Push(t.Context(), []nar.PathInfo{path}, client.PushOptions{RealStoreDir: dir})
	if err == nil || !strings.Contains(err.Error(), "is damaged") || r.n != 0 {
		t.Errorf("%d uploads, %v", r.n, err)
	}
}

// TestDamagedStreamedPath: what is compressed while it is sent is found to be damaged by the server, and nothing of it stays.
func TestDamagedStreamedPath(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(f string) error{
		"a bit":  func(f string) error { return flipBit(f, 12<<20) },
		"short":  func(f string) error { return os.Truncate(f, 12<<20) },
		"long":   func(f string) error { return os.Truncate(f, 30<<20) },
		"longer": func(f string) error { return os.Truncate(f, 40<<20) },
		"gone":   os.Remove,
		"a folder": func(f string) error {
			return errors.Join(os.Remove(f), os.Mkdir(f, 0o755), os.WriteFile(filepath.Join(f, "a"), make([]byte, 20<<20), 0o644))
		},
		"a socket after much": func(f string) error {
			if err := errors.Join(os.Remove(f), os.Mkdir(f, 0o755), os.WriteFile(filepath.Join(f, "a"), make([]byte, 10<<20), 0o644)); err != nil {
				return err
			}
			return unix.Mkfifo(filepath.Join(f, "b"), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			paths := []nar.PathInfo{noise(t, dir, 20<<20), noise(t, dir, 1000)}
			paths[1].References = []string{paths[0].StorePath}
			whole, damaged := paths[1], paths[0]
			check(t, damage(filepath.Join(dir, filepath.Base(damaged.StorePath))))
			s := largeServer(t, nil)
			c := newClient(t, s.CacheURL(), cachetest.PushToken)
			_, err := c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
			if fleet.CodeOf(err) != fleet.CodeState || fleet.ClassOf(err) != fleet.Local || !strings.Contains(fmt.Sprint(err, errors.Unwrap(err)), filepath.Base(damaged.StorePath)) {
				t.Errorf("%v", err)
			}
			for _, p := range paths {
				if served(t, s, p.StorePath) != nil {
					t.Errorf("%s is there", p.StorePath)
				}
			}
			s.WantClean(t)
			check(t, s.Blobs.List(t.Context(), "", func(b cache.Blob) error {
				if !strings.HasPrefix(b.Key, whole.NarHash.Nix32()) {
					t.Errorf("%s is stored", b.Key)
				}
				return nil
			}))
			if _, known, err := s.Index.Nar(t.Context(), damaged.NarHash); known || err != nil {
				t.Errorf("the damaged archive is known: %v, %v", known, err)
			}
		})
	}
}

func flipBit(file string, at int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	b[0] ^= 1
	_, werr := f.WriteAt(b, at)
	return errors.Join(err, werr, f.Close())
}
