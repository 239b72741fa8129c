package cache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Problem is what is wrong with a path.
type Problem string

// The problems.
const (
	ProblemMissing   Problem = "missing"   // its archive is not stored
	ProblemSize      Problem = "size"      // its archive is stored with another size
	ProblemContent   Problem = "content"   // its archive is not what it was
	ProblemNarInfo   Problem = "narinfo"   // its description cannot be read, or is another path's
	ProblemReference Problem = "reference" // it refers to a path that the cache does not have
	ProblemClosure   Problem = "closure"   // it refers, by others, to a path with a problem
)

// Finding is one path with a problem.
type Finding struct {
	StorePath string  `json:"storePath"`
	Problem   Problem `json:"problem"`
	Detail    string  `json:"detail,omitempty"`
}

// Check is what Fsck found.
type Check struct {
	Schema   int       `json:"schema"` // 1
	Cache    string    `json:"cache"`
	Paths    int       `json:"paths"`
	Archives int       `json:"archives"` // that were looked at
	Bytes    int64     `json:"bytes"`    // that were read; 0 unless content was asked for
	Findings []Finding `json:"findings"`
	Repaired int       `json:"repaired"` // paths that count as missing from now on, so that the next push brings them
	Used     int       `json:"usedSince"`
}

// FsckOptions say what Fsck does.
type FsckOptions struct {
	Content  bool                                            // read every archive, not only its size
	Repair   bool                                            // mark what is broken, and all that refers to it, as missing
	Progress func(archives, of int, bytes int64) (err error) // called after each archive; an error ends the check
}

