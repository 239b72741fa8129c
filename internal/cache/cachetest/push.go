package cachetest

import (
	"errors"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
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
