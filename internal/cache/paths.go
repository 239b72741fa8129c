package cache

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Bounds of what comes in one request: it becomes one transaction, for which others wait.
const (
	maxPathsAtOnce = 1000
	maxPathsBytes  = 8 << 20
)

// postPaths receives the descriptions of several paths, each after those that it refers to. They are stored together, or else one after the other up
// to the first that is refused. Those that are here already, built otherwise, are told.
func (s *Server) postPaths(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	var q struct {
		NarInfos []string `json:"narinfos"`
	}
	if err := s.readJSON(w, r, maxPathsBytes, &q); err != nil {
		return err
	}
	if len(q.NarInfos) > maxPathsAtOnce {
		return badRequest("%d paths in one request, at most %d are allowed", len(q.NarInfos), maxPathsAtOnce)
	}
	infos, hashParts, seen := make([]*nar.NarInfo, len(q.NarInfos)), make([]string, len(q.NarInfos)), map[string]bool{}
	for i, text := range q.NarInfos {
		if len(text) > maxNarInfoBytes {
			return badRequest("a narinfo has %d bytes, at most %d are allowed", len(text), maxNarInfoBytes)
		}
		if infos[i], err = nar.ParseNarInfo([]byte(text)); err != nil {
			return badRequest("%v", err)
		}
		hashParts[i], err = nar.HashPart(infos[i].StorePath)
		if err != nil {
			return badRequest("%v", err)
		}
		if err := s.checkPath(hashParts[i], infos[i]); err != nil {
			return err
		}
		if seen[hashParts[i]] {
			return badRequest("%s is listed twice", infos[i].StorePath)
		}
		seen[hashParts[i]] = true
	}
	answer := struct {
		Schema int      `json:"schema"`
		Differ []string `json:"differ"`
	}{1, []string{}}
	if s.putPaths(r.Context(), c, hashParts, infos) != nil {
		if answer.Differ, err = s.putEach(r.Context(), c, hashParts, infos); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// putEach stores paths one after the other; differ are those that are here already, built otherwise.
func (s *Server) putEach(ctx context.Context, c *Cache, hashParts []string, infos []*nar.NarInfo) (differ []string, err error) {
	differ = []string{}
	for i, info := range infos {
		err := s.putWhole(ctx, c, hashParts[i], info)
		var refused *httpError
		if errors.As(err, &refused) && refused.status == http.StatusConflict {
			differ = append(differ, info.StorePath)
		} else if err != nil {
			return nil, uploadFirst(err)
		}
	}
	return differ, nil
}

// putPath is putPaths of one.
func (s *Server) putPath(ctx context.Context, c *Cache, hashPart string, info *nar.NarInfo) error {
	return s.putPaths(ctx, c, []string{hashPart}, []*nar.NarInfo{info})
}

// putPaths stores paths, but for those that are there already: all or none. A path may refer to those before it. The first upload wins: a
// path that is built twice need not come out the same, and hosts may have the first.
// Only a path whose archive was lost is replaced. It fails with *MissingReferencesError when something that one refers to is not here.
func (s *Server) putPaths(ctx context.Context, c *Cache, hashParts []string, infos []*nar.NarInfo) (err error) {
	keys := make([]string, len(infos))
	for i := range infos {
		keys[i] = c.Name + "/" + hashParts[i]
	}
	defer s.locks.lock(keys...)()
	paths, err := s.newPaths(ctx, c, hashParts, infos)
	if err != nil {
		return err
	}
	var disclaims []func()
	defer func() {
		for _, disclaim := range disclaims {
			if err != nil {
				disclaim()
			}
		}
	}()
	for _, p := range paths {
		if p.Upstream == "" {
			disclaim, err := s.claim(ctx, c, p.NarHash)
			if err != nil {
				return err
			}
			disclaims = append(disclaims, disclaim)
		}
	}
	_, err = s.Index.PutPaths(ctx, paths, time.Now())
	for i, info := range infos {
		s.memory.forget(memoryKey{c.Name, hashParts[i]}, memoryKey{c.Name, info.NarHash.Nix32()}, memoryKey{c.Name, pushedAs(info).Nix32()})
	}
	if errors.Is(err, ErrConflict) { // another replica was quicker
		_, err = s.newPaths(ctx, c, hashParts, infos)
		return cmp.Or(err, ErrConflict)
	}
	return err
}

// newPaths are those that are to be stored, because they are not there yet. What is there otherwise is a conflict.
func (s *Server) newPaths(ctx context.Context, c *Cache, hashParts []string, infos []*nar.NarInfo) (paths []NewPath, err error) {
	nars := make([]nar.Hash, len(infos))
	for i, info := range infos {
		nars[i] = info.NarHash
	}
	known, err := s.Index.Lookup(ctx, c.Name, hashParts)
	if err != nil {
		return nil, err
	}
	stored, err := s.storedFor(ctx, c, nars)
	if err != nil {
		return nil, err
	}
	for i, info := range infos {
		old, replace := known[hashParts[i]]
		exists, err := s.hasBlob(ctx, old.Nar)
		switch {
		case err != nil:
			return nil, err
		case exists && old.StorePath == info.StorePath && old.NarHash == info.NarHash:
			continue
		case exists:
			return nil, conflict(info.StorePath, old.NarHash)
		}
		p, err := s.newPath(c, info, stored)
		if err != nil {
			return nil, err
		}
		paths = append(paths, NewPath{Path: p, References: withoutSelf(info), Replace: replace})
	}
	return paths, nil
}

// newPath is a path whose archive was uploaded to the cache and has the size that is claimed, or that an upstream signed.
func (s *Server) newPath(c *Cache, info *nar.NarInfo, stored map[nar.Hash]Nar) (Path, error) {
	p := Path{Cache: c.Name, StorePath: info.StorePath, NarHash: info.NarHash, NarInfo: s.kept(c, info), PushedAs: pushedAs(info)}
	n, ok := stored[info.NarHash]
	key, upstream := info.Signer(s.Upstreams...)
	switch {
	case !ok && !upstream:
		return p, badRequest("the archive of %s is not here: upload it as %s first", info.StorePath, narURL(info.NarHash))
	case !ok:
		p.Upstream, p.NarHash = key.String(), nar.Hash{}
	case n.NarSize != info.NarSize:
		return p, badRequest("the archive of %s has %d bytes, not %d", info.StorePath, n.NarSize, info.NarSize)
	}
	return p, nil
}

func conflict(storePath string, have nar.Hash) error {
	return &httpError{status: http.StatusConflict, kind: "Conflict", message: storePath + " is already in the cache with the NarHash " + have.String() +
		"; the first upload wins, because hosts may have it"}
}

// withoutSelf are the references of a path to others.
func withoutSelf(info *nar.NarInfo) []string {
	return slices.DeleteFunc(slices.Clone(info.References), func(r string) bool { return r == info.StorePath })
}
