package cachetest

import (
	"errors"
	"slices"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

func testIncomplete(t *testing.T, x cache.Index) {
	n := aNar("content")
	must(t, x.PutNar(t.Context(), n, ""))
	if _, err := putPath(t.Context(), x, anUpstreamPath("c", "a", cache.Incomplete), nil, day, true); err != nil {
		t.Fatal(err)
	}
	var missing *cache.MissingReferencesError
	if _, err := putPath(t.Context(), x, aPath("c", "b", n), []string{storePath("a")}, day, true); !errors.As(err, &missing) || missing.Missing[0] != storePath("a") {
		t.Errorf("a reference to an incomplete path: %v", err)
	}
	put(t, x, aPath("c", "a", n), n)
	put(t, x, aPath("c", "b", n), n, storePath("a"))
}

func testPushedAs(t *testing.T, x cache.Index) {
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	n, m, as := aNar("content"), aNar("other"), aNar("file").FileHash
	p := aPath("c", "a", n)
	p.PushedAs = as
	put(t, x, p, n)
	put(t, x, aPath("d", "a", n), n)
	has := func(in string, want cache.Nar, ok bool) {
		t.Helper()
		got, there, err := x.NarOf(t.Context(), in, as)
		if err != nil || there != ok || got != want {
			t.Errorf("cache %s: %+v, %v, %v", in, got, there, err)
		}
	}
	has("c", n, true)
	has("d", cache.Nar{}, false)
	if got, ok, err := x.NarOf(t.Context(), "c", n.NarHash); err != nil || !ok || got != n {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if got := path(t, x, "c", "a"); !got.PushedAs.IsZero() {
		t.Errorf("Lookup tells what a path was pushed as: %+v", got)
	}
	must(t, x.PutNar(t.Context(), m, ""))
	if _, err := putPath(t.Context(), x, aPath("c", "a", m), nil, day, true); err != nil {
		t.Fatal(err)
	}
	has("c", cache.Nar{}, false)

	// A NarHash goes before what another path was pushed as.
	p = aPath("c", "b", n)
	p.PushedAs = m.NarHash
	put(t, x, p, n)
	if got, _, err := x.NarOf(t.Context(), "c", m.NarHash); err != nil || got != m {
		t.Errorf("%+v, %v", got, err)
	}
}

// testPutPaths: all or none of them are stored, and each may refer to those before it.
func testPutPaths(t *testing.T, x cache.Index) {
	n := aNar("content")
	must(t, x.PutNar(t.Context(), n, "c"))
	put(t, x, aPath("c", "old", n), n)
	newPath := func(p cache.Path, references ...string) cache.NewPath {
		for i, r := range references {
			references[i] = storePath(r)
		}
		return cache.NewPath{Path: p, References: references}
	}
	there := func(want ...string) {
		t.Helper()
		for _, name := range []string{"a", "b", "d"} {
			if got := path(t, x, "c", name); (got != nil) != slices.Contains(want, name) {
				t.Errorf("%s: %+v", name, got)
			}
		}
	}
	a, b, old := newPath(aPath("c", "a", n)), newPath(aPath("c", "b", n), "a", "old"), newPath(aPath("c", "old", n))
	otherwise := newPath(aPath("c", "old", n))
	otherwise.StorePath += "er"
	unsure := newPath(anUpstreamPath("c", "d", cache.Incomplete))

	var missing *cache.MissingReferencesError
	for name, bad := range map[string][]cache.NewPath{
		"the wrong order":      {b, a},
		"what is replaced":     {a, {Path: otherwise.Path, Replace: true}, b},
		"what is not complete": {a, unsure, newPath(aPath("c", "b", n), "a", "d")},
	} {
		if written, err := x.PutPaths(t.Context(), bad, day); !errors.As(err, &missing) || missing.StorePath != b.StorePath || len(missing.Missing) != 1 || written != 0 {
			t.Errorf("%s: %d, %v", name, written, err)
		}
		there()
	}
	if written, err := x.PutPaths(t.Context(), []cache.NewPath{a, b, otherwise}, day); !errors.Is(err, cache.ErrConflict) || written != 0 {
		t.Errorf("a conflict: %d, %v", written, err)
	}
	there()
	if written, err := x.PutPaths(t.Context(), []cache.NewPath{a, newPath(aPath("c", "b", aNar("unknown")))}, day); !errors.Is(err, cache.ErrNotFound) || written != 0 {
		t.Errorf("an unknown archive: %d, %v", written, err)
	}
	there()
	if written, err := x.PutPaths(t.Context(), nil, day); written != 0 || err != nil {
		t.Errorf("no paths: %d, %v", written, err)
	}
	later := day.Add(2 * cache.TouchGrain)
	if written, err := x.PutPaths(t.Context(), []cache.NewPath{a, old, b, unsure}, later); written != 3 || err != nil {
		t.Errorf("%d, %v", written, err)
	}
	there("a", "b", "d")
	if got := path(t, x, "c", "old"); !got.UsedAt.Equal(later) {
		t.Errorf("what was referred to was last used %s", got.UsedAt)
	}
}

// testPutAndSent: an archive is known and noted to have been sent to a cache in one step, or neither.
func testPutAndSent(t *testing.T, x cache.Index) {
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	m := aNar("put and sent")
	if err := x.PutNar(t.Context(), m, "nope"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("put for no cache: %v", err)
	}
	if _, known, err := x.Nar(t.Context(), m.NarHash); known || err != nil {
		t.Errorf("what was put for no cache is known: %v, %v", known, err)
	}
	for range 2 { // new, then in place of itself
		must(t, x.PutNar(t.Context(), m, "d"))
		for in, want := range map[string]bool{"c": false, "d": true} {
			if got, err := x.NarsFor(t.Context(), in, []nar.Hash{m.NarHash}); err != nil || (got[m.NarHash] == m) != want {
				t.Errorf("put for d, asked for %s: %v, %v", in, got, err)
			}
		}
		must(t, x.DeleteCache(t.Context(), "d"))
		must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	}
}