// Fsck looks whether everything that the cache promises is there. With Repair broken archives are deleted, and paths
// without their whole closure become absent: they are pushed again by whoever has them.
func (s *Server) Fsck(ctx context.Context, name string, o FsckOptions) (*Check, error) {
	f := &fsck{s: s, o: o, out: &Check{Schema: 1, Cache: name, Findings: []Finding{}}, bad: map[hashPart]bool{}, archives: map[nar.Hash]Nar{}, users: map[nar.Hash][]hashPart{}}
	g, err := s.readGraph(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := f.paths(ctx, name); err != nil {
		return nil, err
	}
	if err := f.contents(ctx, g); err != nil {
		return nil, err
	}
	f.references(g)
	return f.out, f.repair(ctx, g)
}

type fsck struct {
	s        *Server
	o        FsckOptions
	out      *Check
	bad      map[hashPart]bool
	archives map[nar.Hash]Nar
	users    map[nar.Hash][]hashPart
	broken   []Nar // archives to delete
}

func (f *fsck) find(storePath string, p Problem, detail string) {
	f.out.Findings = append(f.out.Findings, Finding{storePath, p, detail})
	if h, err := nar.HashPart(storePath); err == nil {
		f.bad[hashPart([]byte(h))] = true
	}
}

// paths looks at what the index says of each path, and notes which archives there must be.
func (f *fsck) paths(ctx context.Context, name string) error {
	return f.s.Index.Walk(ctx, name, func(r Record) error {
		f.out.Paths++
		info, err := nar.ParseNarInfo(r.NarInfo)
		switch {
		case err != nil:
			f.find(r.StorePath, ProblemNarInfo, err.Error())
		case info.StorePath != r.StorePath:
			f.find(r.StorePath, ProblemNarInfo, "it describes "+info.StorePath)
		case r.Upstream != "":
		case info.NarHash != r.Nar.NarHash || info.NarSize != r.Nar.NarSize:
			f.find(r.StorePath, ProblemNarInfo, fmt.Sprintf("its archive is %s of %d bytes", r.Nar.NarHash, r.Nar.NarSize))
		default:
			h, err := nar.HashPart(r.StorePath)
			if err != nil {
				return err
			}
			f.archives[r.Nar.NarHash] = r.Nar
			f.users[r.Nar.NarHash] = append(f.users[r.Nar.NarHash], hashPart([]byte(h)))
		}
		return nil
	})
}

func (f *fsck) contents(ctx context.Context, g *graph) error {
	for hash, n := range f.archives {
		if err := ctx.Err(); err != nil {
			return err
		}
		problem, detail, err := f.archive(ctx, n)
		if err != nil {
			return err
		}
		f.out.Archives++
		if problem != "" {
			f.broken = append(f.broken, n)
			for _, h := range f.users[hash] {
				f.find(g.nodes[g.index[h]].storePath(f.s.StoreDir), problem, detail)
			}
		}
		if f.o.Progress != nil {
			if err := f.o.Progress(f.out.Archives, len(f.archives), f.out.Bytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// archive looks at one archive. An error means that this could not be found out.
func (f *fsck) archive(ctx context.Context, n Nar) (Problem, string, error) {
	size, ok, err := f.s.Blobs.Stat(ctx, n.Blob)
	switch {
	case err != nil:
		return "", "", err
	case !ok:
		return ProblemMissing, "", nil
	case size != n.FileSize:
		return ProblemSize, fmt.Sprintf("%d bytes are stored, not %d", size, n.FileSize), nil
	case !f.o.Content:
		return "", "", nil
	}
	file, err := f.s.Blobs.Open(ctx, n.Blob)
	if errors.Is(err, ErrNotFound) {
		return ProblemMissing, "", nil
	}
	if err != nil {
		return "", "", err
	}
	defer file.Close()
	in := &rememberingReader{r: file}
	got, err := f.s.receive(ctx, in, nil, narFile{hash: n.NarHash})
	f.out.Bytes += n.FileSize
	var refused *httpError
	switch {
	case in.err != nil:
		return "", "", fmt.Errorf("read %s: %w", n.Blob, in.err)
	case errors.As(err, &refused):
		return ProblemContent, refused.message, nil
	case err != nil:
		return "", "", err
	case got.FileHash != n.FileHash:
		return ProblemContent, "the file's hash is " + got.FileHash.String() + ", not " + n.FileHash.String(), nil
	}
	return "", "", nil
}

// references finds what refers to something that is not there, or not whole.
func (f *fsck) references(g *graph) {
	lost := g.lost()
	for i := range g.nodes {
		n := &g.nodes[i]
		for _, r := range g.references(int32(i)) {
			if !g.nodes[r].known && !f.bad[n.hash] {
				f.find(n.storePath(f.s.StoreDir), ProblemReference, "it refers to "+string(g.nodes[r].hash[:])+"-…")
			}
		}
	}
	for h := range f.bad {
		lost[h] = true
	}
	for _, i := range g.referrers(lost) {
		if n := &g.nodes[i]; !f.bad[n.hash] {
			f.find(n.storePath(f.s.StoreDir), ProblemClosure, "")
		}
	}
	slices.SortFunc(f.out.Findings, func(a, b Finding) int {
		if a.StorePath < b.StorePath {
			return -1
		}
		return 1
	})
}

func (f *fsck) repair(ctx context.Context, g *graph) error {
	if !f.o.Repair || len(f.bad) == 0 {
		return nil
	}
	used := make(map[int32]int64, len(g.nodes))
	nodes := g.referrers(f.bad)
	for _, i := range nodes {
		used[i] = g.nodes[i].used
	}
	removed, err := f.s.remove(ctx, f.out.Cache, g, used, nodes)
	f.out.Repaired, f.out.Used = len(removed), len(nodes)-len(removed)
	if err != nil {
		return err
	}
	for _, n := range f.broken {
		if err := f.s.dropBroken(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// dropBroken deletes the content of an archive, unless it was stored anew since.
func (s *Server) dropBroken(ctx context.Context, n Nar) error {
	defer s.locks.lock(narURL(n.NarHash))()
	now, ok, err := s.Index.Nar(ctx, n.NarHash)
	if err != nil || ok && now.Blob != n.Blob {
		return err
	}
	return s.Blobs.Delete(ctx, n.Blob)
}

// DeletePath deletes a path. Those that refer to it, by others too, are returned; unless they may be deleted with it, nothing is when there are any.
// What a pin or a host keeps is not deleted.
func (s *Server) DeletePath(ctx context.Context, name, hash string, withReferrers bool) (referrers []string, err error) {
	g, err := s.readGraph(ctx, name)
	if err != nil {
		return nil, err
	}
	target := hashPart([]byte(hash))
	i, ok := g.index[target]
	if !ok || !g.nodes[i].known {
		return nil, noSuchObject(hash + narInfoSuffix)
	}
	nodes := g.referrers(map[hashPart]bool{target: true})
	used := map[int32]int64{}
	for _, n := range nodes {
		used[n] = g.nodes[n].used
		if g.nodes[n].hash != target {
			referrers = append(referrers, g.nodes[n].storePath(s.StoreDir))
		}
	}
	slices.Sort(referrers)
	if len(referrers) > 0 && !withReferrers {
		return referrers, nil
	}
	roots, err := s.roots(ctx, name, time.Now())
	if err != nil {
		return nil, err
	}
	for _, n := range nodes {
		if roots[g.nodes[n].hash] {
			return nil, &httpError{status: 409, kind: "Pinned", message: "a pin or a host needs " + g.nodes[n].storePath(s.StoreDir) + ": remove the pin first (garrison cache pins)"}
		}
	}
	removed, err := s.remove(ctx, name, g, used, nodes)
	if err == nil && len(removed) < len(nodes) {
		err = &httpError{status: 409, kind: "Conflict", message: "a push came to refer to " + g.nodes[i].storePath(s.StoreDir) + " just now; nothing that it needs was deleted"}
	}
	return referrers, err
}
