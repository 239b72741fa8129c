package cache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Attic's client pushes the paths of a closure in any order. A path that comes before what it refers to is noted as
// Incomplete, which nobody is served. It becomes a path like any other when it is asked for, or referred to, and all
// that it refers to has come. (It is then that it is looked at, because other replicas may have received the rest.)

// putIncomplete notes a path whose archive is here, unless there is more than that.
func (s *Server) putIncomplete(ctx context.Context, c *Cache, hashPart string, info *nar.NarInfo) error {
	defer s.locks.lock(c.Name + "/" + hashPart)()
	old, exists, err := s.record(ctx, c, hashPart)
	if err != nil || exists && old.Upstream == "" {
		return err
	}
	p := Path{Cache: c.Name, StorePath: info.StorePath, NarInfo: s.kept(c, info), Upstream: Incomplete} // its archive is not served yet, either
	_, err = s.Index.PutPaths(ctx, []NewPath{{Path: p, Replace: true}}, time.Now())
	s.memory.forget(memoryKey{c.Name, hashPart})
	return err
}

// touchIncomplete says whether an incomplete path has its archive, and keeps that from being collected before the rest comes.
func (s *Server) touchIncomplete(ctx context.Context, c *Cache, r Record) (bool, error) {
	info, err := nar.ParseNarInfo(r.NarInfo)
	if err != nil {
		return false, nil // the next push brings it again
	}
	n, ok, err := s.stored(ctx, info.NarHash)
	if err != nil || !ok {
		return false, err
	}
	return true, s.noteSent(ctx, c, n) // it was, when the path came
}

// putWhole is putPath that completes what the path refers to.
func (s *Server) putWhole(ctx context.Context, c *Cache, hashPart string, info *nar.NarInfo) error {
	err := s.putPath(ctx, c, hashPart, info)
	var missing *MissingReferencesError
	if !errors.As(err, &missing) {
		return err
	}
	some, failed := s.complete(ctx, c, missing.Missing)
	if failed == nil && len(c.PullThrough) > 0 { // Attic's client does not push what these have
		var pulled bool
		pulled, failed = s.pullAll(ctx, c, missing.Missing)
		some = some || pulled
	}
	if failed != nil {
		return failed
	}
	if some {
		err = s.putPath(ctx, c, hashPart, info)
	}
	return err
}

// pullAll notes those of the paths that other caches have.
func (s *Server) pullAll(ctx context.Context, c *Cache, storePaths []string) (some bool, err error) {
	for _, p := range storePaths {
		hashPart, err := nar.HashPart(p)
		if err != nil {
			return some, err
		}
		known, err := s.pull(ctx, c, hashPart)
		if err != nil {
			return some, err
		}
		some = some || known
	}
	return some, nil
}

// lookup is Index.Lookup that completes what it finds.
func (s *Server) lookup(ctx context.Context, c *Cache, hashParts []string) (map[string]Record, error) {
	found, err := s.Index.Lookup(ctx, c.Name, hashParts)
	if err != nil {
		return nil, err
	}
	var incomplete []string
	for _, r := range found {
		if r.Upstream == Incomplete {
			incomplete = append(incomplete, r.StorePath)
		}
	}
	if len(incomplete) == 0 {
		return found, nil
	}
	some, err := s.complete(ctx, c, incomplete)
	if err != nil || !some {
		return found, err
	}
	return s.Index.Lookup(ctx, c.Name, hashParts)
}

// complete makes whole paths of those incomplete ones that it can, among storePaths and what they wait for. It says whether there were any.
func (s *Server) complete(ctx context.Context, c *Cache, storePaths []string) (some bool, err error) {
	waiting, err := s.waiting(ctx, c, storePaths)
	if err != nil {
		return false, err
	}
	var put func(storePath string) error
	put = func(storePath string) error {
		info, ok := waiting[storePath]
		if !ok {
			return nil
		}
		delete(waiting, storePath)
		for _, r := range info.References {
			if err := put(r); err != nil {
				return err
			}
		}
		hashPart, err := nar.HashPart(storePath)
		if err != nil {
			return err
		}
		err = s.putPath(ctx, c, hashPart, info)
		var missing *MissingReferencesError
		var refused *httpError
		if errors.As(err, &missing) || errors.As(err, &refused) {
			return nil // it goes on to wait
		}
		some = some || err == nil
		return err
	}
	for _, p := range storePaths {
		if err := put(p); err != nil {
			return some, err
		}
	}
	return some, nil
}

// waiting finds the incomplete ones among storePaths, and what those wait for by themselves or by others, by store path.
func (s *Server) waiting(ctx context.Context, c *Cache, storePaths []string) (map[string]*nar.NarInfo, error) {
	out, seen := map[string]*nar.NarInfo{}, map[string]bool{}
	for level := storePaths; len(level) > 0; {
		var hashParts []string
		for _, p := range level {
			if h, err := nar.HashPart(p); err == nil && !seen[p] {
				hashParts = append(hashParts, h)
			}
			seen[p] = true
		}
		found, err := s.Index.Lookup(ctx, c.Name, hashParts)
		if err != nil {
			return nil, err
		}
		level = nil
		for _, r := range found {
			if r.Upstream != Incomplete {
				continue
			}
			info, err := nar.ParseNarInfo(r.NarInfo)
			if err != nil {
				return nil, fmt.Errorf("the index has a bad narinfo of %s: %w", r.StorePath, err)
			}
			out[r.StorePath] = info
			level = append(level, info.References...)
		}
	}
	return out, nil
}
