package client

import (
	"fmt"
	"slices"
	"sync"

	"github.com/garrison-nix/garrison/internal/nar"
)

// job is what one worker uploads next: an archive, or the infos of paths, each after those that it refers to.
type job struct {
	archive *node
	infos   []*node
}

func (j job) paths() []*nar.PathInfo {
	var paths []*nar.PathInfo
	for _, n := range j.infos {
		paths = append(paths, n.path)
	}
	return paths
}

// node is a path of the plan: its info may be uploaded once waits is 0.
type node struct {
	path      *nar.PathInfo
	waits     int     // its own archive, if that is uploaded, and the paths that it refers to
	dependent []*node // paths that refer to it
	taken     bool    // it was handed out with what it waits for
	same      []*node // paths with the very same archive, which is uploaded for this one
}

// plan hands out the uploads of a push: archives in the order of references, and
// a path's info once its archive and every path it refers to are uploaded. So many infos as are uploaded together are
// handed out before further archives, what is left of them when all archives are handed out. It does no I/O.
type plan struct {
	together int // infos; 1 = each by itself, as soon as it may be

	mu       sync.Mutex
	changed  *sync.Cond
	archives []*node // not yet handed out
	ready    []*node // infos not yet handed out
	left     int     // infos not yet done
	err      error   // the first failure; nothing more is handed out
}

// newPlan plans the upload of paths, some of them without their archives. References to paths that are not among them
// are in the cache. It fails when paths refer to each other in a circle.
func newPlan(paths []*nar.PathInfo, noArchive map[*nar.PathInfo]bool, together int) (*plan, error) {
	nodes := make(map[string]*node, len(paths))
	for _, p := range paths {
		nodes[p.StorePath] = &node{path: p}
	}
	for _, p := range paths {
		n := nodes[p.StorePath]
		for _, r := range p.References {
			if on := nodes[r]; on != nil && on != n {
				on.dependent = append(on.dependent, n)
				n.waits++
			}
		}
	}
	p := &plan{left: len(paths), together: together}
	p.changed = sync.NewCond(&p.mu)
	sorted := inOrder(paths, nodes)
	if len(sorted) != len(paths) {
		return nil, unusable(fmt.Errorf("%d of them refer to each other in a circle", len(paths)-len(sorted)))
	}
	first := map[nar.Hash]*node{}
	for _, n := range sorted {
		switch other := first[n.path.NarHash]; {
		case noArchive[n.path] && n.waits == 0:
			p.ready = append(p.ready, n)
		case noArchive[n.path]:
		case other != nil:
			n.waits++
			other.same = append(other.same, n)
		default:
			n.waits++
			first[n.path.NarHash] = n
			p.archives = append(p.archives, n)
		}
	}
	return p, nil
}

// inOrder sorts nodes so that each comes after those that it refers to; nodes of a circle are left out.
func inOrder(paths []*nar.PathInfo, nodes map[string]*node) []*node {
	open := make(map[*node]int, len(nodes))
	out := make([]*node, 0, len(nodes))
	for _, p := range paths {
		n := nodes[p.StorePath]
		if open[n] = n.waits; open[n] == 0 {
			out = append(out, n)
		}
	}
	for i := 0; i < len(out); i++ {
		for _, d := range out[i].dependent {
			if open[d]--; open[d] == 0 {
				out = append(out, d)
			}
		}
	}
	return out
}

// next waits for an upload that may be made; false when there will be none.
func (p *plan) next() (job, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.err != nil || p.left == 0:
			return job{}, false
		case len(p.ready) >= p.together, len(p.ready) > 0 && len(p.archives) == 0:
			return job{infos: p.take()}, true
		case len(p.archives) > 0:
			n := p.archives[0]
			p.archives = p.archives[1:]
			return job{archive: n}, true
		}
		p.changed.Wait()
	}
}

// take takes infos that are ready; together with them those that are ready after them.
func (p *plan) take() []*node {
	n := min(len(p.ready), p.together)
	infos := slices.Clone(p.ready[:n])
	p.ready = p.ready[n:]
	waits := map[*node]int{} // for what is not among infos
	for i := 0; i < len(infos) && p.together > 1; i++ {
		for _, d := range infos[i].dependent {
			if _, seen := waits[d]; !seen {
				waits[d] = d.waits
			}
			if waits[d]--; waits[d] == 0 {
				d.taken = true
				infos = append(infos, d)
			}
		}
	}
	return infos
}

// done says that an upload was made.
func (p *plan) done(j job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.archive != nil {
		for _, n := range append(j.archive.same, j.archive) {
			p.release(n)
		}
	}
	for _, n := range j.infos {
		p.left--
		for _, d := range n.dependent {
			p.release(d)
		}
	}
	p.changed.Broadcast()
}

func (p *plan) release(n *node) {
	if n.waits--; n.waits == 0 && !n.taken {
		p.ready = append(p.ready, n)
	}
}

// fail ends the plan; the first failure is kept.
func (p *plan) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.changed.Broadcast()
}
