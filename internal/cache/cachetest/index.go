package cachetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Index runs the suite of cache.Index; open returns an empty one.
func Index(t *testing.T, open func(t *testing.T) cache.Index) {
	for name, f := range map[string]func(*testing.T, cache.Index){
		"caches":               testCaches,
		"nars":                 testNars,
		"path round trip":      testPath,
		"same path again":      testSamePath,
		"conflicts":            testConflicts,
		"references":           testReferences,
		"unknown cache or nar": testUnknown,
		"caches are apart":     testApart,
		"lookup":               testLookup,
		"upstream paths":       testUpstream,
		"stats":                testStats,
		"concurrent":           testConcurrentPaths,
	} {
		t.Run(name, func(t *testing.T) {
			x := open(t)
			must(t, x.EnsureCache(t.Context(), cache.Cache{Name: "c", PublicKey: "c:key"}))
			f(t, x)
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hashPart makes one of the form of a store path's hash out of any text.
func hashPart(s string) string { return nar.Hash(sha256.Sum256([]byte(s))).Nix32()[20:] }

func storePath(name string) string { return "/nix/store/" + hashPart(name) + "-" + name }

func aNar(content string) cache.Nar {
	return cache.Nar{
		NarHash: sha256.Sum256([]byte(content)), NarSize: int64(len(content)),
		FileHash: sha256.Sum256([]byte("z" + content)), FileSize: int64(len(content)) / 2,
	}
}

func aPath(in, name string, n cache.Nar, references ...string) cache.Path {
	return cache.Path{Cache: in, StorePath: storePath(name), NarHash: n.NarHash, References: references, NarInfo: []byte("StorePath: " + name + "\n")}
}

// put stores an archive and a path of it.
func put(t *testing.T, x cache.Index, p cache.Path, n cache.Nar) {
	t.Helper()
	must(t, x.PutNar(t.Context(), n))
	if written, err := x.PutPath(t.Context(), p, false); err != nil || !written {
		t.Fatalf("%s: %v, %v", p.StorePath, written, err)
	}
}

func testCaches(t *testing.T, x cache.Index) {
	must(t, x.EnsureCache(t.Context(), cache.Cache{Name: "c", PublicKey: "c:key"}))
	must(t, x.EnsureCache(t.Context(), cache.Cache{Name: "d", PublicKey: "c:key"}))
	if err := x.EnsureCache(t.Context(), cache.Cache{Name: "c", PublicKey: "c:other"}); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("another key: %v", err)
	}
}

func testNars(t *testing.T, x cache.Index) {
	n := aNar("content")
	if _, ok, err := x.Nar(t.Context(), n.NarHash); ok || err != nil {
		t.Fatal(ok, err)
	}
	must(t, x.PutNar(t.Context(), n))
	if got, ok, err := x.Nar(t.Context(), n.NarHash); got != n || !ok || err != nil {
		t.Fatal(got, ok, err)
	}
	put(t, x, aPath("c", "a", n), n)
	n.FileSize++
	n.FileHash[0]++
	must(t, x.PutNar(t.Context(), n))
	if _, got, ok, err := x.Path(t.Context(), "c", hashPart("a")); got != n || !ok || err != nil {
		t.Fatal("the path does not have the new file:", got, ok, err)
	}
}

func testPath(t *testing.T, x cache.Index) {
	if _, _, ok, err := x.Path(t.Context(), "c", hashPart("a")); ok || err != nil {
		t.Fatal(ok, err)
	}
	n := aNar("content")
	p := aPath("c", "a", n)
	put(t, x, p, n)
	got, gotNar, ok, err := x.Path(t.Context(), "c", hashPart("a"))
	if err != nil || !ok || !reflect.DeepEqual(got, p) || gotNar != n {
		t.Fatalf("%+v, %+v, %v, %v", got, gotNar, ok, err)
	}
}

func testSamePath(t *testing.T, x cache.Index) {
	n := aNar("content")
	p := aPath("c", "a", n)
	put(t, x, p, n)
	again := p
	again.NarInfo = []byte("otherwise")
	if written, err := x.PutPath(t.Context(), again, true); written || err != nil {
		t.Fatal(written, err)
	}
	if got, _, _, err := x.Path(t.Context(), "c", hashPart("a")); err != nil || string(got.NarInfo) != string(p.NarInfo) {
		t.Errorf("it was rewritten: %q, %v", got.NarInfo, err)
	}
}

func testConflicts(t *testing.T, x cache.Index) {
	n, m := aNar("content"), aNar("different")
	put(t, x, aPath("c", "a", n), n)
	must(t, x.PutNar(t.Context(), m))
	if _, err := x.PutPath(t.Context(), aPath("c", "a", m), false); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("another archive: %v", err)
	}
	renamed := aPath("c", "a", n)
	renamed.StorePath += "b"
	if _, err := x.PutPath(t.Context(), renamed, false); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("another name: %v", err)
	}
	if written, err := x.PutPath(t.Context(), aPath("c", "a", m), true); !written || err != nil {
		t.Errorf("replaced: %v, %v", written, err)
	}
	if got, _, _, err := x.Path(t.Context(), "c", hashPart("a")); err != nil || got.NarHash != m.NarHash {
		t.Errorf("after it was replaced: %+v, %v", got, err)
	}
}

func testReferences(t *testing.T, x cache.Index) {
	n := aNar("content")
	put(t, x, aPath("c", "glibc", n), n)
	put(t, x, aPath("c", "curl", n, storePath("glibc")), n)
	var missing *cache.MissingReferencesError
	bad := aPath("c", "git", n, storePath("zlib"), storePath("curl"), storePath("glibc")+"-2", storePath("openssl"))
	_, err := x.PutPath(t.Context(), bad, false)
	if !errors.As(err, &missing) || len(missing.Missing) != 3 || strings.Contains(err.Error(), storePath("curl")) {
		t.Fatal(err)
	}
	if _, _, ok, err := x.Path(t.Context(), "c", hashPart("git")); ok || err != nil {
		t.Error("it was stored all the same", err)
	}
}

func testUnknown(t *testing.T, x cache.Index) {
	n := aNar("content")
	if _, err := x.PutPath(t.Context(), aPath("c", "a", n), false); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown archive: %v", err)
	}
	must(t, x.PutNar(t.Context(), n))
	if _, err := x.PutPath(t.Context(), aPath("nope", "a", n), false); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown cache: %v", err)
	}
}

