package cache_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// BenchmarkPushTinyClosure is what a small change costs: five paths of a few bytes.
func BenchmarkPushTinyClosure(b *testing.B) {
	s := cachetest.NewServer(b, nil)
	c := newClient(b, s)
	dir := b.TempDir()
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		paths := tinyPaths(b, dir, n, 5)
		b.StartTimer()
		if _, err := c.Push(b.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNarInfo is what a narinfo at hand costs besides the network: to anybody, to who has the hub's kind of token, and by a JSON web token.
func BenchmarkNarInfo(b *testing.B) {
	key, err := cache.ParseTokenKey([]byte(base64.StdEncoding.EncodeToString(make([]byte, 32))))
	if err != nil {
		b.Fatal(err)
	}
	file := filepath.Join(b.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Chtimes(file, time.Now(), time.Now().Add(-time.Hour)); err != nil {
		b.Fatal(err)
	}
	keys, err := cache.OpenTokenKeys([]string{file})
	if err != nil {
		b.Fatal(err)
	}
	s := cachetest.Start(b, cache.Options{Alone: true, Tokens: func(token string) (cache.Grant, error) {
		if token == cachetest.PushToken {
			return cachetest.Tokens(token)
		}
		return keys.Grant(token)
	}}, nil)
	dir := b.TempDir()
	paths := tinyPaths(b, dir, 0, 1)
	if _, err := newClient(b, s).Push(b.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil {
		b.Fatal(err)
	}
	g := cache.Grant{Subject: "reader", ExpiresAt: time.Now().Add(24 * 30 * time.Hour)}
	g.Allow("c*", cache.Pull)
	token, err := key.Sign(&g, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	hash, err := nar.HashPart(paths[0].StorePath)
	if err != nil {
		b.Fatal(err)
	}
	h := s.Cache.Handler()
	for _, who := range []struct{ name, token string }{{"anonymous", ""}, {"token", cachetest.PushToken}, {"JWT", token}} {
		b.Run(who.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "/c/"+hash+".narinfo", nil)
			if who.token != "" {
				r.Header.Set("Authorization", "Bearer "+who.token)
			}
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, r); w.Code != 200 {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// BenchmarkMissing50000 asks for 50,000 paths, as Attic's client does: the cache has none, a part, or all of them.
func BenchmarkMissing50000(b *testing.B) {
	lab.EachStorage(b, func(b *testing.B, empty func(testing.TB) *cachetest.Storage, servers int) {
		storage := empty(b)
		s := storage.Start(b, servers, cache.Options{})
		hashes := manyPaths(b, storage, 50_000)
		for _, have := range []int{0, 2000, 50_000} {
			b.Run(fmt.Sprint("have=", have), func(b *testing.B) { askMissing(b, s, hashes, have) })
		}
	})
}

// askMissing asks for as many paths as there are hashes, of which the cache has the first.
func askMissing(b *testing.B, s *cachetest.Server, hashes []string, have int) {
	asked := slices.Clone(hashes)
	for i := range asked[have:] {
		asked[have+i] = fmt.Sprintf("%032d", have+i)
	}
	query, err := json.Marshal(map[string]any{"cache": "c", "store_path_hashes": asked})
	if err != nil {
		b.Fatal(err)
	}
	start := cpuTime(b)
	defer func() { b.ReportMetric(float64((cpuTime(b)-start).Milliseconds())/float64(b.N), "cpu-ms/op") }()
	for b.Loop() {
		var answer struct {
			Missing []string `json:"missing_paths"`
		}
		req, err := http.NewRequestWithContext(b.Context(), "POST", s.URL+"/_api/v1/get-missing-paths", bytes.NewReader(query))
		if err != nil {
			b.Fatal(err)
		}
		req.Header.Set("Authorization", "bearer "+cachetest.PushToken)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		err = json.NewDecoder(res.Body).Decode(&answer)
		res.Body.Close()
		if err != nil || len(answer.Missing) != len(asked)-have {
			b.Fatal(len(answer.Missing), err)
		}
	}
}

// cpuTime is what this process, the server and its client, has used: unlike the time that passes it does not depend on what else the machine does.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// manyPaths puts that many paths with archives of their own past the protocol, and returns their hash parts. In a bucket they have no content: it is not asked for.
func manyPaths(b *testing.B, s *cachetest.Storage, n int) []string {
	b.Helper()
	hashes, now := make([]string, n), time.Now().Unix()
	for i := range hashes {
		hashes[i] = nar.Hash(sha256.Sum256([]byte(fmt.Sprint(i)))).Nix32()[:32]
	}
	s.Fill(b, n, func(i int) cachetest.Row {
		h := nar.Hash(sha256.Sum256([]byte(fmt.Sprint(i))))
		info := nar.NarInfo{URL: "nar/" + h.Nix32() + ".nar.zst", Compression: "zstd", PathInfo: nar.PathInfo{
			StorePath: "/nix/store/" + hashes[i] + "-some-package-1.0", NarHash: h, NarSize: 1000,
			Deriver: "/nix/store/" + hashes[i] + "-some-package-1.0.drv",
		}}
		for j := max(0, i-5); j < i; j++ {
			info.References = append(info.References, "/nix/store/"+hashes[j]+"-some-package-1.0")
		}
		n := cache.Nar{NarHash: h, NarSize: 1000, FileHash: h, FileSize: 1, Blob: h.Nix32() + "-blob.nar.zst"}
		if s.Dir != "" {
			if err := os.WriteFile(filepath.Join(s.Dir, "nar", n.Blob[:2], n.Blob), []byte("x"), 0o600); err != nil {
				b.Fatal(err)
			}
		}
		return cachetest.Row{Nar: n, Path: cache.Path{StorePath: info.StorePath, NarInfo: info.Encode()}, At: now}
	})
	return hashes
}

// BenchmarkUpstream2000 is the first push of a system of which 2,000 paths are upstream, and the question what its closure is.
func BenchmarkUpstream2000(b *testing.B) {
	key, err := nar.GenerateKey("up")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		s := cachetest.NewServer(b, nil)
		s.Cache.Upstreams = []nar.PublicKey{key.Public()}
		c := newClient(b, s)
		paths := tinyPaths(b, dir, n, 2000)
		for i := range paths[:1999] {
			paths[i].Sigs = []string{key.Sign(paths[i].Fingerprint())}
		}
		b.StartTimer()
		start := time.Now()
		if stats, err := c.Push(b.Context(), paths, client.PushOptions{RealStoreDir: dir}); err != nil || stats.Upstream != 1999 {
			b.Fatal(stats, err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "push-s")
		start = time.Now()
		if have, _, err := c.Closure(b.Context(), []string{paths[1999].StorePath}); err != nil || len(have) != 2000 {
			b.Fatal(len(have), err)
		}
		b.ReportMetric(time.Since(start).Seconds(), "closure-s")
	}
}

// tinyPaths makes count files in dir, as a store would, and describes them.
func tinyPaths(b *testing.B, dir string, round, count int) []nar.PathInfo {
	b.Helper()
	var paths []nar.PathInfo
	for i := range count {
		base := fmt.Sprintf("%032d-tiny", round*count+i)
		if err := os.WriteFile(filepath.Join(dir, base), []byte(base), 0o444); err != nil {
			b.Fatal(err)
		}
		info := infoOf(b, base, []byte(base))
		if i > 0 {
			info.References = []string{paths[i-1].StorePath}
		}
		paths = append(paths, info)
	}
	return paths
}

// infoOf describes a path that is a file.
func infoOf(b *testing.B, base string, content []byte) nar.PathInfo {
	b.Helper()
	var archive bytes.Buffer
	w := nar.NewWriter(&archive)
	w.Regular(false, int64(len(content)), bytes.NewReader(content))
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	checked, err := nar.Check(&archive, 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	return nar.PathInfo{StorePath: "/nix/store/" + base, NarHash: checked.Hash, NarSize: checked.Size}
}

func fetch(b *testing.B, url string) []byte {
	b.Helper()
	res, err := http.Get(url)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		b.Fatal(res.Status, err)
	}
	return text
}
