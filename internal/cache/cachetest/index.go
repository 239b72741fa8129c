package cachetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
		"incomplete paths":     testIncomplete,
		"several paths":        testPutPaths,
		"pushed as":            testPushedAs,
		"stats":                testStats,
		"concurrent":           testConcurrentPaths,
		"touch":                testTouch,
		"walk":                 testWalk,
		"deleted paths":        testDeletePaths,
		"expire":               testExpire,
		"replaced archives":    testReplacedNar,
		"sent archives":        testSent,
		"put and sent":         testPutAndSent,
		"pins":                 testPins,
		"revoked tokens":       testRevoked,
		"push, collection":     testPushAgainstCollection,
		"push, expiry":         testPushAgainstExpiry,
		"crossing pushes":      testCrossingPushes,
		"updates add up":       testUpdatesAddUp,
		"a moment's walk":      testWalkIsOfOneMoment,
		"canceled":             testCanceled,
	} {
		t.Run(name, func(t *testing.T) {
			x := open(t)
			must(t, x.CreateCache(t.Context(), cache.Cache{Name: "c"}))
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
		FileHash: sha256.Sum256([]byte("z" + content)), FileSize: int64(len(content)) / 2, Blob: "blob-of-" + content,
	}
}

// day is when tests put paths, unless they say otherwise.
var day = time.Unix(1_700_000_000, 0)

func aPath(in, name string, n cache.Nar) cache.Path {
	return cache.Path{Cache: in, StorePath: storePath(name), NarHash: n.NarHash, NarInfo: []byte("StorePath: " + name + "\n")}
}

func anUpstreamPath(in, name, key string) cache.Path {
	return cache.Path{Cache: in, StorePath: storePath(name), NarInfo: []byte("StorePath: " + name + "\n"), Upstream: key}
}

// path is what the index has of one path; nil if nothing.
func path(t *testing.T, x cache.Index, in, name string) *cache.Record {
	t.Helper()
	found, err := x.Lookup(t.Context(), in, []string{hashPart(name)})
	must(t, err)
	r, ok := found[hashPart(name)]
	if !ok {
		return nil
	}
	return &r
}

// putPath puts one path.
func putPath(ctx context.Context, x cache.Index, p cache.Path, references []string, at time.Time, replace bool) (written bool, err error) {
	n, err := x.PutPaths(ctx, []cache.NewPath{{Path: p, References: references, Replace: replace}}, at)
	return n == 1, err
}

// put stores an archive and a path of it.
func put(t *testing.T, x cache.Index, p cache.Path, n cache.Nar, references ...string) {
	t.Helper()
	must(t, x.PutNar(t.Context(), n, ""))
	if written, err := putPath(t.Context(), x, p, references, day, false); err != nil || !written {
		t.Fatalf("%s: %v, %v", p.StorePath, written, err)
	}
}

func testCaches(t *testing.T, x cache.Index) {
	key, err := nar.GenerateKey("d-1")
	must(t, err)
	week := int64(604800)
	d := cache.Cache{Name: "d", Keys: []cache.Key{cache.KeyOf(key), {Public: key.Public()}}, CreatedAt: day, Settings: cache.Settings{
		Public: true, Priority: 30, Retention: &week, UpstreamNames: []string{"up-1"}, MaxBytes: 5,
		PullThrough: []cache.PullThrough{{URL: "https://up.example.org", Keys: []string{"up-1:x"}, Resign: true}},
	}}
	must(t, x.CreateCache(t.Context(), d))
	if err := x.CreateCache(t.Context(), cache.Cache{Name: "d"}); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	same := func(want cache.Cache) {
		t.Helper()
		all, err := x.Caches(t.Context())
		if err != nil || len(all) != 2 || all[0].Name != "c" || !reflect.DeepEqual(all[1], want) {
			t.Errorf("%+v, %v", all, err)
		}
	}
	same(d)
	no := errors.New("no")
	if err := x.UpdateCache(t.Context(), "d", func(c *cache.Cache) error { c.Priority = 1; return no }); !errors.Is(err, no) {
		t.Error(err)
	}
	same(d)
	must(t, x.UpdateCache(t.Context(), "d", func(c *cache.Cache) error { c.Priority, c.Keys = 1, c.Keys[:1]; return nil }))
	d.Priority, d.Keys = 1, d.Keys[:1]
	same(d)
	for name, err := range map[string]error{
		"update":     x.UpdateCache(t.Context(), "e", func(*cache.Cache) error { return nil }),
		"delete":     x.DeleteCache(t.Context(), "e"),
		"touch":      x.Touch(t.Context(), "e", nil, day),
		"pin":        x.PutPin(t.Context(), "e", cache.Pin{Name: "p"}),
		"delete pin": second(x.DeletePin(t.Context(), "e", "p")),
		"paths":      second(x.DeletePaths(t.Context(), "e", nil, day)),
	} {
		if !errors.Is(err, cache.ErrNotFound) {
			t.Errorf("%s of an unknown cache: %v", name, err)
		}
	}
	n := aNar("content")
	put(t, x, aPath("d", "a", n), n)
	must(t, x.PutPin(t.Context(), "d", cache.Pin{Name: "p", StorePath: storePath("a")}))
	must(t, x.DeleteCache(t.Context(), "d"))
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	if pins, err := x.Pins(t.Context(), "d"); len(pins) > 0 || err != nil || path(t, x, "d", "a") != nil {
		t.Errorf("something outlived its cache: %v, %v", pins, err)
	}
}

func second[T any](_ T, err error) error { return err }

func testNars(t *testing.T, x cache.Index) {
	n := aNar("content")
	if _, ok, err := x.Nar(t.Context(), n.NarHash); ok || err != nil {
		t.Fatal(ok, err)
	}
	must(t, x.PutNar(t.Context(), n, ""))
	if got, ok, err := x.Nar(t.Context(), n.NarHash); got != n || !ok || err != nil {
		t.Fatal(got, ok, err)
	}
	put(t, x, aPath("c", "a", n), n)
	n.FileSize++
	n.FileHash[0]++
	n.Blob = "another-blob"
	must(t, x.PutNar(t.Context(), n, ""))
	if got := path(t, x, "c", "a"); got == nil || got.Nar != n {
		t.Fatal("the path does not have the new file:", got)
	}
	var all []cache.Nar
	must(t, x.Nars(t.Context(), func(n cache.Nar) error { all = append(all, n); return nil }))
	if !slices.Equal(all, []cache.Nar{n}) {
		t.Errorf("all archives: %v", all)
	}
}

func testPath(t *testing.T, x cache.Index) {
	if got := path(t, x, "c", "a"); got != nil {
		t.Fatal(got)
	}
	n := aNar("content")
	p := aPath("c", "a", n)
	put(t, x, p, n)
	if got := path(t, x, "c", "a"); !reflect.DeepEqual(got, &cache.Record{Path: p, Nar: n, UsedAt: day}) {
		t.Fatalf("%+v", got)
	}
}

func testSamePath(t *testing.T, x cache.Index) {
	n := aNar("content")
	p := aPath("c", "a", n)
	put(t, x, p, n)
	again := p
	again.NarInfo = []byte("otherwise")
	if written, err := putPath(t.Context(), x, again, nil, day, true); written || err != nil {
		t.Fatal(written, err)
	}
	if got := path(t, x, "c", "a"); string(got.NarInfo) != string(p.NarInfo) {
		t.Errorf("it was rewritten: %q", got.NarInfo)
	}
}

func testConflicts(t *testing.T, x cache.Index) {
	n, m := aNar("content"), aNar("different")
	put(t, x, aPath("c", "a", n), n)
	must(t, x.PutNar(t.Context(), m, ""))
	if _, err := putPath(t.Context(), x, aPath("c", "a", m), nil, day, false); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("another archive: %v", err)
	}
	renamed := aPath("c", "a", n)
	renamed.StorePath += "b"
	if _, err := putPath(t.Context(), x, renamed, nil, day, false); !errors.Is(err, cache.ErrConflict) {
		t.Errorf("another name: %v", err)
	}
	if written, err := putPath(t.Context(), x, aPath("c", "a", m), nil, day, true); !written || err != nil {
		t.Errorf("replaced: %v, %v", written, err)
	}
	if got := path(t, x, "c", "a"); got.NarHash != m.NarHash {
		t.Errorf("after it was replaced: %+v", got)
	}
}

