package client

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/nar"
)

// closureParallel is how many narinfos are asked for at a time.
const closureParallel = 16

// maxClosure bounds a walk: no system has a million paths.
const maxClosure = 1_000_000

// Closure walks from tops through what the cache says they refer to, and returns all that it has, sorted by path,
// and the paths on the way that it does not have. A closure that a host can fetch from this cache alone misses none.
func (c *Client) Closure(ctx context.Context, tops []string) (have []nar.PathInfo, missing []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := walk{c: c, seen: map[string]bool{}, slots: make(chan struct{}, closureParallel), cancel: cancel}
	w.mu.Lock()
	for _, top := range tops {
		w.add(ctx, top)
	}
	w.mu.Unlock()
	w.work.Wait()
	if w.err != nil {
		return nil, nil, w.err
	}
	slices.SortFunc(w.have, func(a, b nar.PathInfo) int { return strings.Compare(a.StorePath, b.StorePath) })
	slices.Sort(w.missing)
	return w.have, w.missing, nil
}

type walk struct {
	c      *Client
	slots  chan struct{}
	work   sync.WaitGroup
	cancel func()

	mu      sync.Mutex
	seen    map[string]bool
	have    []nar.PathInfo
	missing []string
	err     error
}

// add begins to ask for a path, once. w.mu is held.
func (w *walk) add(ctx context.Context, path string) {
	if w.seen[path] || w.err != nil {
		return
	}
	if len(w.seen) >= maxClosure {
		w.fail(w.c.nonsense("walk a closure", errors.New("it has no end")))
		return
	}
	w.seen[path] = true
	w.work.Go(func() {
		w.slots <- struct{}{}
		defer func() { <-w.slots }()
		w.visit(ctx, path)
	})
}

func (w *walk) fail(err error) {
	if w.err == nil {
		w.err = err
		w.cancel()
	}
}

func (w *walk) visit(ctx context.Context, path string) {
	hash, err := nar.HashPart(path)
	var info *nar.NarInfo
	found := false
	if err != nil {
		err = unusable(err)
	} else {
		info, found, err = w.c.NarInfo(ctx, hash)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil:
		w.fail(err)
	case !found:
		w.missing = append(w.missing, path)
	case info.StorePath != path:
		w.fail(w.c.nonsense("ask for "+path, errors.New("it is called "+info.StorePath+" there")))
	default:
		w.have = append(w.have, info.PathInfo)
		for _, ref := range info.References {
			w.add(ctx, ref)
		}
	}
}
