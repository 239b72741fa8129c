package cache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// aged puts a path that was last used so long ago, past the server's clock.
func aged(t *testing.T, s *cachetest.Server, o object, ago time.Duration) object {
	t.Helper()
	call(t, s, "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
	path := cache.Path{Cache: "c", StorePath: o.info.StorePath, NarHash: o.info.NarHash, NarInfo: o.info.Encode()}
	if _, err := s.Index.PutPaths(t.Context(), []cache.NewPath{{Path: path, References: o.info.References}}, time.Now().Add(-ago)); err != nil {
		t.Fatal(err)
	}
	return o
}

// live are the names of the paths in the cache, with what each refers to.
func live(t *testing.T, x cache.Index) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	err := x.Walk(t.Context(), "c", func(r cache.Record) error {
		info, err := nar.ParseNarInfo(r.NarInfo)
		if err != nil {
			return err
		}
		out[r.StorePath] = info.References
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantWhole fails the test if something refers to what is not there.
func wantWhole(t *testing.T, x cache.Index) map[string][]string {
	t.Helper()
	paths := live(t, x)
	for p, refs := range paths {
		for _, r := range refs {
			if _, ok := paths[r]; !ok {
				t.Fatalf("%s is served without %s", p, r)
			}
		}
	}
	return paths
}

// days is how long ago what a random fleet has was used: from never mind to long ago.
var days = []time.Duration{time.Hour, 30 * time.Hour, 5 * 24 * time.Hour, 50 * 24 * time.Hour}

// randomPaths fills the cache with paths that refer to each other, and pins some.
func randomPaths(t *testing.T, s *cachetest.Server, r *rand.Rand) {
	t.Helper()
	var all []string
	for i := range 40 {
		o := newObject(t, fmt.Sprint("p", i), fmt.Sprint("content ", r.IntN(30)))
		for _, p := range all {
			if r.IntN(8) == 0 {
				o.info.References = append(o.info.References, p)
			}
		}
		aged(t, s, o, days[r.IntN(len(days))])
		all = append(all, o.info.StorePath)
	}
	pin := cache.Pin{Name: "p", StorePath: all[r.IntN(len(all))], CreatedAt: time.Now()}
	gone := cache.Pin{Name: "q", StorePath: all[r.IntN(len(all))], ExpiresAt: time.Now().Add(-time.Hour)}
	if err := errors.Join(s.Index.PutPin(t.Context(), "c", pin), s.Index.PutPin(t.Context(), "c", gone)); err != nil {
		t.Fatal(err)
	}
}

// TestCollectionLeavesClosuresWhole: of random caches, what is left is whole, what must be kept is kept, what need not be is gone,
// and the plan said so.
func TestCollectionLeavesClosuresWhole(t *testing.T) {
	deleted := 0
	for seed := range uint64(12) {
		s := cachetest.NewServer(t, nil)
		randomPaths(t, s, rand.New(rand.NewPCG(seed, 1)))
		before := wantWhole(t, s.Index)
		used := usedOf(t, s.Index)
		retention := cache.Retention{Unused: 20 * 24 * time.Hour}
		if seed%2 == 1 {
			retention = cache.Retention{MaxBytes: 300}
		}
		p, err := s.Cache.PlanCollection(t.Context(), "c", retention)
		if err != nil {
			t.Fatal(err)
		}
		if got := live(t, s.Index); !maps.EqualFunc(got, before, slices.Equal) {
			t.Fatal("planning changed something")
		}
		if err := s.Cache.Execute(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		after := wantWhole(t, s.Index)
		deleted += len(p.Delete)
		if len(after) != len(before)-len(p.Delete) || p.Used != 0 {
			t.Fatalf("seed %d: %d paths, %d planned to go, %d left", seed, len(before), len(p.Delete), len(after))
		}
		pins, err := s.Index.Pins(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		kept := closureOf(before, pins[0].StorePath)
		for p, at := range used {
			if time.Since(at) < cache.MinUnused || retention.Unused > 0 && time.Since(at) < retention.Unused {
				maps.Copy(kept, closureOf(before, p))
			}
		}
		for p := range before {
			_, there := after[p]
			if kept[p] && !there {
				t.Errorf("seed %d: %s is gone", seed, p)
			}
			if retention.Unused > 0 && !kept[p] && there {
				t.Errorf("seed %d: %s was left", seed, p)
			}
		}
		stats, err := s.Index.Stats(t.Context(), "c")
		if err != nil || stats.StoredBytes != p.StoredSize-p.Freed {
			t.Errorf("seed %d: %d bytes are left of %d, with %d freed", seed, stats.StoredBytes, p.StoredSize, p.Freed)
		}
		if retention.MaxBytes > 0 && max(0, stats.StoredBytes-retention.MaxBytes) != p.OverBytes {
			t.Errorf("seed %d: %d bytes are left, said to be %d too many", seed, stats.StoredBytes, p.OverBytes)
		}
	}
	if deleted < 50 {
		t.Errorf("only %d paths were deleted in all", deleted)
	}
}

func usedOf(t *testing.T, x cache.Index) map[string]time.Time {
	t.Helper()
	out := map[string]time.Time{}
	if err := x.Walk(t.Context(), "c", func(r cache.Record) error { out[r.StorePath] = r.UsedAt; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

func closureOf(paths map[string][]string, of string) map[string]bool {
	out := map[string]bool{of: true}
	for _, r := range paths[of] {
		maps.Copy(out, closureOf(paths, r))
	}
	return out
}

// faultyIndex fails from its nth change on.
type faultyIndex struct {
	cache.Index
	left int
}

var errFault = errors.New("injected")

func (x *faultyIndex) fault() error {
	if x.left--; x.left < 0 {
		return errFault
	}
	return nil
}

func (x *faultyIndex) DeletePaths(ctx context.Context, c string, paths map[string]time.Time, at time.Time) ([]string, error) {
	if err := x.fault(); err != nil {
		return nil, err
	}
	return x.Index.DeletePaths(ctx, c, paths, at)
}

func (x *faultyIndex) Expire(ctx context.Context, before time.Time) ([]string, error) {
	if err := x.fault(); err != nil {
		return nil, err
	}
	return x.Index.Expire(ctx, before)
}

func (x *faultyIndex) Forget(ctx context.Context, blobs []string) error {
	if err := x.fault(); err != nil {
		return err
	}
	return x.Index.Forget(ctx, blobs)
}

type faultyBlobs struct {
	cache.Blobs
	x *faultyIndex
}

func (b *faultyBlobs) Delete(ctx context.Context, key string) error {
	if err := b.x.fault(); err != nil {
		return err
	}
	return b.Blobs.Delete(ctx, key)
}

// TestCollectionInterruptedAtEveryStep: whatever step a crash comes before, what is served is whole, and the next collection ends the work.
func TestCollectionInterruptedAtEveryStep(t *testing.T) {
	for n := 0; ; n++ {
		s := cachetest.NewServer(t, nil)
		base := aged(t, s, newObject(t, "base", "base"), 50*24*time.Hour)
		aged(t, s, newObject(t, "app", "app", base.info.StorePath), 40*24*time.Hour)
		stays := aged(t, s, newObject(t, "new", "new"), time.Hour)
		x := &faultyIndex{Index: s.Index, left: n}
		o := cache.Options{Blobs: &faultyBlobs{s.Blobs, x}, Index: x, Retention: cache.Retention{Unused: 20 * 24 * time.Hour}, Grace: -time.Hour}
		err := cache.New(o).Collect(t.Context())
		if err != nil && !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		wantWhole(t, s.Index)
		x.left = 1000
		if err := cache.New(o).Collect(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := wantWhole(t, s.Index); len(got) != 1 {
			t.Errorf("step %d: %d paths are left", n, len(got))
		}
		var blobs []string
		if err := s.Blobs.List(t.Context(), "", func(b cache.Blob) error { blobs = append(blobs, b.Key); return nil }); err != nil {
			t.Fatal(err)
		}
		if len(blobs) != 1 || !strings.HasPrefix(blobs[0], stays.info.NarHash.Nix32()) {
			t.Errorf("step %d: content left: %q", n, blobs)
		}
		if err == nil {
			if n < 4 {
				t.Errorf("there were only %d steps", n)
			}
			return
		}
	}
}

// TestPushDuringCollection: what a push has come to refer to after the plan stays, with all that it needs.
func TestPushDuringCollection(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	base := aged(t, s, newObject(t, "base", "base"), 50*24*time.Hour)
	lib := aged(t, s, newObject(t, "lib", "lib", base.info.StorePath), 50*24*time.Hour)
	aged(t, s, newObject(t, "old", "old", lib.info.StorePath), 50*24*time.Hour)
	p, err := s.Cache.PlanCollection(t.Context(), "c", cache.Retention{Unused: 20 * 24 * time.Hour})
	if err != nil || len(p.Delete) != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	call(t, s, "POST", "/_api/v1/get-missing-paths", fmt.Appendf(nil, `{"cache":"c","store_path_hashes":[%q]}`, lib.hash)).want(t, 200, `"missing_paths":[]`)
	if err := s.Cache.Execute(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if got := wantWhole(t, s.Index); len(got) != 2 || p.Used != 2 {
		t.Errorf("left: %v, said to be used since: %d", got, p.Used)
	}
	newObject(t, "new", "new", lib.info.StorePath).put(t, s)
	wantWhole(t, s.Index)
}

// TestGrace: the archive of a deleted path stays where it was for a while, and pushing the path again needs no archive.
func TestGrace(t *testing.T) {
	o := cache.Options{Retention: cache.Retention{Unused: 20 * 24 * time.Hour}, Grace: 2 * time.Hour}
	s := cachetest.Start(t, o, nil)
	a := aged(t, s, newObject(t, "hello", "hello"), 30*24*time.Hour)
	if err := s.Cache.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	call(t, s, "GET", "/c/"+a.hash+".narinfo", nil).want(t, 404, "NoSuchObject")
	call(t, s, "GET", "/c/"+a.info.URL, nil).want(t, 200, string(a.file))
	call(t, s, "PUT", "/c/"+a.hash+".narinfo", a.info.Encode()).want(t, 200, "")
	call(t, s, "GET", "/c/"+a.hash+".narinfo", nil).want(t, 200, "StorePath: "+a.info.StorePath)
	if err := s.Cache.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	call(t, s, "GET", "/c/"+a.info.URL, nil).want(t, 200, string(a.file))
}

func TestRoots(t *testing.T) {
	var roots []string
	var unknown error
	o := cache.Options{Retention: cache.Retention{Unused: 20 * 24 * time.Hour}, Roots: func(context.Context) ([]string, error) { return roots, unknown }}
	s := cachetest.Start(t, o, nil)
	base := aged(t, s, newObject(t, "base", "base"), 50*24*time.Hour)
	system := aged(t, s, newObject(t, "system", "system", base.info.StorePath), 50*24*time.Hour)
	roots = []string{system.info.StorePath, "not a store path", ""}
	if err := s.Cache.Collect(t.Context()); err != nil || len(live(t, s.Index)) != 2 {
		t.Errorf("a host's system was collected: %v", err)
	}
	roots, unknown = nil, errors.New("hosts cannot be asked")
	if err := s.Cache.Collect(t.Context()); !errors.Is(err, unknown) || len(live(t, s.Index)) != 2 {
		t.Errorf("collected though nobody knows what hosts have: %v", err)
	}
	unknown = nil
	if err := s.Cache.Collect(t.Context()); err != nil || len(live(t, s.Index)) != 0 {
		t.Errorf("not collected: %v", err)
	}
}

// TestOrphans: content that no upload finished goes once it is old.
func TestOrphans(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	newObject(t, "hello", "hello").put(t, s)
	for _, key := range []string{"old-one", "new-one"} {
		if err := s.Blobs.Put(t.Context(), key, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
			t.Fatal(err)
		}
	}
	long := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(s.Dir+"/nar/ol/old-one", long, long); err != nil {
		t.Fatal(err)
	}
	swept, err := s.Cache.Sweep(t.Context())
	if err != nil || swept != (cache.Swept{Orphans: 1}) {
		t.Fatalf("%+v, %v", swept, err)
	}
	n := 0
	if err := s.Blobs.List(t.Context(), "", func(b cache.Blob) error { n++; return nil }); err != nil || n != 2 {
		t.Errorf("%d are left, %v", n, err)
	}
}

func keeper(t *testing.T, s *cachetest.Server) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{URL: s.CacheURL(), Token: func() (string, error) { return cachetest.PushToken, nil }, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPins(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	a := aged(t, s, newObject(t, "a", "a"), 50*24*time.Hour)
	c := keeper(t, s)
	for i := range 5 {
		if err := c.Pin(t.Context(), client.Pin{Name: fmt.Sprint("release/web/", i), StorePath: a.info.StorePath, KeepLast: 2}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Pin(t.Context(), client.Pin{Name: "release/db/1", StorePath: a.info.StorePath}, client.Pin{Name: "by hand", StorePath: a.info.StorePath}); err == nil || !strings.Contains(err.Error(), "cannot name a pin") {
		t.Errorf("a bad name: %v", err)
	}
	if err := c.Pin(t.Context(), client.Pin{Name: "nope", StorePath: a.info.StorePath + "x"}); err == nil || !strings.Contains(err.Error(), "push it first") {
		t.Errorf("a path that is not there: %v", err)
	}
	pins, err := c.Pins(t.Context())
	if err != nil || len(pins) != 2 || pins[0].Name != "release/web/3" || pins[1].Name != "release/web/4" {
		t.Errorf("%+v, %v", pins, err)
	}
	unused := 20 * 24 * time.Hour
	p, err := c.Collect(t.Context(), client.Retention{Unused: &unused}, true)
	if err != nil || len(p.Delete) != 0 || p.KeptByRoots != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	for _, name := range []string{"release/web/3", "release/web/4"} {
		if err := c.Unpin(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Unpin(t.Context(), "nope"); err == nil || !strings.Contains(err.Error(), "no pin") {
		t.Error(err)
	}
	short := time.Hour
	if _, err := c.Collect(t.Context(), client.Retention{Unused: &short}, true); err == nil || len(live(t, s.Index)) != 1 {
		t.Errorf("too short a retention: %v", err)
	}
	if p, err = c.Collect(t.Context(), client.Retention{Unused: &unused}, false); err != nil || len(p.Delete) != 1 || p.Executed || len(live(t, s.Index)) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = c.Collect(t.Context(), client.Retention{Unused: &unused}, true); err != nil || !p.Executed || len(live(t, s.Index)) != 0 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestKeepingNeedsPermission(t *testing.T) {
	s := cachetest.NewServer(t, nil)
	for path, method := range map[string]string{
		"/pins": "POST", "/pins/p": "DELETE", "/collect": "POST", "/fsck": "POST", "/paths/" + strings.Repeat("0", 32): "DELETE",
	} {
		call(t, s, method, "/api/v1/caches/c"+path, []byte(`{}`), "Authorization", "").want(t, http.StatusUnauthorized, "Unauthorized")
	}
}
