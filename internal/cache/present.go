package cache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// askedAtOnce is how many paths are looked for in one go; several such are at the same time.
const (
	askedAtOnce  = 4096
	askedBesides = 4
)

// areThere says which paths need not be pushed, and keeps them from being collected before that push refers to them.
func (s *Server) areThere(ctx context.Context, c *Cache, hashParts []string) ([]bool, error) {
	there := make([]bool, len(hashParts))
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, askedBesides)
	for start := 0; start < len(hashParts); start += askedAtOnce {
		slots <- struct{}{}
		end := min(start+askedAtOnce, len(hashParts))
		all.Go(func() {
			defer func() { <-slots }()
			if err := s.someThere(ctx, c, hashParts[start:end], there[start:end]); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	return there, errors.Join(errs...)
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
