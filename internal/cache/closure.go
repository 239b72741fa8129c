package cache

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Closure is the answer to POST /api/v1/caches/{cache}/closure: what is known of some paths and all that they refer to.
type Closure struct {
	Schema  int           `json:"schema"`  // 1
	Paths   []ClosurePath `json:"paths"`   // that the cache or an upstream has
	Missing []string      `json:"missing"` // store paths on the way that neither has
}

// ClosurePath describes one path of a closure.
type ClosurePath struct {
	StorePath  string   `json:"storePath"`
	NarHash    string   `json:"narHash"`
	NarSize    int64    `json:"narSize"`
	References []string `json:"references"`         // full paths
	Upstream   string   `json:"upstream,omitempty"` // the public key of the upstream cache that has it, "" when this one does
}

// postClosure walks from the paths asked for through what they refer to.
func (s *Server) postClosure(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	var query struct {
		StorePaths []string `json:"storePaths"`
	}
	if err := s.readJSON(w, r, maxQueryBytes, &query); err != nil {
		return err
	}
	answer := Closure{Schema: 1, Paths: []ClosurePath{}, Missing: []string{}}
	seen := map[string]bool{}
	for level := query.StorePaths; len(level) > 0; {
		level = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(level))), func(p string) bool { return seen[p] })
		for _, p := range level {
			seen[p] = true
		}
		if len(seen) > maxQueryHashes {
			return badRequest("the closure has more than %d paths", maxQueryHashes)
		}
		if level, err = s.walk(r.Context(), c, level, &answer); err != nil {
			return err
		}
	}
	limitWrite(w, int64(len(seen))<<10)
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// walk adds paths to the answer and returns what they refer to.
func (s *Server) walk(ctx context.Context, c *Cache, paths []string, answer *Closure) (next []string, err error) {
	hashes := make([]string, len(paths))
	for i, p := range paths {
		if hashes[i], err = nar.HashPart(p); err != nil {
			return nil, badRequest("%v", err)
		}
	}
	records, err := s.lookup(ctx, c, hashes)
	if err != nil {
		return nil, err
	}
	for i, p := range paths {
		record, ok := records[hashes[i]]
		if ok {
			ok, err = s.isThere(ctx, c, record)
		}
		if err != nil {
			return nil, err
		}
		var info *nar.NarInfo
		if ok {
			if info, err = nar.ParseNarInfo(record.NarInfo); err != nil {
				return nil, fmt.Errorf("the index has a bad narinfo of %s: %w", p, err)
			}
		}
		if !ok || info.StorePath != p {
			answer.Missing = append(answer.Missing, p)
			continue
		}
		answer.Paths = append(answer.Paths, ClosurePath{
			StorePath: p, NarHash: info.NarHash.String(), NarSize: info.NarSize, References: info.References, Upstream: record.Upstream,
		})
		next = append(next, info.References...)
	}
	return next, nil
}

// isThere says whether hosts find a path: here, with all of its content, or at an upstream that is still trusted. It is asked
// of thousands of paths at a time: content in another system's storage, where each would be a request, is not looked for. Reading does, and fsck.
func (s *Server) isThere(ctx context.Context, c *Cache, r Record) (bool, error) {
	if r.Upstream != "" {
		return c.from(r.Upstream) != nil || slices.ContainsFunc(s.Upstreams, func(k nar.PublicKey) bool { return k.String() == r.Upstream }), nil
	}
	if _, elsewhere := s.Blobs.(Redirector); elsewhere {
		return r.Nar.Blob != "", nil
	}
	return s.hasBlob(ctx, r.Nar)
}