func testReferences(t *testing.T, x cache.Index) {
	n := aNar("content")
	put(t, x, aPath("c", "glibc", n), n)
	put(t, x, aPath("c", "curl", n), n, storePath("glibc"))
	var missing *cache.MissingReferencesError
	bad := []string{storePath("zlib"), storePath("curl"), storePath("glibc") + "-2", storePath("openssl")}
	_, err := putPath(t.Context(), x, aPath("c", "git", n), bad, day, false)
	if !errors.As(err, &missing) || len(missing.Missing) != 3 || strings.Contains(err.Error(), storePath("curl")) {
		t.Fatal(err)
	}
	if path(t, x, "c", "git") != nil {
		t.Error("it was stored all the same")
	}
}

func testUnknown(t *testing.T, x cache.Index) {
	n := aNar("content")
	if _, err := putPath(t.Context(), x, aPath("c", "a", n), nil, day, false); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown archive: %v", err)
	}
	must(t, x.PutNar(t.Context(), n, ""))
	if _, err := putPath(t.Context(), x, aPath("nope", "a", n), nil, day, false); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown cache: %v", err)
	}
}

func testApart(t *testing.T, x cache.Index) {
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	for in, want := range map[string]bool{"c": true, "d": false, "nope": false} {
		got, has, err := x.NarOf(t.Context(), in, n.NarHash)
		must(t, err)
		if ok := path(t, x, in, "a") != nil; ok != want || has != want || has && got != n {
			t.Errorf("cache %s: path %v, archive %v %v", in, ok, has, got)
		}
	}
	var missing *cache.MissingReferencesError
	if _, err := putPath(t.Context(), x, aPath("d", "b", n), []string{storePath("a")}, day, false); !errors.As(err, &missing) {
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
	if err != nil || !reflect.DeepEqual(got, map[string]cache.Record{hashPart("a"): {Nar: n, Path: aPath("c", "a", n), UsedAt: day}}) {
		t.Error(got, err)
	}
}

func testUpstream(t *testing.T, x cache.Index) {
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	n, glibc := aNar("content"), []string{storePath("glibc")}
	putUpstream := func(p cache.Path, references ...string) error {
		written, err := putPath(t.Context(), x, p, references, day, false)
		if written != (err == nil) {
			t.Errorf("%s: %v, %v", p.StorePath, written, err)
		}
		return err
	}
	var missing *cache.MissingReferencesError
	if err := putUpstream(anUpstreamPath("c", "curl", "up:key"), glibc...); !errors.As(err, &missing) {
		t.Fatalf("a reference that is nowhere: %v", err)
	}
	if err := putUpstream(anUpstreamPath("nope", "glibc", "up:key")); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("unknown cache: %v", err)
	}
	must(t, putUpstream(anUpstreamPath("c", "glibc", "old:key")))
	must(t, putUpstream(anUpstreamPath("c", "glibc", "up:key")))
	must(t, putUpstream(anUpstreamPath("c", "curl", "up:key"), glibc...))
	asked := []string{hashPart("glibc"), hashPart("curl"), hashPart("git")}
	want := map[string]cache.Record{
		hashPart("glibc"): {Path: anUpstreamPath("c", "glibc", "up:key"), UsedAt: day},
		hashPart("curl"):  {Path: anUpstreamPath("c", "curl", "up:key"), UsedAt: day},
	}
	if got, err := x.Lookup(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Present(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, present(want)) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Stats(t.Context(), "c"); got != (cache.Stats{}) || err != nil {
		t.Errorf("upstream paths count: %+v, %v", got, err)
	}
	if got, err := x.Lookup(t.Context(), "d", asked); len(got) != 0 || err != nil {
		t.Errorf("in another cache: %+v, %v", got, err)
	}
	must(t, x.PutNar(t.Context(), n, ""))
	if _, err := putPath(t.Context(), x, aPath("d", "git", n), []string{storePath("curl")}, day, false); !errors.As(err, &missing) {
		t.Errorf("a reference into another cache: %v", err)
	}
	put(t, x, aPath("c", "git", n), n, storePath("curl"))

	// What was pulled is upstream and has an archive; it is replaced freely.
	pulled := anUpstreamPath("c", "curl", "up:key")
	pulled.NarHash = n.NarHash
	must(t, putUpstream(pulled, glibc...))
	if got := path(t, x, "c", "curl"); !reflect.DeepEqual(got, &cache.Record{Path: pulled, Nar: n, UsedAt: day}) {
		t.Errorf("what was pulled: %+v", got)
	}
	unknown := pulled
	unknown.NarHash[0]++
	if _, err := putPath(t.Context(), x, unknown, glibc, day, true); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("pulled without its archive: %v", err)
	}

	// What is stored is not upstream any more, and the other way round.
	put(t, x, aPath("c", "curl", n), n, glibc...)
	must(t, putUpstream(anUpstreamPath("c", "git", "up:key"), storePath("curl")))
	want[hashPart("curl")] = cache.Record{Path: aPath("c", "curl", n), Nar: n, UsedAt: day}
	want[hashPart("git")] = cache.Record{Path: anUpstreamPath("c", "git", "up:key"), UsedAt: day}
	if got, err := x.Lookup(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Present(t.Context(), "c", asked); err != nil || !reflect.DeepEqual(got, present(want)) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Present(t.Context(), "nope", asked); err != nil || len(got) != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := x.Stats(t.Context(), "c"); got.Paths != 1 || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// present is what Index.Present tells of records.
func present(records map[string]cache.Record) map[string]cache.Record {
	out := map[string]cache.Record{}
	for h, r := range records {
		out[h] = cache.Record{Path: cache.Path{Cache: r.Cache, Upstream: r.Upstream}, Nar: cache.Nar{FileSize: r.Nar.FileSize, Blob: r.Nar.Blob}, UsedAt: r.UsedAt}
	}
	return out
}

func testStats(t *testing.T, x cache.Index) {
	if got, err := x.Stats(t.Context(), "nope"); got != (cache.Stats{}) || err != nil {
		t.Error(got, err)
	}
	n, m := aNar("content"), aNar("different")
	put(t, x, aPath("c", "a", n), n)
	put(t, x, aPath("c", "b", n), n)
	put(t, x, aPath("c", "c", m), m)
	want := cache.Stats{Paths: 3, NarBytes: 2*n.NarSize + m.NarSize, StoredBytes: n.FileSize + m.FileSize, LastPush: day}
	if got, err := x.Stats(t.Context(), "c"); got != want || err != nil {
		t.Error(got, err)
	}
}

func testConcurrentPaths(t *testing.T, x cache.Index) {
	shared := aNar("shared")
	must(t, x.PutNar(t.Context(), shared, ""))
	wins := make(chan int, 8)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			own := aNar(fmt.Sprint("own ", i))
			for j := range 10 {
				name := fmt.Sprintf("p%d-%d", i, j)
				if err := x.PutNar(t.Context(), own, ""); err != nil {
					t.Error(err)
				}
				if written, err := putPath(t.Context(), x, aPath("c", name, own), nil, day, false); !written || err != nil {
					t.Errorf("%s: %v, %v", name, written, err)
				}
				if got, err := x.Lookup(t.Context(), "c", []string{hashPart(name)}); len(got) != 1 || err != nil {
					t.Errorf("%s: %v, %v", name, got, err)
				}
			}
			written, err := putPath(t.Context(), x, aPath("c", "contested", own), nil, day, false)
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