func testApart(t *testing.T, x cache.Index) {
	must(t, x.EnsureCache(t.Context(), cache.Cache{Name: "d", PublicKey: "d:key"}))
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	for in, want := range map[string]bool{"c": true, "d": false, "nope": false} {
		_, _, ok, err := x.Path(t.Context(), in, hashPart("a"))
		has, err2 := x.HasNar(t.Context(), in, n.NarHash)
		found, err3 := x.Lookup(t.Context(), in, []string{hashPart("a")})
		must(t, errors.Join(err, err2, err3))
		if ok != want || has != want || (len(found) == 1) != want {
			t.Errorf("cache %s: path %v, archive %v, lookup %v", in, ok, has, found)
		}
	}
	var missing *cache.MissingReferencesError
	if _, err := x.PutPath(t.Context(), aPath("d", "b", n, storePath("a")), false); !errors.As(err, &missing) {
		t.Errorf("a reference into another cache: %v", err)
	}
}

func testLookup(t *testing.T, x cache.Index) {
	if got, err := x.Lookup(t.Context(), "c", nil); len(got) != 0 || err != nil {
		t.Error(got, err)
	}
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	asked := []string{hashPart("a"), hashPart("a")}
	for i := range 10_000 {
		asked = append(asked, hashPart(fmt.Sprint(i)))
	}
	got, err := x.Lookup(t.Context(), "c", asked)
	if err != nil || !reflect.DeepEqual(got, map[string]cache.Record{hashPart("a"): {Nar: n, NarInfo: aPath("c", "a", n).NarInfo}}) {
		t.Error(got, err)
	}
}

