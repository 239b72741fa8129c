package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/hub"
)

// board is a forge that keeps what it is told, and a fleet.
type board struct {
	told  []string // commit's first letter, state, text
	err   error
	tries int
	hosts []fleet.Status
	log   logBuffer
	file  string
}

func (b *board) set(_ context.Context, commit string, s forge.Status) error {
	b.tries++
	if b.err == nil {
		b.told = append(b.told, fmt.Sprintf("%.1s %s %s", commit, s.State, s.Text))
	}
	return b.err
}

// start runs an Announcer until stop is called.
func (b *board) start(t *testing.T) (a *hub.Announcer, stop func()) {
	a = hub.NewAnnouncer(hub.Announcer{SetStatus: b.set, Hosts: func(context.Context) ([]fleet.Status, error) { return b.hosts, nil },
		File: b.file, Silent: 15 * time.Minute, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	return a, func() { cancel(); <-done }
}

func (b *board) wants(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(b.told, want) {
		t.Errorf("the forge was told\n%s\nwant\n%s", strings.Join(b.told, "\n"), strings.Join(want, "\n"))
	}
}

// of is a release made now of a commit of that letter.
func of(letter string, number int, hosts ...string) *fleet.Manifest {
	m := rolling(hosts...)
	m.Number, m.Source.Commit, m.CreatedAt = number, strings.Repeat(letter, 40), time.Now()
	return m
}

// TestAnnounces: a rollout is told from its first word to its end, over restarts of the hub, without one word twice, and what was superseded is said to be.
func TestAnnounces(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &board{file: filepath.Join(dir, "rollout.json")}
		a, stop := b.start(t)
		a.Newest(of("a", 7, "h1", "h2"))
		time.Sleep(time.Second)
		want := []string{"a pending release-7: 0 of 2 hosts"}
		b.wants(t, want...)
		b.hosts = []fleet.Status{said("h1", 7, fleet.PhaseIdle, nil)}
		a.Reported()
		time.Sleep(3 * time.Second)
		want = append(want, "a pending release-7: 1 of 2 hosts")
		b.wants(t, want...)
		stop()

		a, stop = b.start(t)
		m := of("a", 7, "h1", "h2")
		a.Newest(m)
		time.Sleep(16 * time.Minute)
		want = append(want, "a pending release-7: 1 of 2 hosts; silent: h2")
		b.wants(t, want...)
		stop()

		a, stop = b.start(t)
		a.Newest(of("b", 8, "h1", "h2"))
		time.Sleep(time.Second)
		want = append(want, "a success superseded by release-8; until then release-7: 1 of 2 hosts; silent: h2", "b pending release-8: 0 of 2 hosts")
		b.wants(t, want...)
		b.hosts = []fleet.Status{said("h1", 8, fleet.PhaseHeld, nil), said("h2", 8, fleet.PhaseIdle, nil)}
		a.Reported()
		time.Sleep(3 * time.Second)
		want = append(want, "b failure release-8: 1 of 2 hosts; failed: h1")
		b.wants(t, want...)
		b.hosts[0] = said("h1", 8, fleet.PhaseIdle, nil)
		a.Reported()
		time.Sleep(time.Second)
		want = append(want, "b success release-8: all 2 hosts")
		b.wants(t, want...)
		b.hosts[0].Drift = true // is not the release's matter any more
		a.Reported()
		time.Sleep(time.Hour)
		stop()
		a, stop = b.start(t)
		a.Newest(of("b", 8, "h1", "h2"))
		time.Sleep(time.Hour)
		b.wants(t, want...)
		a.Newest(of("c", 9, "h1"))
		time.Sleep(time.Second)
		b.wants(t, append(want, "c pending release-9: 0 of 1 hosts")...)
		stop()
	})
}

// TestAnnouncesSparingly: what changes all the time is not told all the time, and of what the forge refuses nobody makes a storm.
func TestAnnouncesSparingly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &board{file: filepath.Join(dir, "rollout.json")}
		a, stop := b.start(t)
		a.Newest(of("a", 7, "h1", "h2"))
		flap := func(times int, every time.Duration, one, other fleet.Status) {
			for n := range times {
				b.hosts = []fleet.Status{one}
				if n%2 == 1 {
					b.hosts[0] = other
				}
				b.hosts[0].At = time.Now()
				a.Reported()
				time.Sleep(every)
			}
		}
		flap(8*3600, time.Second, said("h1", 7, fleet.PhaseIdle, nil), said("h1", 7, fleet.PhaseStaging, nil)) // a working day of it
		if n := len(b.told); n < 10 || n > 50 {
			t.Errorf("the forge was told of texts %d times", n)
		}
		flap(8*3600, time.Second, said("h1", 7, fleet.PhaseHeld, nil), said("h1", 7, fleet.PhaseStaging, nil))
		if n := len(b.told); n != 500 {
			t.Errorf("the forge was told of states %d times", n)
		}
		b.hosts = []fleet.Status{said("h1", 7, fleet.PhaseIdle, nil), said("h2", 7, fleet.PhaseIdle, nil)}
		a.Reported()
		time.Sleep(time.Second)
		if last := b.told[len(b.told)-1]; last != "a success release-7: all 2 hosts" {
			t.Errorf("at last it was told %q", last)
		}

		b.told, b.tries = nil, 0
		b.err = fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the token is not for statuses")
		a.Newest(of("b", 8, "h1", "h2"))
		flap(3600, time.Second, said("h1", 8, fleet.PhaseHeld, nil), said("h1", 8, fleet.PhaseStaging, nil))
		if b.tries < 10 || b.tries > 15 {
			t.Errorf("a forge that refuses was asked %d times in an hour", b.tries)
		}
		b.err, b.tries = fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the forge is down"), 0
		flap(3600, time.Second, said("h1", 8, fleet.PhaseHeld, nil), said("h1", 8, fleet.PhaseStaging, nil))
		if b.tries < 10 || b.tries > 20 {
			t.Errorf("a forge that is down was asked %d times in an hour", b.tries)
		}
		b.err = nil
		b.hosts = []fleet.Status{said("h1", 8, fleet.PhaseHeld, nil)}
		time.Sleep(6 * time.Minute)
		b.wants(t, "b failure release-8: 0 of 2 hosts; failed: h1; silent: h2")

		// A release that was superseded while the forge is away for long is not spoken of for ever.
		b.hosts, b.told = nil, nil
		a.Newest(of("c", 9, "h1"))
		time.Sleep(time.Minute)
		b.err = fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the forge is down")
		a.Newest(of("d", 10, "h1"))
		time.Sleep(5 * time.Minute)
		b.err = nil
		time.Sleep(10 * time.Minute)
		b.wants(t, "c pending release-9: 0 of 1 hosts", "d pending release-10: 0 of 1 hosts")
		stop()
	})
}

// TestAnnouncesAfterALoss: without the file, or with a damaged one, the newest release is told once more.
func TestAnnouncesAfterALoss(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &board{file: filepath.Join(dir, "rollout.json")}
		must(t, os.WriteFile(b.file, []byte("{\"schema\":"), 0o600))
		a, stop := b.start(t)
		a.Newest(of("a", 7, "h1"))
		time.Sleep(time.Second)
		b.wants(t, "a pending release-7: 0 of 1 hosts")
		stop()
		if !strings.Contains(b.log.String(), "is not known") {
			t.Errorf("the log says %s", b.log.String())
		}
	})
}
