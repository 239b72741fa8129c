package client

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

// TestPlan works through random closures with jobs that end in any order: whatever is handed out, all that it needs is done, or before it in the same
// job; everything is handed out once; and paths come together where they may.
func TestPlan(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		together := 1 + 9*int(seed%2)
		var paths []*nar.PathInfo
		noArchive := map[*nar.PathInfo]bool{}
		for i := range 1 + r.IntN(40) {
			info := &nar.PathInfo{StorePath: fmt.Sprint("path-", i), NarHash: nar.Hash{byte(r.IntN(30))}}
			for _, p := range paths {
				if r.IntN(4) == 0 {
					info.References = append(info.References, p.StorePath)
				}
			}
			noArchive[info] = r.IntN(5) == 0
			paths = append(paths, info)
		}
		r.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
		p, err := newPlan(paths, noArchive, together)
		if err != nil {
			t.Fatal(err)
		}
		archives, infos, open := map[nar.Hash]bool{}, map[string]bool{}, []job{}
		most, handed := 0, 0
		for len(infos) < len(paths) {
			for p.mayHandOut() && (len(open) == 0 || r.IntN(3) > 0) {
				j, _ := p.next()
				open = append(open, j)
				most = max(most, len(j.infos))
				before := map[string]bool{}
				for _, info := range j.paths() {
					for _, ref := range info.References {
						if !infos[ref] && !before[ref] {
							t.Fatalf("seed %d: %s comes before %s", seed, info.StorePath, ref)
						}
					}
					if !noArchive[info] && !archives[info.NarHash] || before[info.StorePath] || infos[info.StorePath] {
						t.Fatalf("seed %d: %s comes too early, or twice", seed, info.StorePath)
					}
					before[info.StorePath] = true
					handed++
				}
			}
			i := r.IntN(len(open))
			j := open[i]
			open = append(open[:i:i], open[i+1:]...)
			if j.archive != nil {
				if archives[j.archive.path.NarHash] {
					t.Fatalf("seed %d: an archive twice", seed)
				}
				archives[j.archive.path.NarHash] = true
			}
			for _, info := range j.paths() {
				infos[info.StorePath] = true
			}
			p.done(j)
		}
		if _, ok := p.next(); ok || len(open) > 0 || handed != len(paths) {
			t.Errorf("seed %d: %d of %d paths were handed out, %d jobs are open", seed, handed, len(paths), len(open))
		}
		if together == 1 && most > 1 || together > 1 && len(paths) > 20 && most < 2 {
			t.Errorf("seed %d: %d paths came together", seed, most)
		}
	}
}

// mayHandOut says whether next would not wait.
func (p *plan) mayHandOut() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left == 0 || len(p.ready) > 0 || len(p.archives) > 0
}