func testUpstream(t *testing.T, x cache.Index) {
	must(t, x.EnsureCache(t.Context(), cache.Cache{Name: "d", PublicKey: "d:key"}))
	n := aNar("content")
	var missing *cache.MissingReferencesError
	if err := x.PutUpstream(t.Context(), aPath("c", "curl", n, storePath("glibc")), "up:key"); !errors.As(err, &missing) {
		t.Fatalf("a reference that is nowhere: %v", err)
	}
	if err := x.PutUpstream(t.Context(), aPath("nope", "glibc", n), "up:key"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown cache: %v", err)
	}
	must(t, x.PutUpstream(t.Context(), aPath("c", "glibc", n), "old:key"))
	must(t, x.PutUpstream(t.Context(), aPath("c", "glibc", n), "up:key"))
	must(t, x.PutUpstream(t.Context(), aPath("c", "curl", n, storePath("glibc")), "up:key"))
	asked := []string{hashPart("glibc"), hashPart("curl"), hashPart("git")}
	want := map[string]cache.Record{
		hashPart("glibc"): {NarInfo: aPath("c", "glibc", n).NarInfo, Upstream: "up:key"},
		hashPart("curl"):  {NarInfo: aPath("c", "curl", n).NarInfo, Upstream: "up:key"},
	}
	if got, err := x.Lookup(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, _, ok, err := x.Path(t.Context(), "c", hashPart("curl")); ok || err != nil {
		t.Errorf("an upstream path is served: %v, %v", ok, err)
	}
	if got, err := x.Stats(t.Context(), "c"); got != (cache.Stats{}) || err != nil {
		t.Errorf("upstream paths count: %+v, %v", got, err)
	}
	if got, err := x.Lookup(t.Context(), "d", asked); len(got) != 0 || err != nil {
		t.Errorf("in another cache: %+v, %v", got, err)
	}
	must(t, x.PutNar(t.Context(), n))
	if _, err := x.PutPath(t.Context(), aPath("d", "git", n, storePath("curl")), false); !errors.As(err, &missing) {
		t.Errorf("a reference into another cache: %v", err)
	}
	put(t, x, aPath("c", "git", n, storePath("curl")), n)

	// A path stands in one place: what is stored is not upstream any more, and the other way round.
	put(t, x, aPath("c", "curl", n, storePath("glibc")), n)
	must(t, x.PutUpstream(t.Context(), aPath("c", "git", n, storePath("curl")), "up:key"))
	want[hashPart("curl")] = cache.Record{NarInfo: aPath("c", "curl", n).NarInfo, Nar: n}
	want[hashPart("git")] = cache.Record{NarInfo: aPath("c", "git", n).NarInfo, Upstream: "up:key"}
	if got, err := x.Lookup(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Stats(t.Context(), "c"); got.Paths != 1 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func testStats(t *testing.T, x cache.Index) {
	if got, err := x.Stats(t.Context(), "nope"); got != (cache.Stats{}) || err != nil {
		t.Error(got, err)
	}
	n, m := aNar("content"), aNar("different")
	put(t, x, aPath("c", "a", n), n)
	put(t, x, aPath("c", "b", n), n)
	put(t, x, aPath("c", "c", m), m)
	want := cache.Stats{Paths: 3, NarBytes: 2*n.NarSize + m.NarSize, StoredBytes: n.FileSize + m.FileSize}
	if got, err := x.Stats(t.Context(), "c"); got != want || err != nil {
		t.Error(got, err)
	}
}

func testConcurrentPaths(t *testing.T, x cache.Index) {
	shared := aNar("shared")
	must(t, x.PutNar(t.Context(), shared))
	wins := make(chan int, 8)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			own := aNar(fmt.Sprint("own ", i))
			for j := range 10 {
				name := fmt.Sprintf("p%d-%d", i, j)
				if err := x.PutNar(t.Context(), own); err != nil {
					t.Error(err)
				}
				if written, err := x.PutPath(t.Context(), aPath("c", name, own), false); !written || err != nil {
					t.Errorf("%s: %v, %v", name, written, err)
				}
				if _, _, ok, err := x.Path(t.Context(), "c", hashPart(name)); !ok || err != nil {
					t.Errorf("%s: %v, %v", name, ok, err)
				}
			}
			written, err := x.PutPath(t.Context(), aPath("c", "contested", own), false)
			if written {
				wins <- i
			} else if !errors.Is(err, cache.ErrConflict) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if len(wins) != 1 {
		t.Errorf("%d writers won", len(wins))
	}
}
