package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
)

// What comes into the store within watchQuiet of each other is pushed together, but nothing waits longer than watchLongest.
const (
	watchQuiet   = time.Second
	watchLongest = 10 * time.Second
	retryLeast   = 5 * time.Second
	retryMost    = 5 * time.Minute
)

// watchQueue is where what was seen waits: for root beside the hook's queue, where it is kept from garbage collection; others may not write there.
func watchQueue() string {
	if os.Geteuid() == 0 {
		return filepath.Join(filepath.Dir(hookQueue), "garrison-watched")
	}
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		state = filepath.Join(os.Getenv("HOME"), ".local/state")
	}
	return filepath.Join(state, "garrison/watched")
}

func (a *app) cacheWatchStore() *cobra.Command {
	var queue string
	var jobs int
	var drv bool
	cmd := &cobra.Command{
		Use:   "watch-store",
		Short: "Push what comes into the local store, as it comes, until it is stopped",
		Long: `Watch-store pushes each path that is built here, copied or fetched into the local store from now on, and all that it refers to. What the cache cannot take, because it
does not answer say, is tried again. It waits in a queue, a folder of links; what was seen and not pushed when this ended, however it did, is pushed when it is started again.`,
		Args: exactly(),
	}
	cache := a.pushFlags(cmd)
	cmd.Flags().IntVar(&jobs, "jobs", 4, "uploads at the same time")
	cmd.Flags().BoolVar(&drv, "drv", false, "push derivations (.drv) too")
	cmd.Flags().StringVar(&queue, "queue", "", "folder of the queue (default: "+filepath.Dir(hookQueue)+"/garrison-watched; of others than root: ~/.local/state/garrison/watched)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p, err := a.newPusher(cmd.Context(), cache, jobs)
		if err != nil {
			return err
		}
		if queue == "" {
			queue = watchQueue()
		}
		p.drv = drv
		return a.watchStore(cmd.Context(), p, client.Queue(queue))
	}
	return cmd
}

// watchStore ends when ctx does, which is no failure.
func (a *app) watchStore(ctx context.Context, p *pathPusher, q client.Queue) error {
	if err := q.Add(); err != nil { // the folder
		return queueError(q, "made", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	more := make(chan struct{}, 1)
	more <- struct{}{} // what an earlier run left
	watching := make(chan error, 1)
	go func() {
		watching <- p.nix.Watch(ctx, func() { fmt.Fprintf(a.Err, "watching %s for %s\n", p.nix.RealStoreDir(), p.to.URL()) }, func(path string) {
			if strings.HasSuffix(path, ".drv") && !p.drv {
				return
			}
			if err := q.Add(path); err != nil {
				a.complain(queueError(q, "written to, and "+path+" is not pushed", err))
			}
			select {
			case more <- struct{}{}:
			default:
			}
		})
		stop()
	}()
	for retry := retryLeast; settled(ctx, more); {
		err := p.pushSeen(ctx, q)
		if err == nil {
			retry = retryLeast
			continue
		}
		if ctx.Err() != nil {
			break
		}
		a.complain(err)
		waiting, _ := q.Waiting() // if it cannot be read, that is err
		fmt.Fprintf(a.Err, "garrison: %d paths wait; the next attempt is in %v\n", len(waiting), retry)
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry = min(2*retry, retryMost)
		select {
		case more <- struct{}{}:
		default:
		}
	}
	stop()
	if err := <-watching; !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// pushSeen pushes what waits, and says how much that was.
func (p *pathPusher) pushSeen(ctx context.Context, q client.Queue) error {
	p.sum = newPushed(p.to)
	err := p.pushQueue(ctx, q)
	if p.sum.Pushed > 0 {
		fmt.Fprintf(p.a.Err, "pushed %d paths to %s\n", p.sum.Pushed, p.to.URL())
	}
	return err
}

// settled waits until something has come, and then nothing more does for a while; false when ctx ends.
func settled(ctx context.Context, more <-chan struct{}) bool {
	select {
	case <-more:
	case <-ctx.Done():
		return false
	}
	for longest := time.After(watchLongest); ; {
		select {
		case <-more:
		case <-time.After(watchQuiet):
			return true
		case <-longest:
			return true
		case <-ctx.Done():
			return false
		}
	}
}
