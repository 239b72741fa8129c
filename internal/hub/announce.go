package hub

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// AnnounceOptions are what an Announcer needs.
type AnnounceOptions struct {
	// SetStatus makes or replaces the status of a commit; a forge.Forge does.
	SetStatus func(ctx context.Context, commit string, s forge.Status) error
	Hosts     func(context.Context) ([]fleet.Status, error)
	Rings     func(context.Context) (fleet.Rollout, error) // may be nil
	File      string                                       // keeps what was said last; it may be lost
	Silent    time.Duration                                // after it a host that said nothing is named
	Log       *slog.Logger
}

// Announcer shows on the forge how far the newest release has come on its hosts. What it says follows from the release and from what hosts
// report; all that it remembers is what it said last.
type Announcer struct {
	AnnounceOptions
	newest atomic.Pointer[fleet.Manifest]
	look   chan struct{}
	told   told
	failed int // attempts in a row
}

// told is what the forge was told last.
type told struct {
	Schema int    `json:"schema"`
	Number int    `json:"number"` // of the release
	Commit string `json:"commit"`
	said
	Rings map[string]said `json:"rings,omitempty"` // by name
}

// said is what was told of one thing.
type said struct {
	Status forge.Status `json:"status"`
	At     time.Time    `json:"at"`
	Times  int          `json:"times"` // for that release
}

const (
	maxTold      = 64 << 10 // bytes of the file
	mostTold     = 500      // statuses of a release; GitHub takes 1,000 for a commit and context
	announceGap  = 2 * time.Second
	announceRest = 250 * time.Millisecond
	stateGap     = 10 * time.Second
	textGap      = time.Hour
	failPause    = 5 * time.Minute
	farewells    = 5 // attempts to say that a release was superseded
)

// NewAnnouncer makes an Announcer; its Newest and Reported may be called before Run.
func NewAnnouncer(o AnnounceOptions) *Announcer {
	return &Announcer{AnnounceOptions: o, look: make(chan struct{}, 1)}
}

// Newest tells what the newest release is.
func (a *Announcer) Newest(m *fleet.Manifest) {
	a.newest.Store(m)
	a.Reported()
}

// Reported tells that a host has said something.
func (a *Announcer) Reported() {
	select {
	case a.look <- struct{}{}:
	default: // it is going to look anyway
	}
}

