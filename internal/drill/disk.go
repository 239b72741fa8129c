package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// A disk of the drilled host's own, for its store and its agent's state: a file system in memory that only the host has, mounted over what
// is there. It goes with the host, whatever becomes of the drill.
const (
	mountDisk = `
used=$(du -sm /nix /var/lib/garrison | awk '{n += $1} END {print n}')
mkdir /disk
mount -t tmpfs -o size=$((used + 16))m,mode=0755 drill /disk
cp -a /nix /disk/nix
cp -a /var/lib/garrison /disk/state
mount --bind /disk/nix /nix
mount --bind /disk/state /var/lib/garrison
`
	unmountDisk = `
test -d /disk/nix || exit 0
umount /nix
umount /var/lib/garrison
rm -rf /nix/* /var/lib/garrison/*
cp -a /disk/nix/. /nix/
cp -a /disk/state/. /var/lib/garrison/
umount /disk
rmdir /disk
`
	fillDisk = "cat /dev/zero > /disk/ballast 2>/dev/null || true; df -P /disk | tail -n 1"
	freeDisk = "rm -f /disk/ballast"
)

// onSmallDisk gives the drilled host a disk of its own until the scenario has ended.
func (r *run) onSmallDisk(ctx context.Context) error {
	host := r.yard.world.hosts[drilled]
	stopped := func(ctx context.Context, script string) error {
		if err := host.StopService(ctx, "agent"); err != nil {
			return err
		}
		_, err := r.yard.run(ctx, drilled, "sh", "-euc", script)
		return errors.Join(err, host.StartService(ctx, "agent"))
	}
	r.afterwards(func(ctx context.Context) error {
		_, err := r.yard.run(ctx, drilled, "sh", "-euc", freeDisk)
		return errors.Join(err, stopped(ctx, unmountDisk))
	})
	return stopped(ctx, mountDisk)
}

// full waits until the host says that there is no room, as a failure of its own.
func (r *run) full(ctx context.Context, name string) {
	r.await(ctx, name, func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err != nil {
			return "", err
		}
		for _, f := range []*fleet.Failure{s.Failure, s.Remote.Failure} {
			if f != nil && strings.Contains(strings.ToLower(f.Message), "no space left") {
				if f.Class != fleet.Local {
					return "", final{fmt.Errorf("its class is %q: %s", f.Class, f.Message)}
				}
				return firstLine(f.Message), nil
			}
		}
		return "", errors.New(s.Summary())
	})
}

func diskFull(ctx context.Context, r *run) error {
	if err := r.onSmallDisk(ctx); err != nil {
		return err
	}
	if err := r.yard.converged(ctx, r.yard.last); err != nil {
		return err
	}
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	r.see("the disk of its store and its agent's state is full", func() (string, error) { return r.yard.run(ctx, drilled, "sh", "-euc", fillDisk) })
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: onto a full disk")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.full(ctx, "the host says that it has no room: a failure of its own, to be tried again")
	r.same(ctx, before)
	r.see("so say its log and garrison explain", func() (string, error) { return r.toldOnHost(ctx, "no space left", "The disk of its store is full") })
	r.await(ctx, "somebody is told", func() (string, error) { return r.alerted(ctx, fleet.AlertDisk, drilled) })
	if _, err := r.yard.run(ctx, drilled, "sh", "-euc", freeDisk); err != nil {
		return err
	}
	r.await(ctx, "there is room again: it commits the release, with no hand on it", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	r.wholeStore(ctx)
	return nil
}

// alerted says whether an alert of that kind about that host is open, and somebody was told. It may have been open before: one that may come back
// at once stays open for a while.
func (r *run) alerted(ctx context.Context, kind fleet.AlertKind, host string) (string, error) {
	var open []fleet.Alert
	if err := r.yard.get(ctx, "/api/v1/alerts", &open); err != nil {
		return "", err
	}
	if !slices.ContainsFunc(open, func(a fleet.Alert) bool { return a.Kind == kind && a.Host == host && a.ResolvedAt == nil }) {
		return "", fmt.Errorf("the hub has no alert %s of %s, but %d others", kind, host, len(open))
	}
	return r.yard.ears.heard(kind, host, time.Time{})
}

// same checks that the drilled host runs what it did, and would boot that.
func (r *run) same(ctx context.Context, before string) {
	r.see("profile, boot entry and system are what they were", func() (string, error) {
		after, err := r.standing(ctx, r.host(drilled))
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		return "", err
	})
}

// toldOnHost checks that a person on the drilled host is told: all words by garrison explain, the first ones by the agent's log as well.
func (r *run) toldOnHost(ctx context.Context, words ...string) (string, error) {
	log, err := r.agentLog()
	if err != nil {
		return "", err
	}
	if _, err := contains(log, words[0]); err != nil {
		return "", fmt.Errorf("its log: %w", err)
	}
	out, err := r.yard.run(ctx, drilled, "garrison", "explain")
	var line string
	for _, w := range words {
		if err == nil {
			line, err = contains(out, w)
		}
	}
	return fmt.Sprintf("%.300s", line), err
}

// diskFullActivating fills the disk in mid-activation: the new system is there, and cannot be committed.
func diskFullActivating(ctx context.Context, r *run) error {
	if err := r.onSmallDisk(ctx); err != nil {
		return err
	}
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	p, m, err := r.slowly(ctx)
	if err != nil {
		return err
	}
	r.see("the disk is full from now on", func() (string, error) { return r.yard.run(ctx, drilled, "sh", "-euc", fillDisk) })
	r.await(ctx, "the system that cannot be committed is left for the one before", func() (string, error) {
		log, err := r.yard.world.hosts[drilled].ReadFile("/var/lib/garrison/activation/log")
		if err == nil {
			_, err = contains(string(log), "rolling back")
		}
		if err != nil {
			return "", err
		}
		after, err := r.standing(ctx, r.host(drilled))
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, now: %s", before, after)
		}
		return "", err
	})
	r.await(ctx, "garrison explain says that the disk is full", func() (string, error) {
		out, err := r.yard.run(ctx, drilled, "garrison", "explain")
		if err != nil {
			return "", err
		}
		return contains(out, "The disk of its store is full")
	})
	r.await(ctx, "somebody is told", func() (string, error) { return r.alerted(ctx, fleet.AlertDisk, drilled) })
	if _, err := r.yard.run(ctx, drilled, "sh", "-euc", freeDisk); err != nil {
		return err
	}
	r.await(ctx, "there is room again: it says what became of it, and that it will try again", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Phase != fleet.PhaseRetrying || s.RetryAt == nil || s.Failure == nil || s.Failure.Class != fleet.Local) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Failure.Message), nil
	})
	r.same(ctx, before)
	r.see("who does not want to wait has it tried now", func() (string, error) { return r.confirm(ctx, drilled, "garrison retry") })
	r.await(ctx, "it is committed", func() (string, error) {
		text, err := committed(ctx, r.host(drilled), p)
		if errors.As(err, new(final)) { // the last one is still that which had no room
			err = errNotYet
		}
		return text, err
	})
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	r.wholeStore(ctx)
	return nil
}

// wholeStore has nix read all that is in the drilled host's store.
func (r *run) wholeStore(ctx context.Context) {
	r.see("what is in its store is whole", func() (string, error) {
		return r.yard.run(ctx, drilled, "nix-store", "--verify", "--check-contents")
	})
}
