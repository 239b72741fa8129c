package cachetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
)

const rounds = 15

// both runs f and g at the same time.
func both(f, g func()) {
	var all sync.WaitGroup
	all.Go(f)
	all.Go(g)
	all.Wait()
}

// testPushAgainstCollection: of a push that refers to a path, and a collection that planned to delete it, one wins, whole.
func testPushAgainstCollection(t *testing.T, x cache.Index) {
	n, later := aNar("content"), day.Add(48*time.Hour)
	for i := range rounds {
		lib, app := fmt.Sprint("lib", i), fmt.Sprint("app", i)
		put(t, x, aPath("c", lib, n), n)
		var written bool
		var perr, derr error
		var used []string
		both(
			func() {
				written, perr = putPath(t.Context(), x, aPath("c", app, n), []string{storePath(lib)}, later, false)
			},
			func() {
				used, derr = x.DeletePaths(t.Context(), "c", map[string]time.Time{hashPart(lib): day}, later)
			})
		must(t, derr)
		var missing *cache.MissingReferencesError
		pushed, deleted := written && perr == nil, len(used) == 0
		if pushed == deleted || !pushed && !errors.As(perr, &missing) {
			t.Fatalf("pushed %v (%v), in the way %v", written, perr, used)
		}
		if there := path(t, x, "c", lib) != nil; there != pushed {
			t.Fatalf("pushed %v, and what it refers to is there: %v", pushed, there)
		}
	}
}

// testPushAgainstExpiry: an archive that gets its first path while unused archives expire stays, or the path is refused.
func testPushAgainstExpiry(t *testing.T, x cache.Index) {
	future := time.Now().Add(time.Hour)
	for i := range rounds {
		n := aNar(fmt.Sprint("content", i))
		must(t, x.PutNar(t.Context(), n, ""))
		var written bool
		var perr, eerr error
		var blobs []string
		both(
			func() { written, perr = putPath(t.Context(), x, aPath("c", fmt.Sprint("p", i), n), nil, day, false) },
			func() { blobs, eerr = x.Expire(t.Context(), future) })
		must(t, eerr)
		must(t, x.Forget(t.Context(), blobs))
		if gone := slices.Contains(blobs, n.Blob); gone == written || !written && !errors.Is(perr, cache.ErrNotFound) {
			t.Fatalf("written %v (%v), expired %v", written, perr, blobs)
		}
		if _, ok, err := x.Nar(t.Context(), n.NarHash); ok != written || err != nil {
			t.Fatalf("written %v, its archive is known: %v, %v", written, ok, err)
		}
	}
}

// testCrossingPushes: pushes that touch the same paths in another order do not stop each other.
func testCrossingPushes(t *testing.T, x cache.Index) {
	n := aNar("content")
	var refs []string
	for i := range 20 {
		name := fmt.Sprint("lib", i)
		put(t, x, aPath("c", name, n), n)
		refs = append(refs, storePath(name))
	}
	var all sync.WaitGroup
	for i := range 8 {
		mine := slices.Clone(refs)
		if i%2 == 1 {
			slices.Reverse(mine)
		}
		all.Go(func() {
			for j := range 5 {
				at := day.Add(time.Duration(j+1) * 2 * cache.TouchGrain)
				if _, err := putPath(t.Context(), x, aPath("c", fmt.Sprintf("app%d-%d", i, j), n), mine, at, false); err != nil {
					t.Error(err)
				}
				if err := x.Touch(t.Context(), "c", []string{hashPart("lib0"), hashPart("lib19")}, at); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// testUpdatesAddUp: no change of a cache undoes another.
func testUpdatesAddUp(t *testing.T, x cache.Index) {
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 5 {
				if err := x.UpdateCache(t.Context(), "c", func(c *cache.Cache) error { c.Priority++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got, err := x.Caches(t.Context()); err != nil || len(got) != 1 || got[0].Priority != 40 {
		t.Errorf("%+v, %v", got, err)
	}
}

// testWalkIsOfOneMoment: what is put and deleted during a Walk does not show in it, and does not wait for it.
func testWalkIsOfOneMoment(t *testing.T, x cache.Index) {
	n, seen := aNar("content"), map[string]bool{}
	const many = 200
	all := map[string]time.Time{}
	for i := range many {
		put(t, x, aPath("c", fmt.Sprint("p", i), n), n)
		all[hashPart(fmt.Sprint("p", i))] = day
	}
	must(t, x.Walk(t.Context(), "c", func(r cache.Record) error {
		if len(seen) == 0 {
			if _, err := putPath(t.Context(), x, aPath("c", "new", n), nil, day, false); err != nil {
				return err
			}
			if used, err := x.DeletePaths(t.Context(), "c", all, day); len(used) > 0 || err != nil {
				t.Errorf("in the way: %v, %v", used, err)
			}
		}
		seen[r.StorePath] = true
		return nil
	}))
	if len(seen) != many || seen[storePath("new")] {
		t.Errorf("%d paths were seen of %d", len(seen), many)
	}
	if stats, err := x.Stats(t.Context(), "c"); err != nil || stats.Paths != 1 {
		t.Errorf("%+v, %v", stats, err)
	}
}

// testCanceled: nothing is left of what was given up, and everything works afterwards.
func testCanceled(t *testing.T, x cache.Index) {
	n := aNar("content")
	must(t, x.PutNar(t.Context(), n, ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := putPath(ctx, x, aPath("c", "a", n), nil, day, false)
	_, lerr := x.Lookup(ctx, "c", []string{hashPart("a")})
	for name, err := range map[string]error{"put": err, "lookup": lerr, "pin": x.PutPin(ctx, "c", cache.Pin{Name: "p"})} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if path(t, x, "c", "a") != nil {
		t.Error("a path that was given up is there")
	}
	put(t, x, aPath("c", "a", n), n)
}
