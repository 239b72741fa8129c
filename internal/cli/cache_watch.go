package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
)

// What comes into the store within watchQuiet of each other is pushed together, but nothing waits longer than watchLongest.
const (
	watchQuiet   = time.Second
	watchLongest = 10 * time.Second
	retryLeast   = 5 * time.Second
	retryMost    = 5 * time.Minute
)

func (a *app) cacheWatchStore() *cobra.Command {
	var jobs int
	var drv bool
	cmd := &cobra.Command{
		Use:   "watch-store",
		Short: "Push what comes into the local store, as it comes, until it is stopped",
		Long: `Watch-store pushes each path that is built here, copied or fetched into the local store from now on, and all that it refers to. What the cache cannot take, because it
does not answer say, is tried again; it waits in memory, and what was not pushed when this ends is pushed by "garrison cache push".`,
		Args: exactly(),
	}
	cache := a.pushFlags(cmd)
	cmd.Flags().IntVar(&jobs, "jobs", 4, "uploads at the same time")
	cmd.Flags().BoolVar(&drv, "drv", false, "push derivations (.drv) too")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := a.newPusher(cmd.Context(), cache, jobs)
		if err != nil {
			return err
		}
		return a.watchStore(cmd.Context(), p, drv)
	}
	return cmd
}

// watchStore ends when ctx does, which is no failure.
func (a *app) watchStore(ctx context.Context, p *pathPusher, drv bool) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	in := &inbox{more: make(chan struct{}, 1)}
	watching := make(chan error, 1)
	go func() {
		watching <- p.nix.Watch(ctx, func() { fmt.Fprintf(a.Err, "watching %s for %s\n", p.nix.RealStoreDir(), p.to.URL()) }, func(path string) {
			if drv || !strings.HasSuffix(path, ".drv") {
				in.add(path)
			}
		})
		stop()
	}()
	for retry := retryLeast; ; {
		paths := in.wait(ctx)
		if ctx.Err() != nil {
			break
		}
		err := p.pushValid(ctx, paths)
		if err == nil {
			retry = retryLeast
			continue
		}
		if ctx.Err() != nil {
			break
		}
		a.complain(err)
		fmt.Fprintf(a.Err, "garrison: %d paths wait; the next attempt is in %v\n", len(paths), retry)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry = min(2*retry, retryMost)
		in.add(paths...)
	}
	if err := <-watching; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pushValid pushes those of the paths that Nix has added whole.
func (p *pathPusher) pushValid(ctx context.Context, paths []string) error {
	valid, err := p.nix.ValidOf(ctx, paths)
	if err != nil {
		return err
	}
	before := p.sum.Pushed
	if err := p.push(ctx, valid); err != nil {
		return err
	}
	if n := p.sum.Pushed - before; n > 0 {
		fmt.Fprintf(p.a.Err, "pushed %d paths to %s\n", n, p.to.URL())
	}
	return nil
}

// inbox collects paths that come one by one.
type inbox struct {
	mu    sync.Mutex
	paths []string
	more  chan struct{}
}

func (in *inbox) add(paths ...string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.paths = append(in.paths, paths...)
	select {
	case in.more <- struct{}{}:
	default:
	}
}

// wait returns what has come once nothing more does for a while; each path once.
func (in *inbox) wait(ctx context.Context) []string {
	select {
	case <-in.more:
	case <-ctx.Done():
		return nil
	}
	longest := time.After(watchLongest)
	for quiet := false; !quiet; {
		select {
		case <-in.more:
		case <-time.After(watchQuiet):
			quiet = true
		case <-longest:
			quiet = true
		case <-ctx.Done():
			quiet = true
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	paths := slices.Compact(slices.Sorted(slices.Values(in.paths)))
	in.paths = nil
	return paths
}
