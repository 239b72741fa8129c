package nix_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// served counts what a cache sends of its content.
type served struct {
	http.ResponseWriter
	bytes *atomic.Int64
}

func (s served) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	s.bytes.Add(int64(n))
	return n, err
}

// far is a cache that counts what it sends, by http and, with certificate, by https.
type far struct {
	*cachetest.Server
	tls         *httptest.Server
	certificate string
	top         string // a path whose closure does not compress
	sent        *atomic.Int64
}

func newFar(t testing.TB, count, size int) far {
	t.Helper()
	f := far{sent: new(atomic.Int64), certificate: filepath.Join(t.TempDir(), "ca.pem")}
	var handler http.Handler
	f.Server = cachetest.NewServer(t, func(h http.Handler) http.Handler {
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(served{w, f.sent}, r) })
		return handler
	})
	f.tls = httptest.NewTLSServer(handler)
	t.Cleanup(f.tls.Close)
	must(t, os.WriteFile(f.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.tls.Certificate().Raw}), 0o600))

	dir, random := t.TempDir(), rand.NewChaCha8([32]byte{})
	paths := make([]nar.PathInfo, count)
	for i := range paths {
		content := make([]byte, size)
		_, _ = random.Read(content)
		base := fmt.Sprintf("1%031d-large", i)
		must(t, os.WriteFile(filepath.Join(dir, base), content, 0o444))
		sum := sha256.New()
		archive := nar.NewWriter(sum)
		must(t, archive.Regular(false, int64(size), bytes.NewReader(content)))
		must(t, archive.Close())
		paths[i] = nar.PathInfo{StorePath: "/nix/store/" + base, NarHash: nar.Hash(sum.Sum(nil)), NarSize: int64(8*14 + (size+7)/8*8)}
	}
	top := &paths[count-1]
	for _, p := range paths[:count-1] {
		top.References = append(top.References, p.StorePath)
	}
	slices.Sort(top.References)
	f.top = top.StorePath
	c, err := client.New(client.Config{URL: f.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }})
	must(t, err)
	_, err = c.Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
	must(t, err)
	f.sent.Store(0)
	return f
}

// fetch has nix fetch the closure into an empty store.
func (f far) fetch(ctx context.Context, t testing.TB, n *nix.Nix, url string, rate int64) error {
	t.Helper()
	to := *n
	to.Store, to.Env = cachetest.NewStore(t).URL(), []string{"NIX_SSL_CERT_FILE=" + f.certificate}
	return to.Substitute(ctx, f.top, nix.Substitution{Caches: []string{url + "/c"}, PublicKeys: []string{f.Key.String()},
		Timeout: 10 * time.Minute, Root: filepath.Join(t.TempDir(), "gcroot"), Rate: rate})
}

// TestRate: what has a rate is no faster, whatever Nix it is, by how many connections it fetches, and whether they are encrypted.
func TestRate(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		const rate = 2_000_000
		f := newFar(t, 8, 512<<10)
		for _, url := range []string{f.URL, f.tls.URL} {
			f.sent.Store(0)
			began := time.Now()
			must(t, f.fetch(t.Context(), t, n, url, rate))
			took := time.Since(began).Seconds()
			if sent := f.sent.Load(); sent < 4<<20 || float64(sent)/took > 1.5*rate {
				t.Errorf("%s: %d bytes in %.2f s", url, sent, took)
			}
		}
	})
}

// TestRateIsOfOne: while one fetches slowly another is not kept back by that, and the slow one can be ended at any time.
func TestRateIsOfOne(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		f := newFar(t, 8, 512<<10)
		for _, url := range []string{f.URL, f.tls.URL} {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			f.sent.Store(0)
			ended := make(chan error, 1)
			go func() { ended <- f.fetch(ctx, t, n, url, 8_000) }() // nine minutes
			for f.sent.Load() < 64<<10 {
				select {
				case err := <-ended:
					t.Fatalf("%s: ended with %d bytes sent: %v", url, f.sent.Load(), err)
				case <-time.After(10 * time.Millisecond):
				}
			}
			must(t, f.fetch(t.Context(), t, n, url, 0))
			select {
			case err := <-ended:
				t.Fatalf("%s: the slow one was no slower: %v", url, err)
			default:
			}
			began := time.Now()
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", url, err)
			}
			t.Logf("%s: ended after %s", url, time.Since(began))
		}
		if err := f.fetch(t.Context(), t, n, "https://127.0.0.1:1", 8_000); err == nil || !strings.Contains(err.Error(), "connection refused") {
			t.Errorf("from where nobody listens: %v", err)
		}
	})
}

// BenchmarkPrefetch has nix fetch a closure of 100 MB in 20 paths, at 10 MB a second and as fast as it can. -benchtime 1x.
func BenchmarkPrefetch(b *testing.B) {
	for name, newest := range map[string]bool{"system": false, "newest": true} {
		b.Run(name, func(b *testing.B) {
			if newest {
				b.Setenv("PATH", nixtest.Newest(b)+":"+os.Getenv("PATH"))
			}
			n := nixtest.System(b)
			f := newFar(b, 20, 5_000_000)
			for b.Loop() {
				for unit, rate := range map[string]int64{"limited-MB/s": 10_000_000, "unlimited-MB/s": 0} {
					f.sent.Store(0)
					began := time.Now()
					must(b, f.fetch(b.Context(), b, n, f.URL, rate))
					b.ReportMetric(float64(f.sent.Load())/1e6/time.Since(began).Seconds(), unit)
				}
			}
		})
	}
}
