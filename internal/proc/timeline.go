package proc

import (
	"context"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Timeline records stages. The zero value is ready; it may be used from several goroutines,
// as long as one stage runs at a time.
type Timeline struct {
	// OnStage, when set, is told when a stage begins (Seconds and ToolSeconds 0) and when it ends.
	OnStage func(t fleet.StageTime, ended bool)

	mu      sync.Mutex
	stages  []fleet.StageTime
	running int           // programs at work now
	since   time.Time     // when running became 1
	busy    time.Duration // time with running > 0, up to since
}

type timelineKey struct{}

// WithTimeline returns a context in which Run adds to t.
func WithTimeline(ctx context.Context, t *Timeline) context.Context {
	return context.WithValue(ctx, timelineKey{}, t)
}

func timelineOf(ctx context.Context) *Timeline {
	if t, ok := ctx.Value(timelineKey{}).(*Timeline); ok {
		return t
	}
	return &Timeline{}
}

// Stage runs f as stage s of the context's timeline and returns its error.
// A stage that runs twice (an evaluation that had to be repeated) is recorded twice.
func Stage(ctx context.Context, s fleet.Stage, f func() error) error {
	t := timelineOf(ctx)
	began, busy := time.Now(), t.ToolTime()
	st := fleet.StageTime{Stage: s, StartedAt: began.UTC()}
	t.tell(st, false)
	err := f()
	st.Seconds = time.Since(began).Seconds()
	st.ToolSeconds = (t.ToolTime() - busy).Seconds()
	t.mu.Lock()
	t.stages = append(t.stages, st)
	t.mu.Unlock()
	t.tell(st, true)
	return err
}

// Stages returns what was recorded so far.
func (t *Timeline) Stages() []fleet.StageTime {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]fleet.StageTime{}, t.stages...)
}

// Add appends stages that were timed elsewhere.
func (t *Timeline) Add(s ...fleet.StageTime) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stages = append(t.stages, s...)
}

func (t *Timeline) tell(st fleet.StageTime, ended bool) {
	if t.OnStage != nil {
		t.OnStage(st, ended)
	}
}

// toolStarts notes that a program begins and returns what to call when it has ended.
func (t *Timeline) toolStarts() func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running == 0 {
		t.since = time.Now()
	}
	t.running++
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.running--
		if t.running == 0 {
			t.busy += time.Since(t.since)
		}
	}
}

// ToolTime is how long at least one program has been at work so far.
func (t *Timeline) ToolTime() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running > 0 {
		return t.busy + time.Since(t.since)
	}
	return t.busy
}
