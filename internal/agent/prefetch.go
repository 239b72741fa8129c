package agent

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// A release that the host's ring does not give it yet is fetched meanwhile, from caches alone: slowly, with what nobody else has use for, and out of
// the way of every deployment. When the ring gives it, nothing is left to be fetched.

const (
	// prefetchRate is how much of the network a prefetch takes at most unless the configuration says so, in bytes a second.
	prefetchRate = 10_000_000
	// prefetchTime is for all of it; what stalls is given up much earlier.
	prefetchTime = 24 * time.Hour
	// diskKept is the part of a disk that is not filled by a prefetch: one in so many.
	diskKept = 20
)

// ahead is the prefetch of the system of Record.Head. It belongs to the loop alone, and is brought in line with the record by prefetch.
type ahead struct {
	path     string             // what it is about; "" for nothing
	run      int                // tells the answer of one that was ended
	end      context.CancelFunc // of what is under way; nil for nothing
	attempt  int
	retryAt  time.Time
	failure  *fleet.Failure
	stagedAt *time.Time
}

// prefetchRoot keeps what was fetched from garbage collection, and says after a restart what that was.
func (a *Agent) prefetchRoot() string { return filepath.Join(a.Config.StateDir, "ahead") }

// prefetch begins, goes on with, or ends a prefetch, as the record says. It is called whenever that was looked at, which is at least as often as git is.
func (a *Agent) prefetch(ctx context.Context) {
	p, r, want := &a.ahead, a.record, ""
	if r.Head != nil && r.Head.Entry.Built && (a.Config.Prefetch.Enable == nil || *a.Config.Prefetch.Enable) {
		want = r.Head.Entry.OutPath
	}
	busy := r.Phase == fleet.PhaseStaging || r.Phase == fleet.PhaseActivating
	if p.end != nil && (busy || want != p.path) {
		p.end()
		p.end = nil
		p.run++
	}
	if busy {
		return // what is just given to the host is kept until it is kept by that deployment
	}
	if want != p.path || want == "" {
		a.dropAhead(want)
		*p = ahead{path: want, run: p.run}
	}
	if want == "" || p.end != nil || p.stagedAt != nil || time.Now().Before(p.retryAt) {
		return
	}
	if at := a.hasAhead(r, want); at != nil {
		p.stagedAt = at
		return
	}
	a.fetchAhead(ctx, *r.Head)
}

// dropAhead lets go of what was fetched, unless it is still wanted.
func (a *Agent) dropAhead(want string) {
	if had, err := os.Readlink(a.prefetchRoot()); err != nil || had == want {
		return
	}
	if err := os.Remove(a.prefetchRoot()); err != nil {
		a.Log.Warn("what was fetched ahead is still kept from garbage collection", "err", err)
	}
}

// hasAhead is since when the host has all of a system: because it runs it, or an earlier agent fetched it. Nil when it has not.
func (a *Agent) hasAhead(r deploy.Record, path string) *time.Time {
	if r.Active != nil && r.Active.OutPath == path {
		at := r.Active.At
		return &at
	}
	had, err := os.Readlink(a.prefetchRoot()) // made when all was there
	info, err2 := os.Lstat(a.prefetchRoot())
	if err != nil || err2 != nil || had != path {
		return nil
	}
	if _, err := os.Stat(path); err != nil {
		return nil
	}
	at := info.ModTime().UTC()
	return &at
}

// fetchAhead begins a prefetch, where there is space for it.
func (a *Agent) fetchAhead(ctx context.Context, h deploy.Head) {
	p := &a.ahead
	p.run++
	if disk, ok := DiskOf("store", "/nix/store"); ok && disk.FreeBytes < h.Entry.ClosureBytes+disk.TotalBytes/diskKept {
		prefetched{p.run, fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "%d MB of disk are free, too few for the %d MB that %s may take, and a reserve",
			disk.FreeBytes>>20, h.Entry.ClosureBytes>>20, h.Release.Name()).WithHint("it is fetched when the ring gives it to this host; to have it earlier, make room: nix-collect-garbage -d")}.note(a)
		return
	}
	s := a.substitution(a.prefetchRoot(), prefetchTime)
	s.Rate = int64(a.Config.Prefetch.Rate)
	run, idle := p.run, *a.nix
	idle.Idle = true
	if p.attempt == 0 {
		a.Log.Info("fetching ahead", "release", h.Release.Number, "storePath", h.Entry.OutPath)
	}
	ctx, p.end = context.WithCancel(ctx)
	a.tasks.Go(func() {
		began := time.Now()
		err := idle.Substitute(ctx, h.Entry.OutPath, s)
		if err == nil {
			a.Log.Info("fetched ahead", "release", h.Release.Number, "storePath", h.Entry.OutPath, "duration", time.Since(began).Round(time.Millisecond))
		}
		if ctx.Err() == nil {
			a.send(ctx, prefetched{run, err})
		}
	})
}

// substitution says where closures come from, and which link keeps one.
func (a *Agent) substitution(root string, most time.Duration) nix.Substitution {
	s := nix.Substitution{Timeout: most, Root: root}
	for _, c := range a.Config.Caches {
		s.Caches = append(s.Caches, c.URL)
		s.PublicKeys = append(s.PublicKeys, c.PublicKey)
	}
	return s
}

// prefetched is how a prefetch ended. That it failed stops nothing, and is no reason for an alarm.
type prefetched struct {
	run int
	err error
}

func (r prefetched) take(ctx context.Context, a *Agent) {
	if r.run != a.ahead.run {
		return
	}
	a.ahead.end()
	a.ahead.end = nil
	r.note(a)
	a.prefetch(ctx)
	a.publish()
}

func (r prefetched) note(a *Agent) {
	p := &a.ahead
	now := time.Now().UTC()
	if r.err == nil {
		p.failure, p.stagedAt = nil, &now
		return
	}
	if first := p.failure == nil; first {
		a.Log.Warn("what the ring will give this host cannot be fetched ahead", "storePath", p.path, "err", firstLine(r.err.Error()))
	}
	p.attempt++
	p.failure = fleet.FailureOf(fleet.Staging, r.err)
	p.retryAt = now.Add(deploy.Backoff(p.failure.Class, p.attempt, random()))
}
