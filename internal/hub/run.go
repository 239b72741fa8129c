package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/proc"
)

const (
	lastWords = 15 * time.Second // that the forge has to hear how a run ended
	keepTime  = 10 * time.Second // for the store, when the hub is being stopped
)

// interrupted is why a run ended with the hub.
func interrupted() *fleet.Error {
	return fleet.Errorf(fleet.Transient, fleet.CodeInterrupted, "the hub was stopped in the middle of this run").WithHint("nothing to do: the commit is released by a later run")
}

// markInterrupted ends the runs that a hub which was killed left behind as running.
func (c *CI) markInterrupted(ctx context.Context) {
	runs, err := c.Hub.Store.Runs(ctx, maxRunsAsk)
	for _, r := range runs {
		if r.State != fleet.RunRunning || r.By != "" {
			continue
		}
		ended := time.Now().UTC()
		r.State, r.EndedAt, r.Failure = fleet.RunFailed, &ended, fleet.FailureOf(r.Stage, interrupted())
		if _, perr := c.Hub.NoteRun(ctx, r); perr != nil {
			err = perr
		}
		told := c.tellForge(r.Source.Commit)
		told.onStage(fleet.StageTime{Stage: r.Stage}, false)
		told.end(ctx, interrupted())
	}
	if err != nil && ctx.Err() == nil {
		c.Log.Error("runs that were interrupted cannot be marked", "err", err)
	}
}

// testsDone are the test branches as runs of the past leave them: a hub that starts anew does not try again what failed for a reason of its own.
func (c *CI) testsDone(ctx context.Context) map[string]*followed {
	tests := map[string]*followed{}
	runs, err := c.Hub.Store.Runs(ctx, maxRunsAsk)
	if err != nil && ctx.Err() == nil {
		c.Log.Error("earlier runs cannot be read", "err", err)
	}
	for _, r := range runs { // the newest first
		host, isTest := testedBy(r.Source.Branch)
		if isTest && r.By == "" && tests[host] == nil {
			tests[host] = &followed{tip: r.Source.Commit, done: r.State != fleet.RunFailed || r.Failure != nil && r.Failure.Class == fleet.Bad}
		}
	}
	return tests
}

// teller is the forge as far as a run tells it of its stages; nil when there is none.
type teller struct{ *forge.Stages }

func (c *CI) tellForge(commit string) teller {
	if c.Forge == nil {
		return teller{}
	}
	return teller{forge.NewStages(c.Forge, commit, "", c.Log)}
}

func (t teller) onStage(s fleet.StageTime, ended bool) {
	if t.Stages != nil {
		t.OnStage(s, ended)
	}
}

// end has the forge hear how the run ended, also when the hub is being stopped.
func (t teller) end(ctx context.Context, err error) {
	if t.Stages == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	t.Close(ctx, err)
}

// run makes one run and keeps it. failure is why nothing was released; the error is that of store or log. main is what the source branch is at.
func (c *CI) run(ctx context.Context, job Job, main fleet.Source, t *proc.Timeline) (failure, err error) {
	r := fleet.Run{Schema: fleet.StatusSchema, Source: job.Source, State: fleet.RunRunning, StartedAt: time.Now().UTC(), Stages: t.Stages(), Trace: job.trace()}
	if r.ID, err = c.Hub.NoteRun(ctx, r); err != nil {
		return err, err
	}
	out, err := os.OpenFile(LogFile(c.LogDir, r.ID), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		err = fleet.Errorf(fleet.Local, fleet.CodeState, "the log of CI run %d cannot be written", r.ID).WithCause(err)
		return err, errors.Join(err, c.end(ctx, r, err))
	}
	defer out.Close()
	c.Log.Info("CI run begins", "run", r.ID, "branch", job.Source.Branch, "commit", job.Source.Commit, "subject", job.Source.Subject)
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%s garrison: %s\n", time.Now().UTC().Format(time.RFC3339), proc.Redact(fmt.Sprintf(format, args...)))
	}
	limited, cancel := context.WithTimeoutCause(ctx, maxRunTime, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "the release took longer than %s", maxRunTime))
	defer cancel()
	race := newRace(limited)
	tells := c.tellForge(job.Source.Commit)
	t.OnStage = func(s fleet.StageTime, ended bool) {
		if s.Stage == fleet.Publish && !ended {
			race.won()
		}
		if ended {
			say("stage %s ended after %.3f s", s.Stage, s.Seconds)
		} else {
			say("stage %s begins", s.Stage)
		}
		tells.onStage(s, ended)
		r.Stage, r.Stages = s.Stage, t.Stages()
		if _, err := c.Hub.NoteRun(ctx, r); err != nil && ctx.Err() == nil {
			c.Log.Error("a run cannot be kept", "run", r.ID, "err", err)
		}
	}
	watched := race.against(func(ctx context.Context) error { return c.newer(ctx, job, main) }, c.nextLook)
	state, release, failure := c.Releaser.Release(proc.WithTimeline(race.ctx, t), job, out)
	race.end()
	<-watched
	switch lost := race.lost(); {
	case failure == nil:
		c.tellReleased(release) // also of what was released before: perhaps by a run that died before it could tell
	case ctx.Err() != nil:
		failure = interrupted()
	case lost != nil:
		failure = lost
	}
	r.State, r.Release, r.Stages = state, release, t.Stages()
	if failure != nil {
		say("failed: %s", failure)
	}
	err = c.end(ctx, r, failure)
	tells.end(ctx, failure)
	return failure, err
}

