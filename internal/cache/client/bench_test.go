package client_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// BenchmarkPushLarge pushes an archive of 256 MiB that does not compress: in parts, of which putting together is reported apart, and to a
// server without parts in one request.
func BenchmarkPushLarge(b *testing.B) {
	dir := b.TempDir()
	paths := []nar.PathInfo{noise(b, dir, 256<<20)}
	push := func(wrap func(http.Handler) http.Handler) float64 {
		s := largeServer(b, wrap)
		c, err := client.New(client.Config{URL: s.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if _, err := c.Push(b.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
			b.Fatal(err)
		}
		return time.Since(start).Seconds()
	}
	var parts, whole, together samples
	for b.Loop() {
		parts.add(push(func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				start := time.Now()
				h.ServeHTTP(w, r)
				if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/uploads/") {
					together.add(time.Since(start).Seconds())
				}
			})
		}))
		whole.add(push(withoutParts))
	}
	for unit, of := range map[string]samples{"parts-s": parts, "whole-s": whole, "together-s": together} {
		b.ReportMetric(of.median(), unit)
	}
}

// samples are what was measured in each round.
type samples []float64

func (s *samples) add(seconds float64) { *s = append(*s, seconds) }

func (s samples) median() float64 { return slices.Sorted(slices.Values(s))[len(s)/2] }

// BenchmarkPushClosure pushes 300 paths of 500 MB together, of text and of what does not compress, to a cache on loopback, and has
// nix copy put the same into a folder. The second push finds all there.
func BenchmarkPushClosure(b *testing.B) {
	store := cachetest.NewStore(b)
	var names []string
	src := b.TempDir()
	random := rand.NewChaCha8([32]byte{1})
	for i := range 300 {
		noise := make([]byte, 550_000)
		random.Read(noise)
		text := bytes.Repeat(fmt.Appendf(nil, "line %d of a text that compresses well\n", i), 28_000)
		name := filepath.Join(src, fmt.Sprintf("path-%d", i))
		if err := os.WriteFile(name, append(text, noise...), 0o600); err != nil {
			b.Fatal(err)
		}
		names = append(names, name)
	}
	list := store.Nix(b, "eval", "--impure", "--raw", "--expr", `toString (map (f: builtins.path { path = f; }) [ `+strings.Join(names, " ")+` ])`)
	var paths []nar.PathInfo
	for _, path := range strings.Fields(list) {
		paths = append(paths, store.Closure(b, path)...)
	}
	netrc := filepath.Join(b.TempDir(), "netrc")
	if err := os.WriteFile(netrc, []byte("machine 127.0.0.1 password "+cachetest.PushToken+"\n"), 0o600); err != nil {
		b.Fatal(err)
	}
	lab.EachStorage(b, func(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
		start := func() *cachetest.Server { return empty(b).Start(b, servers, cache.Options{MaxNarBytes: 64 << 20}) }
		var first, second, copied, byHTTP samples
		for b.Loop() {
			c, err := client.New(client.Config{URL: start().CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
			if err != nil {
				b.Fatal(err)
			}
			for _, of := range []*samples{&first, &second} {
				unix.Sync() // what others left to be written is not ours to wait for
				start := time.Now()
				if _, err := c.Push(b.Context(), paths, client.PushOptions{RealStoreDir: store.Dir()}); err != nil {
					b.Fatal(err)
				}
				of.add(time.Since(start).Seconds())
			}
			for to, of := range map[string]*samples{"file://" + b.TempDir(): &copied, start().CacheURL(): &byHTTP} {
				args := []string{"copy", "--no-check-sigs", "--option", "netrc-file", netrc, "--to", to + "?compression=zstd"}
				for _, p := range paths {
					args = append(args, p.StorePath)
				}
				unix.Sync()
				start := time.Now()
				store.Nix(b, args...)
				of.add(time.Since(start).Seconds())
			}
		}
		for unit, of := range map[string]samples{"push-s": first, "again-s": second, "nix-copy-file-s": copied, "nix-copy-http-s": byHTTP} {
			b.ReportMetric(of.median(), unit)
		}
	})
}
