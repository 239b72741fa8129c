package cache_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/nar"
)

// everything are Blobs that have whatever is asked for, with the size that all have.
type everything struct{ cache.Blobs }

const everySize = 1234

func (everything) Stat(context.Context, string) (int64, bool, error) { return everySize, true, nil }

const million = 1_000_000

// millionPath is the hash part of the nth path.
func millionPath(n int) string {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(n)))
	return nar.Hash(sum).Nix32()[20:]
}

// fillMillion writes a cache of a million paths, each with ten references to earlier ones, past the server.
func fillMillion(b *testing.B, file string, key *nar.PrivateKey) {
	b.Helper()
	x, err := sqlite.Open(b.Context(), file)
	if err != nil {
		b.Fatal(err)
	}
	c := cache.Cache{Name: "c", Keys: []cache.Key{cache.KeyOf(key)}, Settings: cache.Settings{Public: true}}
	if err := x.CreateCache(b.Context(), c); err != nil {
		b.Fatal(err)
	}
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=synchronous(OFF)")
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	tx, err := db.Begin()
	if err != nil {
		b.Fatal(err)
	}
	nars, err := tx.Prepare(`INSERT INTO nars (id, nar_hash, nar_size, file_hash, file_size, stored_at, blob) VALUES (?1, ?2, 5000, ?2, ?3, 1, ?4)`)
	if err != nil {
		b.Fatal(err)
	}
	paths, err := tx.Prepare(`INSERT INTO paths (cache_id, hash_part, store_path, nar_id, narinfo, created_at, used_at) VALUES (1, ?, ?, ?, ?, 1, ?)`)
	if err != nil {
		b.Fatal(err)
	}
	random, day := rand.New(rand.NewPCG(1, 2)), time.Now().Unix()/86400*86400
	hashes := make([]string, million)
	for i := range million {
		hashes[i] = millionPath(i)
		content := nar.Hash(sha256.Sum256([]byte(hashes[i])))
		info := nar.NarInfo{PathInfo: nar.PathInfo{StorePath: "/nix/store/" + hashes[i] + "-some-package-1.2.3", NarHash: content, NarSize: 5000}, URL: "nar/x", Compression: "zstd"}
		for range min(i, 10) {
			info.References = append(info.References, "/nix/store/"+hashes[random.IntN(i)]+"-some-package-1.2.3")
		}
		slices.Sort(info.References)
		info.References = slices.Compact(info.References)
		if _, err := nars.Exec(i+1, content[:], everySize, content.Nix32()); err != nil {
			b.Fatal(err)
		}
		if _, err := paths.Exec(hashes[i], info.StorePath, i+1, info.Encode(), day-int64(random.IntN(365))*86400); err != nil {
			b.Fatal(err)
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkMillionPaths is a cache of a million paths, of synthetic metadata: how soon it answers after a restart, how long a narinfo
// takes that was not asked for lately, what a collection's plan takes. -benchtime 1x.
func BenchmarkMillionPaths(b *testing.B) {
	key, err := nar.GenerateKey("c-1")
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "index.sqlite")
	fillMillion(b, file, key)
	open := func() (*cache.Server, *httptest.Server, func()) {
		x, err := sqlite.Open(b.Context(), file)
		if err != nil {
			b.Fatal(err)
		}
		s := cache.New(cache.Options{Blobs: everything{}, Index: x, Alone: true})
		if err := s.EnsureCache(b.Context(), "c", key); err != nil {
			b.Fatal(err)
		}
		h := httptest.NewServer(s.Handler())
		return s, h, func() { h.Close(); x.Close() }
	}
	get := func(url string) time.Duration {
		start := time.Now()
		res, err := http.Get(url)
		if err != nil {
			b.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(text), "Sig: c-1:") {
			b.Fatal(res.Status, err)
		}
		return time.Since(start)
	}
	b.Run("restart", func(b *testing.B) {
		for b.Loop() {
			var all []float64
			for i := range 5 {
				start := time.Now()
				_, h, end := open()
				get(fmt.Sprintf("%s/c/%s.narinfo", h.URL, millionPath(i)))
				all = append(all, time.Since(start).Seconds())
				end()
			}
			b.ReportMetric(median(all), "first-answer-s")
		}
	})
	s, h, end := open()
	defer end()
	b.Run("narinfo", func(b *testing.B) {
		for b.Loop() {
			var all []float64
			for range 20_000 {
				all = append(all, get(fmt.Sprintf("%s/c/%s.narinfo", h.URL, millionPath(rand.IntN(million)))).Seconds()*1000)
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
			p, err := s.PlanCollection(b.Context(), "c", cache.Retention{Unused: 30 * 24 * time.Hour})
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
			if _, err := s.Index.Stats(b.Context(), "c"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
