package client

import (
	"fmt"
	"sync"

	"github.com/garrison-nix/garrison/internal/nar"
)

// jobKind is one of the two uploads that a path needs.
type jobKind int

const (
	uploadArchive jobKind = iota
	uploadInfo
)

// job is one upload.
type job struct {
	kind jobKind
	path *nar.PathInfo
	node *node
}

// node is a path of the plan: its info may be uploaded once waits is 0.
type node struct {
	path      *nar.PathInfo
	waits     int     // its own archive, if that is uploaded, and the paths that it refers to
	dependent []*node // paths that refer to it
	same      []*node // paths with the very same archive, which is uploaded for this one
}

// plan hands out the uploads of a push: archives in the order of references, and
// a path's info as soon as its archive and every path it refers to are uploaded,
// before further archives. It does no I/O.
type plan struct {
	mu       sync.Mutex
	changed  *sync.Cond
	archives []*node // not yet handed out
	ready    []*node // infos not yet handed out
	left     int     // infos not yet done
	err      error   // the first failure; nothing more is handed out
}

// newPlan plans the upload of paths, some of them without their archives. References to paths that are not among them
// are in the cache. It fails when paths refer to each other in a circle.
func newPlan(paths []*nar.PathInfo, noArchive map[*nar.PathInfo]bool) (*plan, error) {
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
	p := &plan{left: len(paths)}
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
		case len(p.ready) > 0:
			n := p.ready[0]
			p.ready = p.ready[1:]
			return job{uploadInfo, n.path, n}, true
		case len(p.archives) > 0:
			n := p.archives[0]
			p.archives = p.archives[1:]
			return job{uploadArchive, n.path, n}, true
		}
		p.changed.Wait()
	}
}

// done says that an upload was made.
func (p *plan) done(j job) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if j.kind == uploadArchive {
		p.release(j.node)
		for _, n := range j.node.same {
			p.release(n)
		}
	} else {
		p.left--
		for _, d := range j.node.dependent {
			p.release(d)
		}
	}
	p.changed.Broadcast()
}

func (p *plan) release(n *node) {
	if n.waits--; n.waits == 0 {
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
