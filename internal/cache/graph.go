package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// graph is what refers to what in a cache, as of one moment: about 250 bytes a path.
type graph struct {
	index map[hashPart]int32
	nodes []node
	refs  []int32 // of all nodes, one after another
}

// hashPart is the hash of a store path, in Nix's base 32.
type hashPart [32]byte

type node struct {
	hash     hashPart
	known    bool // false for what is only referred to
	first    int  // of its references in refs
	refs     int
	used     int64 // seconds since 1970
	fileSize int64
	archive  int32 // a number of its own for each archive; -1 for an upstream path
	name     string
}

func (n *node) storePath(dir string) string { return dir + "/" + string(n.hash[:]) + "-" + n.name }

// readGraph reads all paths of a cache.
func (s *Server) readGraph(ctx context.Context, cache string) (*graph, error) {
	g := &graph{index: map[hashPart]int32{}}
	archives := map[nar.Hash]int32{}
	var incomplete []int32
	err := s.Index.Walk(ctx, cache, func(r Record) error {
		_, hash, name, err := nar.SplitStorePath(r.StorePath)
		if err != nil {
			return fmt.Errorf("the index has a bad path: %w", err)
		}
		n := node{known: true, first: len(g.refs), used: r.UsedAt.Unix(), fileSize: r.Nar.FileSize, archive: -1, name: name}
		copy(n.hash[:], hash)
		if r.Upstream == "" {
			if _, ok := archives[r.Nar.NarHash]; !ok {
				archives[r.Nar.NarHash] = int32(len(archives))
			}
			n.archive = archives[r.Nar.NarHash]
		}
		i := g.number(n.hash)
		for ref := range references(r.NarInfo) {
			if j := g.number(ref); j != i {
				g.refs = append(g.refs, j)
			}
		}
		n.refs = len(g.refs) - n.first
		g.nodes[i] = n
		if r.Upstream == Incomplete {
			incomplete = append(incomplete, i)
		}
		return nil
	})
	for _, i := range incomplete { // that what it refers to has not come is no fault
		n := &g.nodes[i]
		n.refs = len(slices.DeleteFunc(g.references(i), func(r int32) bool { return !g.nodes[r].known }))
	}
	return g, err
}

func (g *graph) number(h hashPart) int32 {
	i, ok := g.index[h]
	if !ok {
		i = int32(len(g.nodes))
		g.index[h] = i
		g.nodes = append(g.nodes, node{hash: h})
	}
	return i
}

func (g *graph) references(i int32) []int32 {
	n := &g.nodes[i]
	return g.refs[n.first : n.first+n.refs]
}

// references are the hash parts in the line References of a narinfo that the index holds, which was valid once.
func references(narInfo []byte) func(yield func(hashPart) bool) {
	const key = "\nReferences: "
	return func(yield func(hashPart) bool) {
		_, rest, _ := bytes.Cut(narInfo, []byte(key))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		for base := range bytes.FieldsSeq(line) {
			if len(base) < len(hashPart{}) {
				continue
			}
			if !yield(hashPart(base[:len(hashPart{})])) {
				return
			}
		}
	}
}

// order numbers the nodes so that what refers comes before what it refers to. References in a circle, which no
// cache that verified them has, come in any order.
func (g *graph) order() []int32 {
	const unseen, open, done = 0, 1, 2
	state := make([]byte, len(g.nodes))
	next := make([]int32, len(g.nodes)) // how many references of an open node are done with
	post := make([]int32, 0, len(g.nodes))
	var stack []int32
	for i := range g.nodes {
		if state[i] != unseen {
			continue
		}
		stack = append(stack[:0], int32(i))
		state[i] = open
		for len(stack) > 0 {
			top := stack[len(stack)-1]
			refs := g.references(top)
			if int(next[top]) < len(refs) {
				if r := refs[next[top]]; state[r] == unseen {
					state[r] = open
					stack = append(stack, r)
				}
				next[top]++
				continue
			}
			state[top] = done
			post = append(post, top)
			stack = stack[:len(stack)-1]
		}
	}
	slices.Reverse(post)
	return post
}

// lend has every node be at least as lately used as what refers to it, given the order; reaches is the same for being kept by roots.
func (g *graph) lend(order []int32, reaches []bool) {
	for _, i := range order {
		for _, r := range g.references(i) {
			g.nodes[r].used = max(g.nodes[r].used, g.nodes[i].used)
			reaches[r] = reaches[r] || reaches[i]
		}
	}
}

// referrers are all nodes that refer to one of the targets, whether by others or not, the targets with them; what refers comes first.
func (g *graph) referrers(targets map[hashPart]bool) []int32 {
	order := g.order()
	hit := make([]bool, len(g.nodes))
	var found []int32
	for _, i := range slices.Backward(order) { // what is referred to comes first
		n := &g.nodes[i]
		hit[i] = targets[n.hash] || slices.ContainsFunc(g.references(i), func(r int32) bool { return hit[r] })
		if hit[i] && n.known {
			found = append(found, i)
		}
	}
	slices.Reverse(found)
	return found
}

// lost are the nodes that refer to something that is not there.
func (g *graph) lost() map[hashPart]bool {
	missing := map[hashPart]bool{}
	for i := range g.nodes {
		if !g.nodes[i].known {
			missing[g.nodes[i].hash] = true
		}
	}
	return missing
}

// deleteBatch is how many paths a transaction deletes: other writers wait for it.
const deleteBatch = 500

// remove deletes nodes, which come in an order in which what refers comes first. What was used since stays, and what that refers to.
func (s *Server) remove(ctx context.Context, cache string, g *graph, used map[int32]int64, nodes []int32) (removed []int32, err error) {
	defer s.quotas.recount(cache)
	stays := map[int32]bool{}
	for len(nodes) > 0 {
		n := min(deleteBatch, len(nodes))
		batch := slices.DeleteFunc(slices.Clone(nodes[:n]), func(i int32) bool { return stays[i] })
		paths := make(map[string]time.Time, len(batch))
		for _, i := range batch {
			paths[string(g.nodes[i].hash[:])] = time.Unix(used[i], 0)
		}
		since, err := s.Index.DeletePaths(ctx, cache, paths, time.Now())
		for h := range paths {
			s.memory.forget(memoryKey{cache, h})
		}
		if err != nil {
			return removed, err
		}
		if len(since) > 0 { // tried again without them
			for _, h := range since {
				i, ok := g.index[hashPart([]byte(h))]
				if !ok {
					return removed, errors.New("the index names a path that it was not asked for")
				}
				g.keep(i, stays)
			}
			continue
		}
		removed = append(removed, batch...)
		nodes = nodes[n:]
	}
	return removed, nil
}

// keep adds a node and all that it refers to.
func (g *graph) keep(from int32, to map[int32]bool) {
	for stack := []int32{from}; len(stack) > 0; {
		i := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if !to[i] {
			to[i] = true
			stack = append(stack, g.references(i)...)
		}
	}
}
