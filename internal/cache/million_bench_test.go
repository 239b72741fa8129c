package cache_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/nar"
)

const million = 1_000_000

// millionPath is the hash part of the nth path.
func millionPath(n int) string {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return nar.Hash(sum).Nix32()[20:]
}

// fillMillion writes a cache of a million paths, each with ten references to earlier ones, past the server. They all have the same content, which is there.
func fillMillion(b *testing.B, s *cachetest.Storage, blob string, size int64) {
	b.Helper()
	hashes, day := make([]string, million), time.Now().Unix()/86400*86400
	for i := range hashes {
		hashes[i] = millionPath(i)
	}
	s.Fill(b, million, func(i int) cachetest.Row {
		random := rand.New(rand.NewPCG(1, uint64(i)))
		content := nar.Hash(sha256.Sum256([]byte(hashes[i])))
		info := nar.NarInfo{PathInfo: nar.PathInfo{StorePath: "/nix/store/" + hashes[i] + "-some-package-1.2.3", NarHash: content, NarSize: 5000}, URL: "nar/x", Compression: "zstd"}
		for range min(i, 10) {
			info.References = append(info.References, "/nix/store/"+hashes[random.IntN(i)]+"-some-package-1.2.3")
		}
		slices.Sort(info.References)
		info.References = slices.Compact(info.References)
		return cachetest.Row{
			Nar:  cache.Nar{NarHash: content, NarSize: 5000, FileHash: content, FileSize: size, Blob: blob},
			Path: cache.Path{StorePath: info.StorePath, NarInfo: info.Encode()}, At: day - int64(random.IntN(365))*86400,
		}
	})
}

// BenchmarkMillionPaths is a cache of a million paths, of synthetic metadata: how soon it answers after a restart, how long a narinfo
// takes that was not asked for lately, what a collection's plan takes. -benchtime 1x.
func BenchmarkMillionPaths(b *testing.B) { lab.EachStorage(b, millionPaths) }

func millionPaths(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
	const blob, content = "some-blob.nar.zst", "content"
	storage := empty(b)
	s := storage.Start(b, servers, cache.Options{})
	if err := s.Cache.Blobs.Put(b.Context(), blob, func(w io.Writer) error { _, err := io.WriteString(w, content); return err }); err != nil {
		b.Fatal(err)
	}
	fillMillion(b, storage, blob, int64(len(content)))
	get := func(url string) time.Duration {
		start := time.Now()
		res, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(text), "Sig: c-") {
			b.Fatal(res.Status, err)
		}
		return time.Since(start)
	}
	b.Run("restart", func(b *testing.B) {
		for b.Loop() {
			var all []float64
			for i := range 5 {
				start := time.Now()
				blobs, index, end := storage.Open(b)
				h := httptest.NewServer(cache.New(cache.Options{Blobs: blobs, Index: index, Alone: storage.Dir != ""}).Handler())
				get(fmt.Sprintf("%s/c/%s.narinfo", h.URL, millionPath(i)))
				all = append(all, time.Since(start).Seconds())
				h.Close()
				end()
			}
			b.ReportMetric(median(all), "first-answer-s")
		}
	})
	b.Run("narinfo", func(b *testing.B) {
		for b.Loop() {
			var all []float64
			for range 20_000 {
				all = append(all, get(fmt.Sprintf("%s/c/%s.narinfo", s.URL, millionPath(rand.IntN(million)))).Seconds()*1000)
			}
			slices.Sort(all)
			b.ReportMetric(median(all), "p50-ms")
			b.ReportMetric(all[len(all)*99/100], "p99-ms")
		}
	})
	b.Run("plan", func(b *testing.B) {
		for b.Loop() {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			start := time.Now()
			p, err := s.Cache.PlanCollection(b.Context(), "c", cache.Retention{Unused: 30 * 24 * time.Hour})
			if err != nil || p.Paths != million || len(p.Delete) == 0 {
				b.Fatal(err)
			}
			b.ReportMetric(time.Since(start).Seconds(), "plan-s")
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heap-MB")
			b.ReportMetric(float64(len(p.Delete)), "to-delete")
		}
	})
	b.Run("stats", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Cache.Index.Stats(b.Context(), "c"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
