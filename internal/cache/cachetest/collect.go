package cachetest

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

func testTouch(t *testing.T, x cache.Index) {
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	put(t, x, aPath("c", "b", n), n)
	used := func(name string, want time.Time) {
		t.Helper()
		if got := path(t, x, "c", name).UsedAt; !got.Equal(want) {
			t.Errorf("%s was used at %v, not %v", name, got, want)
		}
	}
	later := day.Add(2 * cache.TouchGrain)
	must(t, x.Touch(t.Context(), "c", []string{hashPart("a"), hashPart("nope")}, later))
	used("a", later)
	used("b", day)
	for _, at := range []time.Time{day, later.Add(cache.TouchGrain / 2)} {
		must(t, x.Touch(t.Context(), "c", []string{hashPart("a")}, at))
		used("a", later)
	}
	if _, err := putPath(t.Context(), x, aPath("c", "c", n), []string{storePath("b")}, later, false); err != nil {
		t.Fatal(err)
	}
	used("b", later)
	again := later.Add(2 * cache.TouchGrain)
	if _, err := putPath(t.Context(), x, aPath("c", "c", n), nil, again, false); err != nil {
		t.Fatal(err)
	}
	used("c", again)
}

func testWalk(t *testing.T, x cache.Index) {
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	put(t, x, aPath("d", "b", n), n)
	if _, err := putPath(t.Context(), x, anUpstreamPath("c", "u", "up:key"), nil, day, false); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	must(t, x.Walk(t.Context(), "c", func(r cache.Record) error {
		got[r.StorePath] = r.Nar.Blob + " " + r.Upstream + " " + string(r.NarInfo)
		return nil
	}))
	want := map[string]string{
		storePath("a"): n.Blob + "  StorePath: a\n",
		storePath("u"): " up:key StorePath: u\n",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
	stop := cache.ErrConflict
	if err := x.Walk(t.Context(), "c", func(cache.Record) error { return stop }); err != stop {
		t.Error(err)
	}
}

// remove deletes paths that were used at the time given, and returns those that stand in the way.
func remove(t *testing.T, x cache.Index, used, at time.Time, names ...string) []string {
	t.Helper()
	paths := map[string]time.Time{}
	for _, name := range names {
		paths[hashPart(name)] = used
	}
	in, err := x.DeletePaths(t.Context(), "c", paths, at)
	must(t, err)
	return in
}

func testDeletePaths(t *testing.T, x cache.Index) {
	n := aNar("content")
	for _, name := range []string{"a", "b", "c"} {
		put(t, x, aPath("c", name, n), n)
	}
	must(t, x.Touch(t.Context(), "c", []string{hashPart("b")}, day.Add(2*cache.TouchGrain)))
	if got := remove(t, x, day, day, "a", "b", "c"); !slices.Equal(got, []string{hashPart("b")}) || path(t, x, "c", "a") == nil {
		t.Errorf("used since: %v", got)
	}
	if got := remove(t, x, day, day, "a", "nope"); len(got) > 0 {
		t.Errorf("not deleted because of %v", got)
	}
	if path(t, x, "c", "a") != nil || path(t, x, "c", "b") == nil {
		t.Error("the wrong path was deleted")
	}
	if got := remove(t, x, day.Add(1), day, "a"); len(got) > 0 {
		t.Errorf("what is deleted stands in the way: %v", got)
	}
	if _, err := putPath(t.Context(), x, aPath("c", "d", n), []string{storePath("a")}, day, false); err == nil {
		t.Error("a deleted path was referred to")
	}
	stats, err := x.Stats(t.Context(), "c")
	if err != nil || stats.Paths != 2 {
		t.Errorf("%+v, %v", stats, err)
	}
	if _, ok, err := x.NarOf(t.Context(), "c", n.NarHash); !ok || err != nil {
		t.Error("the archive of a deleted path is not served during grace", err)
	}
	put(t, x, aPath("c", "a", n), n)
	if path(t, x, "c", "a") == nil {
		t.Error("a path that was pushed again is not there")
	}
}

func expired(t *testing.T, x cache.Index, before time.Time, want ...string) {
	t.Helper()
	got, err := x.Expire(t.Context(), before)
	must(t, err)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("expired before %v: %q, not %q", before, got, want)
	}
}

