package agent

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// pushQueue is the queue of systems that were built here and are to be pushed.
// It survives whatever happens to the agent and its state directory.
const pushQueue = client.Queue("/nix/var/nix/gcroots/garrison-push")

const (
	maxPushes = 20 // waiting; the oldest are dropped
	pushLeast = 10 * time.Second
	pushMost  = 15 * time.Minute
)

// pusher has what this host built pushed, beside everything else and after it.
type pusher struct{ more chan struct{} }

func newPusher() pusher { return pusher{make(chan struct{}, 1)} }

// add puts a system into the queue. That it cannot is told, and no more: the host has what it needs.
func (p pusher) add(log *slog.Logger, storePath string) {
	if err := pushQueue.Add(storePath); err != nil {
		log.Error("what was built here cannot be queued for the cache", "storePath", storePath, "err", err)
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

// pushAll works through the queue until ctx ends. A cache that is down is waited for.
func (a *Agent) pushAll(ctx context.Context) {
	for wait := pushLeast; ; wait = min(2*wait, pushMost) {
		failed := a.pushQueued(ctx)
		var again <-chan time.Time // never
		if failed {
			again = time.After(jittered(wait))
		}
		select {
		case <-ctx.Done():
			return
		case <-a.pusher.more:
			wait = pushLeast
		case <-again:
		}
	}
}

// pushQueued pushes what waits, and says whether some of it still does.
func (a *Agent) pushQueued(ctx context.Context) (failed bool) {
	waiting, err := pushQueue.Waiting()
	if err != nil {
		a.Log.Error("the queue for the cache cannot be read", "err", err)
		return true
	}
	if over := len(waiting) - maxPushes; over > 0 {
		a.Log.Warn("too much waits to be pushed; the oldest is dropped", "systems", over)
		for _, path := range waiting[:over] {
			a.unqueue(path)
		}
		waiting = waiting[over:]
	}
	var refused error // of systems that a cache does not take: they stand in no other's way
	left := len(waiting)
	for _, path := range waiting {
		a.note(func(s *fleet.Status) { s.Pushing = left })
		err := a.pushOne(ctx, path)
		if ctx.Err() != nil {
			return true
		}
		if err != nil && fleet.ClassOf(err) != fleet.Transient {
			refused = errors.Join(refused, err)
			continue
		}
		a.contacted(&a.status.Push, err, fleet.Push, "cache to push to")
		if err != nil {
			a.haveReported()
			return true
		}
		a.unqueue(path)
		left--
	}
	if refused != nil {
		a.contacted(&a.status.Push, refused, fleet.Push, "cache to push to")
	}
	if len(waiting) > 0 {
		a.note(func(s *fleet.Status) { s.Pushing = left })
		a.haveReported()
	}
	return refused != nil
}

func (a *Agent) unqueue(storePath string) {
	if err := pushQueue.Remove(storePath); err != nil {
		a.Log.Error("a system cannot be taken out of the queue for the cache", "storePath", storePath, "err", err)
	}
}

// pushOne pushes the closure of a system to every cache that takes it.
func (a *Agent) pushOne(ctx context.Context, storePath string) error {
	var closure []nar.PathInfo
	for _, c := range a.Config.Caches {
		if c.PushTokenFile == "" {
			continue
		}
		if closure == nil {
			valid, err := a.nix.Valid(ctx, storePath)
			if err != nil {
				return err
			}
			if !valid {
				a.Log.Warn("what was built here is gone before it was pushed", "storePath", storePath)
				return nil
			}
			if closure, err = a.nix.Closure(ctx, []string{storePath}); err != nil {
				return err
			}
		}
		to, err := client.New(client.Config{URL: c.URL, Token: func() (string, error) { return readToken(c.PushTokenFile) }})
		if err != nil {
			return err
		}
		stats, err := to.Push(ctx, closure, client.PushOptions{RealStoreDir: a.nix.RealStoreDir(), Parallel: 2})
		if err != nil {
			return err
		}
		a.Log.Info("pushed what was built here", "stage", fleet.Push, "cache", c.URL, "storePath", storePath, "paths", stats.Pushed, "bytes", stats.NarBytes, "duration", stats.Elapsed.Round(time.Millisecond))
	}
	return nil
}
