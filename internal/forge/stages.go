package forge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// reported are the stages that have a status of their own.
var reported = []fleet.Stage{fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish}

// ContextOf is the name of a stage's status.
func ContextOf(s fleet.Stage) string { return "garrison/" + string(s) }

const (
	// settling is how long a stage has run before it is told that it does: one that is over at once needs one status, not two.
	settling       = 200 * time.Millisecond
	firstPause     = time.Second
	longestPause   = 30 * time.Second
	nothingToDo    = "nothing to do"
	statusRequests = 2 * time.Minute // at most, for one status with its attempts
)

// Stages tells a forge how far a run is: a status for each of evaluate, re-key, build, push and publish. It does so in a goroutine of its own, in order,
// and leaves out what is no news any more when its turn comes; the run is neither slowed nor failed by it. A forge that is down is tried again until Close
// gives up; one that refuses is left alone. Either is logged once.
//
// A stage counts as done when the next one begins or the run ends well: only then it is known that it did not fail.
type Stages struct {
	forge  Forge
	commit string
	url    string
	log    *slog.Logger

	wake   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	wanted  []wantedStatus // in the order in which they changed first
	current fleet.Stage    // that runs, or ran last; of those reported
	took    time.Duration  // its time, when it has ended
	ended   bool
	begun   map[fleet.Stage]bool
	closed  bool
}

// wantedStatus is what a context should say, from a moment on.
type wantedStatus struct {
	Status
	from time.Time
	weak bool // not in place of a success that is there
}

// NewStages begins to report on commit. url is that of the run, "" for none; log may be nil. Close must be called.
func NewStages(f Forge, commit, url string, log *slog.Logger) *Stages {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Stages{forge: f, commit: commit, url: url, log: log, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{}), begun: map[fleet.Stage]bool{}}
	go s.run(ctx)
	return s
}

// OnStage takes what a proc.Timeline tells. It returns at once.
func (s *Stages) OnStage(t fleet.StageTime, ended bool) {
	if !slices.Contains(reported, t.Stage) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if ended {
		s.ended, s.took = true, s.took+time.Duration(t.Seconds*float64(time.Second))
		return
	}
	if s.current != t.Stage {
		s.succeeded()
		s.took = 0
	}
	s.current, s.ended, s.begun[t.Stage] = t.Stage, false, true
	s.want(t.Stage, Pending, "running", settling, false)
}

// succeeded notes that the current stage is done, for sure.
func (s *Stages) succeeded() {
	if s.current != "" && s.ended {
		s.want(s.current, Success, "took "+s.took.Round(100*time.Millisecond).String(), 0, false)
	}
}

// want notes what a stage's status should be; the lock is held.
func (s *Stages) want(stage fleet.Stage, state State, text string, after time.Duration, weak bool) {
	w := wantedStatus{Status: Status{Context: ContextOf(stage), State: state, Text: text, URL: s.url}, from: time.Now().Add(after), weak: weak}
	if i := slices.IndexFunc(s.wanted, func(o wantedStatus) bool { return o.Context == w.Context }); i >= 0 {
		s.wanted[i] = w
	} else {
		s.wanted = append(s.wanted, w)
	}
	s.nudge()
}

func (s *Stages) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Close says how the run ended, and returns when the forge knows, or ctx has ended. err is why it failed, nil if it did not: the stage in which it did is
// a Failure if the change is to blame, else an Error, and none is left pending.
func (s *Stages) Close(ctx context.Context, err error) {
	s.end(err)
	s.nudge()
	select {
	case <-s.done:
	case <-ctx.Done():
	}
	s.cancel()
	<-s.done
}

func (s *Stages) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if fleet.CodeOf(err) == fleet.CodeSuperseded {
		s.superseded(err)
		return
	}
	if err != nil {
		s.failed(err)
		return
	}
	s.ended = true
	s.succeeded()
	for _, stage := range reported {
		if !s.begun[stage] {
			s.want(stage, Success, nothingToDo, 0, true)
		}
	}
}