func testExpire(t *testing.T, x cache.Index) {
	shared, own := aNar("shared"), aNar("own")
	put(t, x, aPath("c", "a", shared), shared)
	put(t, x, aPath("c", "b", shared), shared)
	put(t, x, aPath("c", "c", own), own)
	future := time.Now().Add(time.Hour) // archives are stored now
	expired(t, x, future)
	remove(t, x, day, future, "a", "c")
	expired(t, x, future)
	if _, ok, err := x.NarOf(t.Context(), "c", own.NarHash); !ok || err != nil {
		t.Error("an archive is gone before its time", err)
	}
	later := future.Add(time.Second)
	expired(t, x, later, own.Blob)
	expired(t, x, later, own.Blob) // whoever was to delete it may have crashed
	if _, ok, err := x.Nar(t.Context(), own.NarHash); ok || err != nil {
		t.Error("an expired archive is known", err)
	}
	if path(t, x, "c", "b") == nil {
		t.Error("a path lost its archive")
	}
	must(t, x.Forget(t.Context(), []string{own.Blob, "nope"}))
	expired(t, x, later)

	// An archive that nothing refers to yet is about to be.
	must(t, x.PutNar(t.Context(), own, ""))
	must(t, x.TouchNars(t.Context(), []nar.Hash{own.NarHash, aNar("unknown").NarHash}, later))
	expired(t, x, later)
	expired(t, x, later.Add(time.Second), own.Blob)
	if _, err := putPath(t.Context(), x, aPath("c", "c", own), nil, day, false); err == nil {
		t.Error("a path was stored without its archive")
	}
}

// testReplacedNar: whatever loses its name is returned by Expire, and only that.
func testReplacedNar(t *testing.T, x cache.Index) {
	n := aNar("content")
	put(t, x, aPath("c", "a", n), n)
	again := n
	again.Blob = "again"
	must(t, x.PutNar(t.Context(), again, ""))
	must(t, x.PutNar(t.Context(), again, ""))
	future := time.Now().Add(time.Hour)
	expired(t, x, future, n.Blob)
	m := aNar("different")
	must(t, x.PutNar(t.Context(), m, ""))
	if _, err := putPath(t.Context(), x, aPath("c", "a", m), nil, future, true); err != nil {
		t.Fatal(err)
	}
	must(t, x.Forget(t.Context(), []string{n.Blob}))
	expired(t, x, future)
	expired(t, x, future.Add(time.Second), "again")
}

func testPins(t *testing.T, x cache.Index) {
	a := cache.Pin{Name: "a", StorePath: storePath("a"), CreatedAt: day}
	b := cache.Pin{Name: "b", StorePath: storePath("b"), CreatedAt: day, ExpiresAt: day.Add(time.Hour)}
	same := func(want ...cache.Pin) {
		t.Helper()
		if got, err := x.Pins(t.Context(), "c"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v", got, err)
		}
	}
	same()
	must(t, x.PutPin(t.Context(), "c", b))
	must(t, x.PutPin(t.Context(), "c", a))
	same(a, b)
	a.StorePath = storePath("c")
	must(t, x.PutPin(t.Context(), "c", a))
	same(a, b)
	for _, want := range []bool{true, false} {
		if was, err := x.DeletePin(t.Context(), "c", "a"); was != want || err != nil {
			t.Error(was, err)
		}
	}
	same(b)
}

func testRevoked(t *testing.T, x cache.Index) {
	now := time.Now()
	must(t, x.Revoke(t.Context(), "b", now.Add(time.Hour)))
	must(t, x.Revoke(t.Context(), "a", now.Add(time.Hour)))
	must(t, x.Revoke(t.Context(), "a", now.Add(-time.Hour)))
	if got, err := x.Revoked(t.Context()); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q, %v", got, err)
	}
}

// testSent: what was sent to one cache was not sent to another, and is forgotten in time.
func testSent(t *testing.T, x cache.Index) {
	n, at := aNar("content"), time.Now()
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "d"}))
	sent := func(name string, want bool) {
		t.Helper()
		if got, err := x.NarsFor(t.Context(), name, []nar.Hash{aNar("unknown").NarHash, n.NarHash, n.NarHash}); err != nil || len(got) > 1 || (got[n.NarHash] == n) != want {
			t.Errorf("sent to %s: %v, %v", name, got, err)
		}
	}
	must(t, x.PutNar(t.Context(), n, ""))
	must(t, x.TouchNars(t.Context(), []nar.Hash{n.NarHash}, at.Add(time.Hour)))
	sent("c", false)
	must(t, x.NoteSent(t.Context(), "c", n.NarHash, at))
	must(t, x.NoteSent(t.Context(), "c", n.NarHash, at.Add(-time.Hour)))
	sent("c", true)
	sent("d", false)
	sent("nope", false)
	if err := x.NoteSent(t.Context(), "nope", n.NarHash, at); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("sent to no cache: %v", err)
	}
	expired(t, x, at)
	sent("c", true)
	expired(t, x, at.Add(2*time.Second))
	sent("c", false)
	must(t, x.NoteSent(t.Context(), "c", n.NarHash, at))
	must(t, x.DeleteCache(t.Context(), "c"))
	must(t, x.CreateCache(t.Context(), cache.Cache{Name: "c"}))
	sent("c", false)
	must(t, x.NoteSent(t.Context(), "c", aNar("unknown").NarHash, at))
	put(t, x, aPath("d", "a", n), n)
	sent("c", false)
	sent("d", true)
}
