package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/hub"
)

// board is a forge that keeps what it is told, and a fleet.
type board struct {
	mu    sync.Mutex
	told  []string // commit's first letter, state, text
	err   error
	tries int
	hosts []fleet.Status
	log   logBuffer
	file  string
}

func (b *board) set(_ context.Context, commit string, s forge.Status) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tries++
	if b.err == nil {
		b.told = append(b.told, fmt.Sprintf("%.1s %s %s", commit, s.State, s.Text))
	}
	return b.err
}

func (b *board) fleet(context.Context) ([]fleet.Status, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hosts, nil
}

func (b *board) say(hosts ...fleet.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hosts = hosts
}

// fail has the forge answer with err from now on, and count anew.
func (b *board) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err, b.tries = err, 0
}

// heard is what the forge was told since it was asked that last, and how often it was asked.
func (b *board) heard() (told []string, tries int) {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	told, b.told = b.told, nil
	return told, b.tries
}

// start runs an Announcer until stop is called.
func (b *board) start(t *testing.T) (a *hub.Announcer, stop func()) {
	a = hub.NewAnnouncer(hub.AnnounceOptions{SetStatus: b.set, Hosts: b.fleet,
		File: b.file, Silent: 15 * time.Minute, Log: slog.New(slog.NewTextHandler(&b.log, nil))})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	return a, func() { cancel(); <-done }
}

func (b *board) wants(t *testing.T, want ...string) {
	t.Helper()
	if told, _ := b.heard(); !slices.Equal(told, want) {
		t.Errorf("the forge was told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
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
		b.wants(t, "a pending release-7: 0 of 2 hosts")
		b.say(said("h1", 7, fleet.PhaseIdle, nil))
		a.Reported()
		time.Sleep(3 * time.Second)
		b.wants(t, "a pending release-7: 1 of 2 hosts")
		stop()

		a, stop = b.start(t)
		a.Newest(of("a", 7, "h1", "h2"))
		time.Sleep(16 * time.Minute)
		b.wants(t, "a pending release-7: 1 of 2 hosts; silent: h2")
		stop()

		a, stop = b.start(t)
		a.Newest(of("b", 8, "h1", "h2"))
		time.Sleep(time.Second)
		b.wants(t, "a success superseded by release-8; until then release-7: 1 of 2 hosts; silent: h2", "b pending release-8: 0 of 2 hosts")
		b.say(said("h1", 8, fleet.PhaseHeld, nil), said("h2", 8, fleet.PhaseIdle, nil))
		a.Reported()
		time.Sleep(3 * time.Second)
		b.wants(t, "b failure release-8: 1 of 2 hosts; failed: h1")
		b.say(said("h1", 8, fleet.PhaseIdle, nil), said("h2", 8, fleet.PhaseIdle, nil))
		a.Reported()
		time.Sleep(time.Second)
		b.wants(t, "b success release-8: all 2 hosts")
		b.say() // is not the release's matter any more
		a.Reported()
		time.Sleep(time.Hour)
		stop()
		a, stop = b.start(t)
		a.Newest(of("b", 8, "h1", "h2"))
		time.Sleep(time.Hour)
		b.wants(t)
		a.Newest(of("c", 9, "h1"))
		time.Sleep(time.Second)
		b.wants(t, "c pending release-9: 0 of 1 hosts")
		stop()
	})
}

