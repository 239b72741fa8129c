package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
)

// result is what work beside the loop came to; take is run by the loop.
type result interface {
	take(ctx context.Context, a *Agent) error
}

// send hands a result to the loop, unless it has ended.
func (a *Agent) send(ctx context.Context, r result) {
	select {
	case a.results <- r:
	case <-ctx.Done():
	}
}

type looked struct {
	event  deploy.Event
	err    error
	stages []fleet.StageTime
}

// look looks at the remote, once at a time; asked meanwhile, once more afterwards.
func (a *Agent) look(ctx context.Context) {
	if a.looking {
		a.lookAgain = true
		return
	}
	a.looking = true
	known := a.record.Newest
	a.tasks.Go(func() {
		t := &proc.Timeline{}
		event, err := a.looker.look(proc.WithTimeline(ctx, t), known)
		a.send(ctx, looked{event, err, t.Stages()})
	})
}

func (l looked) take(ctx context.Context, a *Agent) error {
	a.looking = false
	now := time.Now().UTC()
	a.note(func(s *fleet.Status) { s.Remote = contact(s.Remote, l.err, fleet.Fetch, now) })
	switch e := l.event.(type) {
	case deploy.Found:
		e.Current = a.systems().Current
		l.event = e
		a.lookStages = l.stages
	case deploy.Refused:
		if a.record.Refused == nil || a.record.Refused.Tip != e.Tip {
			a.Log.Error("release refused", "stage", fleet.Verify, "tip", e.Tip, "err", e.Failure.Message)
		}
	}
	if l.err != nil {
		a.Log.Warn("cannot look at the remote", "stage", fleet.Fetch, "err", l.err)
	}
	if a.lookAgain {
		a.lookAgain = false
		defer a.look(ctx)
	}
	if l.event == nil {
		a.publish()
		return nil
	}
	return a.apply(ctx, l.event)
}

// contact brings a Contact up to date.
func contact(c fleet.Contact, err error, stage fleet.Stage, now time.Time) fleet.Contact {
	if err == nil {
		return fleet.Contact{LastOK: now}
	}
	if c.Failure == nil {
		c.Since = now
	}
	c.Failure = fleet.FailureOf(stage, err)
	return c
}

type staged struct {
	run    int
	err    error
	stages []fleet.StageTime
}

// stage brings the target's closure into the store. One for an older target is stopped.
func (a *Agent) stage(ctx context.Context) {
	if a.cancelStage != nil {
		a.cancelStage()
	}
	ctx, a.cancelStage = context.WithCancel(ctx)
	a.stageRun++
	run, target := a.stageRun, *a.record.Target
	a.stages = a.lookStages
	s := nix.Substitution{Timeout: time.Duration(a.Config.FetchTime), Root: filepath.Join(a.Config.StateDir, "candidate")}
	for _, c := range a.Config.Caches {
		s.Caches = append(s.Caches, c.URL)
		s.PublicKeys = append(s.PublicKeys, c.PublicKey)
	}
	a.tasks.Go(func() {
		t := &proc.Timeline{}
		tctx := proc.WithTimeline(ctx, t)
		err := proc.Stage(tctx, fleet.Staging, func() error { return a.nix.Substitute(tctx, target.OutPath, s) })
		a.send(ctx, staged{run, err, t.Stages()})
	})
}

func (s staged) take(ctx context.Context, a *Agent) error {
	if s.run != a.stageRun {
		return nil
	}
	a.stages = append(a.stages, s.stages...)
	if s.err != nil {
		a.Log.Error("cannot stage", "stage", fleet.Staging, "release", a.record.Target.Release.Number, "err", s.err)
		return a.apply(ctx, deploy.StageFailed{Failure: *fleet.FailureOf(fleet.Staging, s.err)})
	}
	a.logStages(a.stages)
	return a.apply(ctx, deploy.Staged{})
}

type activated struct {
	outcome activate.Outcome
	alive   bool // false: the helper died without an outcome
	err     error
}

// activate asks a new helper for the target.
func (a *Agent) activate(ctx context.Context) {
	a.stages = append(a.stages, fleet.StageTime{Stage: fleet.Gate, StartedAt: time.Now().UTC()})
	a.previous = a.systems().Current
	target := *a.record.Target
	r := activate.Request{
		ID: fmt.Sprintf("%d-%d", target.Release.Number, time.Now().UnixNano()), Release: target.Release,
		OutPath: target.OutPath, Previous: a.previous, Profile: a.Config.Profile,
		CheckSeconds: time.Duration(a.Config.CheckTime).Seconds(),
	}
	dir := a.activationDir()
	a.tasks.Go(func() {
		err := activate.Clear(dir)
		if err == nil {
			err = activate.Prepare(dir, r)
		}
		a.follow(ctx, r, err, true)
	})
}