// superseded says in the stages that are not done for sure what is released in place of this.
func (s *Stages) superseded(err error) {
	at := max(0, slices.Index(reported, s.current))
	if s.current != "" && s.ended { // it gave up before the next one
		s.succeeded()
		at++
	}
	var told *fleet.Error
	text := err.Error()
	if errors.As(err, &told) {
		text = told.What
	}
	for _, stage := range reported[at:] {
		s.want(stage, Success, oneLine(text), 0, false)
	}
}

// failed blames the stage that ran last; before the first one, that one. Those after it are not reached; those that another run of this commit
// left pending are told so when the forge is looked at.
func (s *Stages) failed(err error) {
	stage, state := s.current, Error
	if stage == "" {
		stage = reported[0]
	}
	if fleet.ClassOf(err) == fleet.Bad {
		state = Failure
	}
	text := err.Error()
	var told *fleet.Error
	if errors.As(err, &told) {
		text = told.What
	}
	s.want(stage, state, proc.Redact(oneLine(text)), 0, false)
	for _, later := range reported[slices.Index(reported, stage)+1:] {
		s.want(later, Error, fmt.Sprintf("not reached: %s failed", stage), 0, true)
	}
}

// run says what is wanted until there is no more to say.
func (s *Stages) run(ctx context.Context) {
	defer close(s.done)
	said := map[string]Status{} // what the forge has
	looked, warned, pause := false, false, firstPause
	for {
		w, wait, more := s.next()
		if !more {
			return
		}
		if wait > 0 {
			if !s.sleep(ctx, wait) {
				return
			}
			continue
		}
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, statusRequests)
			defer cancel()
			if !looked {
				there, err := s.forge.Statuses(ctx, s.commit)
				if err != nil && fleet.ClassOf(err) == fleet.Transient {
					return err
				}
				for _, st := range there { // who may not read them may perhaps write them
					said[st.Context] = st
				}
				looked = true
			}
			now, known := said[w.Context]
			if w.superfluous(now, known) {
				return nil
			}
			if err := s.forge.SetStatus(ctx, s.commit, w.Status); err != nil {
				return err
			}
			said[w.Context] = w.Status
			return nil
		}()
		switch {
		case ctx.Err() != nil:
			s.warn(&warned, context.Cause(ctx), "the forge was not told how the run ended: time is up")
			return
		case err == nil:
			s.told(w)
			pause = firstPause
		case fleet.ClassOf(err) == fleet.Transient:
			s.warn(&warned, err, "the forge cannot be told how far the run is; it is tried again")
			if !s.sleep(ctx, pause) {
				return
			}
			pause = min(2*pause, longestPause)
		default:
			s.warn(&warned, err, "the forge is not told how far the run is")
			return
		}
	}
}

// superfluous says whether the forge, which has now for the context, need not be told. A text that is cut there is not news either.
func (w wantedStatus) superfluous(now Status, known bool) bool {
	switch {
	case !known:
		return w.weak && w.State == Error // nothing was said of it, so that nothing is left pending
	case w.weak && now.State == Success, w.weak && w.State == Error && now.State != Pending:
		return true
	}
	return now.State == w.State && now.URL == w.URL && now.Text == w.Text
}

// next is what is to be said next, or how long there is nothing; more is false when there will be no more.
func (s *Stages) next() (w wantedStatus, wait time.Duration, more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wanted) == 0 {
		return w, time.Hour, !s.closed
	}
	w = s.wanted[0] // the order is kept: what comes after is not said before it
	if s.closed {
		return w, 0, true
	}
	return w, time.Until(w.from), true
}

// told notes that w was said; what is wanted meanwhile in its place stays.
func (s *Stages) told(w wantedStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.wanted, w); i >= 0 {
		s.wanted = slices.Delete(s.wanted, i, i+1)
	}
}

// sleep waits, or until something changes; false when there is no time left.
func (s *Stages) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-s.wake:
	}
	return true
}

// warn logs, the first time.
func (s *Stages) warn(warned *bool, err error, what string) {
	if *warned {
		return
	}
	*warned = true
	attrs := []any{"commit", short(s.commit), "err", err}
	var told *fleet.Error
	if errors.As(err, &told) && told.Hint != "" {
		attrs = append(attrs, "hint", told.Hint)
	}
	s.log.Warn(what, attrs...)
}
