package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// result is what work beside the loop came to; take is run by the loop.
type result interface {
	take(ctx context.Context, a *Agent)
}

// send hands a result to the loop, unless it has ended.
func (a *Agent) send(ctx context.Context, r result) {
	select {
	case a.results <- r:
	case <-ctx.Done():
	}
}

// contacted brings what the status says of something on the network up to date, and logs when what is wrong is of another kind.
func (a *Agent) contacted(c *fleet.Contact, err error, stage fleet.Stage, what string) {
	a.mu.Lock()
	was := *c
	now := time.Now().UTC()
	if err == nil {
		*c = fleet.Contact{LastOK: now}
	} else {
		if c.Failure == nil {
			c.Since = now
		}
		c.Failure = fleet.FailureOf(stage, err)
	}
	is := *c
	a.mu.Unlock()
	if is.Failure != nil {
		a.counts.failed(is.Failure.Code)
	}
	if (is.Failure == nil) != (was.Failure == nil) {
		defer a.seen()
	}
	switch {
	case is.Failure == nil && was.Failure != nil:
		a.Log.Info(what+" answers again", "stage", stage, "duration", now.Sub(was.Since).Round(time.Second))
	case is.Failure != nil && (was.Failure == nil || was.Failure.Code != is.Failure.Code):
		a.Log.Warn(what+" cannot be used; trying on", "stage", stage, "err", firstLine(is.Failure.Message), "hint", is.Failure.Hint)
	}
}

type staged struct {
	run    int
	err    error
	stages []fleet.StageTime
}

// stage brings the target's closure into the store. One for an older target is stopped first: both would write the same
// link that keeps the closure from garbage collection.
func (a *Agent) stage(ctx context.Context) {
	if a.cancelStage != nil {
		a.cancelStage()
	}
	before, done := a.stageDone, make(chan struct{})
	stageCtx, cancel := context.WithCancel(ctx)
	a.cancelStage, a.stageDone = cancel, done
	a.stageRun++
	run, target := a.stageRun, *a.record.Target
	a.stages = a.lookStages
	s := a.substitution(filepath.Join(a.Config.StateDir, "candidate"), time.Duration(a.Config.FetchTime))
	a.tasks.Go(func() {
		defer close(done)
		defer cancel()
		if before != nil {
			<-before
		}
		t := &proc.Timeline{}
		tctx := proc.WithTimeline(stageCtx, t)
		err := proc.Stage(tctx, fleet.Staging, func() error { return a.obtain(tctx, target, s) })
		if stageCtx.Err() == nil {
			a.send(stageCtx, staged{run, err, t.Stages()})
		}
	})
}

func (s staged) take(ctx context.Context, a *Agent) {
	if s.run != a.stageRun {
		return
	}
	a.stages = slices.Concat(a.stages, s.stages)
	if s.err != nil {
		a.counts.failed(fleet.CodeOf(s.err))
		a.Log.Error("the system cannot be had", "stage", fleet.Staging, "release", a.record.Target.Release.Number, "err", s.err)
		a.apply(ctx, deploy.StageFailed{Failure: *fleet.FailureOf(fleet.Staging, s.err)})
		return
	}
	a.counts.change(func(c *counts) { c.staged = time.Now() })
	a.stagesEnded(a.record.Target.Release.Number, s.stages)
	a.apply(ctx, deploy.Staged{})
}

type activated struct {
	outcome activate.Outcome
	told    int // how many of its stages were logged as they ended
}

// request is the one that the record asks for. Its ID follows from the record, so that an agent that was killed
// finds its own request, and never takes an outcome for that of another.
func (a *Agent) request() activate.Request {
	target, sys := *a.record.Target, a.systems()
	r := activate.Request{
		ID: fmt.Sprintf("%d-%d-%d", target.Release.Number, target.At.UnixNano(), a.record.Attempt), Release: target.Release,
		OutPath: target.OutPath, Previous: sys.Current, Profile: a.Config.Profile, PreviousProfile: sys.Profile,
		CheckSeconds: time.Duration(a.Config.CheckTime).Seconds(), Checks: target.Checks, Endpoints: a.endpoints(sys), TestOnly: target.Release.Test != "",
	}
	// Where the target runs already, or what a roll-back could not undo, the way back is to what was confirmed.
	last := a.status.Last
	if r.Previous == r.OutPath || last != nil && last.Result == fleet.RollbackFailed && last.OutPath == r.Previous {
		if a.record.Active != nil {
			r.Previous = a.record.Active.OutPath
		} else if sys.Profile != "" {
			r.Previous = sys.Profile
		}
	}
	return r
}

// activate asks a new helper for the target.
func (a *Agent) activate(ctx context.Context) {
	r, dir := a.request(), a.activationDir()
	a.stages = slices.Concat(a.stages, []fleet.StageTime{{Stage: fleet.Gate, StartedAt: time.Now().UTC()}})
	a.previous = r.Previous
	a.tasks.Go(func() {
		if err := activate.Prepare(ctx, dir, r, a.Log); err != nil {
			a.send(ctx, activated{outcome: activate.Outcome{Result: fleet.NotActivated, Failure: fleet.FailureOf(fleet.Activate, err), EndedAt: time.Now().UTC()}})
			return
		}
		a.follow(ctx, r)
	})
}

// resume follows the activation that the record says is under way.
func (a *Agent) resume(ctx context.Context) {
	r, there, err := activate.ReadRequest(a.activationDir())
	if err != nil || !there || r.ID != a.request().ID {
		// The agent died between deciding and asking: nothing was begun.
		a.activate(ctx)
		return
	}
	a.Log.Info("following the activation that was begun", "release", r.Release.Number)
	a.previous = r.Previous
	a.tasks.Go(func() { a.follow(ctx, r) })
}