// TestAnnouncesSparingly: what changes all the time is not told all the time, and of what the forge refuses nobody makes a storm.
func TestAnnouncesSparingly(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &board{file: filepath.Join(dir, "rollout.json")}
		a, stop := b.start(t)
		defer stop()
		a.Newest(of("a", 7, "h1", "h2"))
		// flap has h1 say one, then the other, and so on.
		flap := func(forTime time.Duration, n int, phases ...fleet.Phase) (told []string, tries int) {
			for i := range int(forTime / (5 * time.Second)) {
				b.say(said("h1", n, phases[i%len(phases)], func(s *fleet.Status) { s.At = time.Now() }))
				a.Reported()
				time.Sleep(5 * time.Second)
			}
			return b.heard()
		}
		if told, _ := flap(3*time.Hour, 7, fleet.PhaseIdle, fleet.PhaseStaging); len(told) < 8 || len(told) > 20 {
			t.Errorf("the forge was told of texts %d times", len(told))
		}
		if told, _ := flap(4*time.Hour, 7, fleet.PhaseHeld, fleet.PhaseStaging); len(told) < 470 || len(told) > 500 {
			t.Errorf("the forge was told of states %d times", len(told))
		}
		b.say(said("h1", 7, fleet.PhaseIdle, nil), said("h2", 7, fleet.PhaseIdle, nil))
		a.Reported()
		time.Sleep(time.Second)
		b.wants(t, "a success release-7: all 2 hosts")

		b.fail(fleet.Errorf(fleet.Local, fleet.CodeUnauthorized, "the token is not for statuses"))
		a.Newest(of("b", 8, "h1", "h2"))
		if _, tries := flap(time.Hour, 8, fleet.PhaseHeld, fleet.PhaseStaging); tries < 10 || tries > 15 {
			t.Errorf("a forge that refuses was asked %d times in an hour", tries)
		}
		b.fail(fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the forge is down"))
		if _, tries := flap(time.Hour, 8, fleet.PhaseHeld, fleet.PhaseStaging); tries < 10 || tries > 20 {
			t.Errorf("a forge that is down was asked %d times in an hour", tries)
		}
		b.fail(nil)
		b.say(said("h1", 8, fleet.PhaseHeld, nil))
		time.Sleep(6 * time.Minute)
		b.wants(t, "b failure release-8: 0 of 2 hosts; failed: h1; silent: h2")

		// A release that was superseded while the forge is away for long is not spoken of for ever.
		b.say()
		a.Newest(of("c", 9, "h1"))
		time.Sleep(time.Minute)
		b.fail(fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the forge is down"))
		a.Newest(of("d", 10, "h1"))
		time.Sleep(5 * time.Minute)
		b.fail(nil)
		time.Sleep(9 * time.Minute)
		b.wants(t, "c pending release-9: 0 of 1 hosts", "d pending release-10: 0 of 1 hosts")
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

// TestRingsAnnounced: the release's commit shows each ring, once for what changes there.
func TestRingsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &board{file: filepath.Join(t.TempDir(), "told.json")}
		m := &fleet.Manifest{Number: 7, CreatedAt: time.Now(), Source: fleet.Source{Commit: "c7"}, Hosts: map[string]fleet.Entry{"a": {}, "b": {}}, Rings: []fleet.Ring{{Name: "canary"}, {Name: "rest"}}}
		var mu sync.Mutex
		v := fleet.Rollout{Release: 7, Rings: []fleet.RolloutRing{{Ring: m.Rings[0], State: fleet.RolloutSoaking, Release: 7, Reason: "soaks release-7 until 12:00 UTC (9 min left)"},
			{Ring: m.Rings[1], State: fleet.RolloutWaiting, Release: 6, Reason: "has release-6; waits for ring canary"}}}
		a := hub.NewAnnouncer(hub.AnnounceOptions{SetStatus: b.set, Hosts: b.fleet, File: b.file, Silent: time.Hour, Log: slog.New(slog.NewTextHandler(&b.log, nil)),
			Rings: func(context.Context) (fleet.Rollout, error) { mu.Lock(); defer mu.Unlock(); return v, nil }})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); a.Run(ctx) }()
		a.Newest(m)
		change := func(i int, s fleet.RolloutState, release int, why string) {
			time.Sleep(3 * time.Hour)
			synctest.Wait()
			mu.Lock()
			v.Rings = slices.Clone(v.Rings)
			v.Rings[i].State, v.Rings[i].Release, v.Rings[i].Reason = s, release, why
			mu.Unlock()
			a.Reported()
		}
		change(0, fleet.RolloutSoaking, 7, "soaks release-7 until 12:00 UTC (8 min left)") // which is no news
		change(0, fleet.RolloutDone, 7, "has release-7")
		change(1, fleet.RolloutStopped, 7, "paused: 1 host failed: b")
		change(1, fleet.RolloutDone, 7, "has release-7")
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		<-done
		b.mu.Lock()
		defer b.mu.Unlock()
		var rings []string
		for _, s := range b.told {
			if !strings.Contains(s, "of 2 hosts") {
				rings = append(rings, s)
			}
		}
		want := []string{"c pending release-7: soaks release-7 until 12:00 UTC", "c pending release-7: has release-6; waits for ring canary", "c success release-7: has release-7",
			"c failure release-7: paused: 1 host failed: b", "c success release-7: has release-7"}
		if !slices.Equal(rings, want) {
			t.Errorf("told:\n%s", strings.Join(rings, "\n"))
		}
	})
}