// Run announces until ctx ends.
func (a *Announcer) Run(ctx context.Context) {
	if _, err := durable.ReadJSON(a.File, maxTold, &a.told); err != nil {
		a.Log.Warn("what the forge was told of the last rollout is not known", "err", err)
		a.told = told{}
	}
	for ctx.Err() == nil {
		began := time.Now()
		again := a.step(ctx)
		// However many hosts report, most of the time is left to others.
		rest := max(announceRest, 20*time.Since(began))
		if a.failed > 0 {
			rest = max(rest, again) // a report is no reason to try again earlier
		}
		sleep(ctx, rest)
		select {
		case <-ctx.Done():
		case <-a.look:
		case <-time.After(max(0, again-rest)):
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// step tells the forge what it should know by now, one thing at most, and says after which time there may be something again.
func (a *Announcer) step(ctx context.Context) (again time.Duration) {
	idle := max(time.Second, min(a.Silent/4, time.Minute))
	m := a.newest.Load()
	if m == nil {
		return idle
	}
	if a.told.Number != m.Number {
		if pause := a.takeLeave(ctx, m); pause > 0 {
			return pause
		}
	}
	again, done := a.sayRings(ctx, m, idle)
	if done || a.told.Status.State == forge.Success { // what hosts are about after that is not this release's
		return again
	}
	hosts, err := a.Hosts(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.Log.Error("the rollout is not known", "err", err)
		}
		return idle
	}
	wait, _ := a.say(ctx, m, Rollout(m, hosts, time.Now(), a.Silent), &a.told.said, idle)
	if a.failed > 0 {
		return wait
	}
	return min(wait, again)
}

// sayRings tells how the release stands in one of its rings, if there is something to tell; else again is when there may be.
func (a *Announcer) sayRings(ctx context.Context, m *fleet.Manifest, idle time.Duration) (again time.Duration, done bool) {
	if a.Rings == nil || len(m.Rings) == 0 {
		return idle, false
	}
	v, err := a.Rings(ctx)
	if err != nil || v.Release != m.Number {
		return idle, false
	}
	again = idle
	for _, r := range v.Rings {
		of := a.told.Rings[r.Name]
		wait, told := a.say(ctx, m, ringStatus(r, v.Release), &of, idle)
		if told {
			if a.told.Rings == nil {
				a.told.Rings = map[string]said{}
			}
			a.told.Rings[r.Name] = of
			a.keep()
			return wait, true
		}
		if again = min(again, wait); a.failed > 0 {
			return wait, true
		}
	}
	return again, false
}

// say tells the forge s of m's commit, unless that was said last, or it is too early; told says that it was.
func (a *Announcer) say(ctx context.Context, m *fleet.Manifest, s forge.Status, last *said, idle time.Duration) (again time.Duration, told bool) {
	if s == last.Status {
		return idle, false
	}
	if wait := time.Until(last.At.Add(last.gap(s))); wait > 0 {
		return wait, false
	}
	if err := a.SetStatus(ctx, m.Source.Commit, s); err != nil {
		return a.pause(ctx, err), false
	}
	a.failed = 0
	last.Status, last.At = s, time.Now().UTC()
	last.Times++
	a.keep()
	if last.Times == mostTold {
		a.Log.Warn("the forge is told no more of this rollout but its end: it was told often enough", "release", m.Number, "about", s.Context, "times", mostTold)
	}
	return announceGap, true
}

// gap is how long after the last status s may be told: the longer the more often it was.
func (t said) gap(s forge.Status) time.Duration {
	if t.Times == 0 || s.State == forge.Success {
		return 0
	}
	gap := announceGap << min(t.Times-1, 20)
	switch {
	case t.Times >= mostTold:
		return 1<<62 - 1
	case s.State != t.Status.State:
		return min(gap, stateGap)
	}
	return min(gap, textGap)
}

// takeLeave turns to release m: what was told of another and has not come to its end does so. A pause says that this must be tried again.
func (a *Announcer) takeLeave(ctx context.Context, m *fleet.Manifest) (pause time.Duration) {
	if a.told.Status.State == forge.Pending && a.told.Commit != m.Source.Commit {
		err := a.SetStatus(ctx, a.told.Commit, Superseded(a.told.Status, m.Name()))
		for _, ring := range slices.Sorted(maps.Keys(a.told.Rings)) {
			if last := a.told.Rings[ring].Status; err == nil && last.State == forge.Pending {
				err = a.SetStatus(ctx, a.told.Commit, Superseded(last, m.Name()))
			}
		}
		if err != nil && fleet.ClassOf(err) == fleet.Transient && a.failed < farewells || ctx.Err() != nil {
			return a.pause(ctx, err)
		}
		if err != nil {
			a.Log.Warn("the forge goes on to show a rollout that was superseded", "commit", a.told.Commit, "err", err)
		}
	}
	a.failed = 0
	a.told = told{Schema: fleet.StatusSchema, Number: m.Number, Commit: m.Source.Commit}
	a.keep()
	return 0
}

func (a *Announcer) keep() {
	if err := durable.WriteJSON(a.File, a.told, 0o640); err != nil {
		a.Log.Error("what the forge was told cannot be kept", "err", err)
	}
}

// pause is how long to wait after err: longer each time, and long where it does not end by itself.
func (a *Announcer) pause(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return failPause
	}
	a.failed++
	pause := min(failPause, time.Second<<min(a.failed-1, 12))
	if fleet.ClassOf(err) != fleet.Transient {
		pause = failPause
	}
	pause = jittered(pause)
	a.Log.Warn("the forge was not told of the rollout", "attempt", a.failed, "retryIn", pause.Round(time.Second), "err", err)
	return pause
}