func (a *Agent) follow(ctx context.Context, r activate.Request) {
	stop, stopLog := a.tellSteps(ctx, r), a.tellLog(ctx, r)
	out, err := activate.Follow(ctx, a.Exe, a.activationDir(), r, a.Log)
	told := stop()
	stopLog()
	if err == nil {
		a.send(ctx, activated{out, told})
	}
}

func (r activated) take(ctx context.Context, a *Agent) {
	out := r.outcome
	a.counts.stage(out.Stages)
	if out.Failure == nil { // else the line of the end tells which one failed
		a.logStages(a.record.Target.Release.Number, out.Stages[min(r.told, len(out.Stages)):])
	}
	target := a.record.Target
	d := fleet.Deployment{
		Schema: fleet.StatusSchema, Host: a.Config.Host, Release: target.Release, Toplevel: target.Toplevel,
		Previous: a.previous, Result: out.Result, Failure: out.Failure, Choice: a.choice(), Stages: slices.Concat(a.stages, out.Stages), EndedAt: out.EndedAt,
	}
	a.tellEnd(d)
	if out.ID != "" {
		a.keepLog(d.Key())
	}
	if a.remember(d) {
		a.afterDeploy(ctx, d)
	}
	a.apply(ctx, deploy.Activated{Result: out.Result, Failure: out.Failure, Systems: a.systems()})
	a.renew(ctx)
}

// remember adds to the history, unless an agent before us did so and was killed before it had noted more; then it is false.
func (a *Agent) remember(d fleet.Deployment) bool {
	if last := a.status.Last; last != nil && last.EndedAt.Equal(d.EndedAt) && last.Release.Number == d.Release.Number {
		return false
	}
	err := a.history.Append(d)
	if err == nil {
		err = a.history.Trim(historyKept)
	}
	if err != nil {
		a.Log.Error("the history cannot be written", "err", err)
	}
	a.note(func(s *fleet.Status) { s.Last = &d })
	return true
}

// note changes the status that others see.
func (a *Agent) note(change func(*fleet.Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change(&a.status)
}

// publish brings the status in line with the record, and has it reported.
func (a *Agent) publish() {
	r := a.record
	a.setKnown()
	a.note(func(s *fleet.Status) {
		s.Schema, s.Host, s.Version = fleet.StatusSchema, a.Config.Host, a.Version
		s.Phase, s.Since, s.Newest, s.Active, s.Target = r.Phase, r.Since, r.Newest, r.Active, r.Target
		s.Failure, s.Attempt, s.RetryAt, s.Refused = r.Failure, r.Attempt, r.RetryAt, r.Refused
		s.Drifted, s.Choice, s.Wait, s.Suspended = r.Drift, r.Choice, r.Wait, r.Suspended
		s.Confirmed, s.Reboot = nil, a.rebootOf(r)
		if c := r.Confirmed; c != nil && r.Target != nil && c.Release == r.Target.Release {
			s.Confirmed = c
		}
		s.Test = nil
		if t := r.Test; t != nil && !t.Left {
			s.Test = &t.Release
		}
		a.reboot, a.tried = r.Reboot, r.Tried
		s.Ring, s.Batch, s.Boot = a.known.Load().step.Ring, a.known.Load().step.Batch, a.boot
		s.Ahead = nil
		if h := r.Head; h != nil {
			s.Ahead = &fleet.Ahead{Release: h.Release, OutPath: h.Entry.OutPath, StagedAt: a.ahead.stagedAt, Failure: a.ahead.failure}
		}
	})
	a.haveReported()
}

// haveReported has the newest status sent to the hub, and to whoever watches.
func (a *Agent) haveReported() {
	a.seen()
	select {
	case a.report <- struct{}{}:
	default:
	}
}

// rebootOf is what the status says of a reboot, nil when none is needed and the last one went well.
func (a *Agent) rebootOf(r deploy.Record) *fleet.Reboot {
	b := fleet.Reboot{Needed: r.Reboot || r.Seen != nil && r.Seen.Reboot, At: a.policy.RebootAt(r, time.Now().UTC()), Ring: a.policy.Permits,
		Tried: r.Active != nil && r.Rebooted == r.Active.OutPath, Failure: a.rebootFailure}
	if !b.Needed && b.Failure == nil {
		return nil
	}
	return &b
}

// choice is the operator's choice that the target is, nil if it is none.
func (a *Agent) choice() *fleet.Choice {
	if c := a.record.Choice; c != nil && c.OutPath == a.record.Target.OutPath {
		return c
	}
	return nil
}

// Status is what the agent says of its host, and what the host runs, now.
func (a *Agent) Status() fleet.Status {
	sys, space := a.systems(), disks(a.Config.StateDir)
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Remotes = slices.Clone(s.Remotes)
	s.At, s.Systems, s.Disks = time.Now().UTC(), sys, space
	s.Drift = drifted(s, a.reboot, a.tried)
	return s
}

// drifted says whether somebody switched the host by hand: it runs neither what was confirmed nor what is worked on.
func drifted(s fleet.Status, reboot bool, tried string) bool {
	switch {
	case s.Active == nil, s.Phase == fleet.PhaseManual, s.Phase == fleet.PhaseActivating:
		return false
	case s.Drifted != nil, reboot:
		return s.Drifted != nil
	}
	return s.Systems.Current != s.Active.OutPath && s.Systems.Current != tried && (s.Target == nil || s.Systems.Current != s.Target.OutPath)
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
