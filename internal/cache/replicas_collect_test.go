package cache_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
)

// TestReplicasCollectTogether: two servers collect and sweep the same cache at the same time, while both take pushes that refer to what
// is being collected. What is left is whole, and readable from both; the bucket has just that.
func TestReplicasCollectTogether(t *testing.T) {
	t.Parallel()
	s, indexes := replicas(t)
	r := rand.New(rand.NewPCG(1, 2))
	old := map[string]object{}
	var paths []string
	for i := range 40 {
		o := newObject(t, fmt.Sprint("old-", i), fmt.Sprint("old content ", i))
		for _, p := range paths {
			if r.IntN(8) == 0 {
				o.info.References = append(o.info.References, p)
			}
		}
		call(t, s[i%2], "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
		path := cache.Path{Cache: "c", StorePath: o.info.StorePath, NarHash: o.info.NarHash, NarInfo: o.info.Encode()}
		_, err := indexes[i%2].PutPaths(t.Context(), []cache.NewPath{{Path: path, References: o.info.References}}, time.Now().Add(-60*24*time.Hour))
		check(t, err)
		old[o.info.StorePath], paths = o, append(paths, o.info.StorePath)
	}
	var all sync.WaitGroup
	pushed, begun := make(chan object, 40), [2]chan bool{make(chan bool), make(chan bool)}
	for i := range s {
		all.Go(func() {
			<-begun[i]
			p, err := s[i].Cache.PlanCollection(t.Context(), "c", cache.Retention{Unused: 20 * 24 * time.Hour})
			if err == nil {
				err = s[i].Cache.Execute(t.Context(), p)
			}
			if err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			for n := range 20 {
				if n == 3 {
					close(begun[i])
				}
				o := newObject(t, fmt.Sprintf("new-%d-%d", i, n), fmt.Sprint("new content ", i, n), paths[(n*7+i)%len(paths)])
				call(t, s[i], "PUT", "/c/"+o.info.URL, o.file).want(t, 200, "")
				switch a := call(t, s[i], "PUT", "/c/"+o.hash+".narinfo", o.info.Encode()); a.status {
				case 200:
					pushed <- o
				case 400: // what it refers to was collected before
				default:
					t.Errorf("%d %s", a.status, a.body)
				}
			}
		})
	}
	all.Wait()
	close(pushed)
	for i := range s {
		s[i].Cache.Grace = -2 * time.Second // what was deleted now counts as deleted long ago
		all.Go(func() {
			if _, err := s[i].Cache.Sweep(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	left := wantWhole(t, indexes[0])
	kept := map[string]bool{}
	want := func(o object) {
		if _, ok := left[o.info.StorePath]; !ok {
			t.Errorf("%s is gone", o.info.StorePath)
		}
		for i := range s {
			call(t, s[i], "GET", "/c/"+o.info.URL, nil).want(t, 200, string(o.file))
		}
	}
	for o := range pushed {
		want(o)
		kept[o.info.StorePath] = true
	}
	if len(kept) == 0 {
		t.Error("nothing was pushed before it was collected")
	}
	t.Logf("%d pushed, %d of %d old ones kept", len(kept), len(left)-len(kept), len(old))
	for p := range left {
		if o, ok := old[p]; ok {
			want(o)
		}
	}
	named := map[string]bool{}
	check(t, indexes[1].Nars(t.Context(), func(n cache.Nar) error { named[n.Blob] = true; return nil }))
	check(t, s[0].Cache.Blobs.List(t.Context(), "", func(b cache.Blob) error {
		if !named[b.Key] {
			t.Errorf("%s is in the bucket, and nothing names it", b.Key)
		}
		delete(named, b.Key)
		return nil
	}))
	if len(named) > 0 {
		t.Errorf("%d archives are not in the bucket", len(named))
	}
}