func (c *CI) tellReleased(r *fleet.ReleaseRef) {
	if c.Released != nil && r != nil {
		c.Released(*r)
	} else {
		c.Hub.WakeAgents()
	}
}

// newer is an error when something was pushed that job must give way to. That a remote cannot be asked is none.
func (c *CI) newer(ctx context.Context, job Job, main fleet.Source) error {
	superseded := func(branch, was string) error {
		tip, err := c.Releaser.Tip(ctx, branch)
		switch {
		case err != nil || tip == was:
			return nil
		case tip == "":
			return fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded: the branch %s was deleted", branch)
		}
		return fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded by %.12s on %s", tip, branch).WithHint("nothing to do: that is released first")
	}
	if main.Commit != "" && job.RollbackTo == 0 { // what is pushed meanwhile is released after it
		if err := superseded(main.Branch, main.Commit); err != nil {
			return err
		}
	}
	if job.Test == "" {
		return nil
	}
	return superseded(job.Source.Branch, job.Source.Commit)
}

// nextLook waits until there may be something newer.
func (c *CI) nextLook(ctx context.Context) {
	timer := time.NewTimer(jittered(c.Poll))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-c.wake: // when that was said, hint knows
	case <-timer.C:
	}
}

// end keeps a run that has ended, with failure or without.
func (c *CI) end(ctx context.Context, r fleet.Run, failure error) error {
	ended := time.Now().UTC()
	r.EndedAt = &ended
	if failure != nil {
		r.State, r.Failure = fleet.RunFailed, fleet.FailureOf(r.Stage, failure)
		r.Failure.Message = proc.Redact(r.Failure.Message)
	}
	switch {
	case failure == nil:
		r.Stage = ""
		c.Log.Info("CI run ended", "run", r.ID, "state", r.State, "duration", ended.Sub(r.StartedAt).Round(time.Millisecond))
	case r.Failure.Code == fleet.CodeSuperseded:
		c.Log.Info("CI run ended", "run", r.ID, "state", r.Failure.Message, "duration", ended.Sub(r.StartedAt).Round(time.Millisecond))
	default:
		c.Log.Error("CI run failed", "run", r.ID, "stage", r.Stage, "err", r.Failure.Message)
	}
	// It is kept also when the hub is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keepTime)
	defer cancel()
	_, err := c.Hub.NoteRun(ctx, r)
	return err
}

// race is between a run and what is pushed meanwhile: a run that has begun to publish has won, and is ended by nobody.
type race struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	winner bool
	loss   error
}

func newRace(ctx context.Context) *race {
	r := &race{}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	return r
}

// against has newer asked again and again, after next, until the run is over, has won or lost; then the channel is closed.
func (r *race) against(newer func(context.Context) error, next func(context.Context)) <-chan struct{} {
	over := make(chan struct{})
	go func() {
		defer close(over)
		for r.ctx.Err() == nil && !r.hasWon() {
			next(r.ctx)
			if r.ctx.Err() != nil {
				return
			}
			if err := newer(r.ctx); err != nil {
				r.lose(err)
				return
			}
		}
	}()
	return over
}

func (r *race) won() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.winner = r.loss == nil
}

func (r *race) hasWon() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.winner
}

func (r *race) lose(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.winner && r.ctx.Err() == nil {
		r.loss = err
		r.cancel(err)
	}
}

// lost is why the run was ended; nil when it was not.
func (r *race) lost() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.loss
}

// end is called when the run is over.
func (r *race) end() { r.cancel(nil) }
