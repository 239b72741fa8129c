package cache

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// askedAtOnce is how many paths are looked for in one go; several such are at the same time.
const (
	askedAtOnce  = 4096
	askedBesides = 4
	// blobsBesides is how many archives are looked for at the same time, where each may be a request to another system.
	blobsBesides = 16
)

// inParts calls f with parts of n things, each from start to end, several at the same time.
func inParts(n, size, besides int, f func(start, end int) error) error {
	var all sync.WaitGroup
	errs := make([]error, (n+size-1)/size)
	slots := make(chan struct{}, besides)
	for i := range errs {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			errs[i] = f(i*size, min((i+1)*size, n))
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// areThere says which paths need not be pushed, and keeps them from being collected before that push refers to them.
func (s *Server) areThere(ctx context.Context, c *Cache, hashParts []string) ([]bool, error) {
	there := make([]bool, len(hashParts))
	return there, inParts(len(hashParts), askedAtOnce, askedBesides, func(start, end int) error {
		return s.someThere(ctx, c, hashParts[start:end], there[start:end])
	})
}

// storedFor returns those of the archives that are stored, and that paths of c may have: one has, or it was sent to c, whole. To know the NarHash of
// what another cache has is not enough to get it.
func (s *Server) storedFor(ctx context.Context, c *Cache, narHashes []nar.Hash) (map[nar.Hash]Nar, error) {
	found := make([]map[nar.Hash]Nar, (len(narHashes)+askedAtOnce-1)/askedAtOnce)
	err := inParts(len(narHashes), askedAtOnce, askedBesides, func(start, end int) (err error) {
		found[start/askedAtOnce], err = s.Index.NarsFor(ctx, c.Name, narHashes[start:end])
		return err
	})
	var nars []Nar
	for _, some := range found {
		nars = slices.AppendSeq(nars, maps.Values(some))
	}
	there := make([]bool, len(nars))
	if err == nil {
		err = inParts(len(nars), 1, blobsBesides, func(i, _ int) (err error) {
			there[i], err = s.hasBlob(ctx, nars[i])
			return err
		})
	}
	stored := make(map[nar.Hash]Nar)
	for i, n := range nars {
		if there[i] {
			stored[n.NarHash] = n
		}
	}
	return stored, err
}

func (s *Server) someThere(ctx context.Context, c *Cache, hashParts []string, there []bool) error {
	found, err := s.Index.Present(ctx, c.Name, hashParts)
	if err != nil {
		return err
	}
	now, old := time.Now(), []string{}
	for i, h := range hashParts {
		r, ok := found[h]
		switch {
		case !ok:
			continue
		case r.Upstream == Incomplete:
			there[i], err = s.incompleteThere(ctx, c, h)
		default:
			there[i], err = s.isThere(ctx, c, r)
		}
		if err != nil {
			return err
		}
		if there[i] && now.Sub(r.UsedAt) > TouchGrain {
			old = append(old, h)
		}
	}
	if len(old) == 0 {
		return nil
	}
	return s.Index.Touch(ctx, c.Name, slices.Compact(slices.Sorted(slices.Values(old))), now)
}

// incompleteThere completes an incomplete path, or says whether its archive is here at least.
func (s *Server) incompleteThere(ctx context.Context, c *Cache, hashPart string) (bool, error) {
	found, err := s.lookup(ctx, c, []string{hashPart})
	r, ok := found[hashPart]
	if err != nil || !ok {
		return false, err
	}
	if r.Upstream == Incomplete {
		return s.touchIncomplete(ctx, c, r)
	}
	return s.isThere(ctx, c, r)
}