// resume follows the activation that the record says is under way.
func (a *Agent) resume(ctx context.Context) {
	dir := a.activationDir()
	r, there, err := activate.ReadRequest(dir)
	if err != nil || !there || r.OutPath != a.record.Target.OutPath || r.Release.Number != a.record.Target.Release.Number {
		// The agent died between deciding and asking: nothing was begun.
		a.activate(ctx)
		return
	}
	a.previous = r.Previous
	a.tasks.Go(func() {
		running, err := activate.Running(dir)
		_, done, _ := activate.ReadOutcome(dir, r.ID)
		a.follow(ctx, r, err, !running && !done)
	})
}

// follow starts a helper if asked to, and waits for the outcome, starting another where one died.
func (a *Agent) follow(ctx context.Context, r activate.Request, err error, start bool) {
	const helpers = 3
	for try := 0; err == nil && try < helpers; try++ {
		if start || try > 0 {
			if err = activate.Start(ctx, a.Exe, a.activationDir(), r); err != nil {
				break
			}
		}
		var out activate.Outcome
		var ended bool
		if out, ended, err = activate.Wait(ctx, a.activationDir(), r.ID); ended {
			a.send(ctx, activated{outcome: out, alive: true})
			return
		}
	}
	if ctx.Err() == nil {
		a.send(ctx, activated{err: err})
	}
}

func (r activated) take(ctx context.Context, a *Agent) error {
	e := deploy.Activated{Result: r.outcome.Result, Failure: r.outcome.Failure}
	switch {
	case r.err != nil:
		e = deploy.Activated{Result: fleet.NotActivated, Failure: fleet.FailureOf(fleet.Activate, r.err)}
	case !r.alive:
		e = deploy.Activated{Result: fleet.RollbackFailed, Failure: fleet.FailureOf(fleet.Activate,
			fleet.Errorf(fleet.Bad, fleet.CodeInterrupted, "the activation helper died again and again without an outcome").WithHint("look at %s", activate.LogFile(a.activationDir())))}
	}
	a.logStages(r.outcome.Stages)
	d := fleet.Deployment{
		Schema: fleet.StatusSchema, Host: a.Config.Host, Release: a.record.Target.Release, OutPath: a.record.Target.OutPath,
		Previous: a.previous, Result: e.Result, Failure: e.Failure, Stages: append(a.stages, r.outcome.Stages...), EndedAt: time.Now().UTC(),
	}
	if e.Failure != nil {
		a.Log.Error("deployment failed", "release", d.Release.Number, "result", d.Result, "err", e.Failure.Message)
	} else {
		a.Log.Info("deployed", "release", d.Release.Number, "result", d.Result, "storePath", d.OutPath)
	}
	if err := a.history.Append(d); err != nil {
		a.Log.Error("history cannot be written", "err", err)
	} else if err := a.history.Trim(historyKept); err != nil {
		a.Log.Error("history cannot be trimmed", "err", err)
	}
	a.note(func(s *fleet.Status) { s.Last = &d })
	return a.apply(ctx, e)
}

func (a *Agent) logStages(stages []fleet.StageTime) {
	for _, s := range stages {
		a.Log.Info("stage done", "stage", s.Stage, "duration", time.Duration(s.Seconds*float64(time.Second)).Round(time.Millisecond))
	}
}

// note changes the status that others see.
func (a *Agent) note(change func(*fleet.Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
}

// publish brings the status in line with the record and reality, and has it reported.
func (a *Agent) publish() {
	r, sys := a.record, a.systems()
	a.note(func(s *fleet.Status) {
		s.Schema, s.Host, s.Version, s.At = fleet.StatusSchema, a.Config.Host, a.Version, time.Now().UTC()
		s.Phase, s.Since, s.Newest, s.Active, s.Target = r.Phase, r.Since, r.Newest, r.Active, r.Target
		s.Failure, s.Attempt, s.RetryAt, s.Refused = r.Failure, r.Attempt, r.RetryAt, r.Refused
		s.Systems = sys
		s.Drift = r.Active != nil && sys.Current != r.Active.OutPath && r.Phase != fleet.PhaseActivating && r.Phase != fleet.PhaseReboot
	})
	select {
	case a.report <- struct{}{}:
	default:
	}
}

// Status is what the agent says of its host now.
func (a *Agent) Status() fleet.Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// Wake has the agent look at git again, soon.
func (a *Agent) Wake() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// changed says whether the record on disk must be written.
func changed(a, b deploy.Record) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX != nil || errY != nil || !bytes.Equal(x, y)
}

func random() float64 { return rand.Float64() }

// jittered spreads what many hosts do at the same interval: between 0.9 and 1.1 of d.
func jittered(d time.Duration) time.Duration {
	return time.Duration((0.9 + 0.2*random()) * float64(d))
}
