package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Releaser makes releases; package release does, wired up in cli.
type Releaser interface {
	// Tip is the commit at the source branch's tip now, "" when there is none to release.
	Tip(ctx context.Context) (fleet.Source, error)
	// Release releases source. What it runs prints to out.
	Release(ctx context.Context, source fleet.Source, out io.Writer) (fleet.RunState, *fleet.ReleaseRef, error)
}

// CI follows the source branch: one run at a time, for the newest commit.
type CI struct {
	Releaser Releaser
	Hub      *Hub
	Poll     time.Duration
	LogDir   string
	Log      *slog.Logger

	wake chan time.Time
}

// NewCI makes a CI; its Wake may be called before Run.
func NewCI(c CI) *CI {
	c.wake = make(chan time.Time, 1)
	return &c
}

// Wake has CI look at the source branch. at is when somebody said that there is something.
func (c *CI) Wake(at time.Time) {
	select {
	case c.wake <- at:
	default: // it is going to look anyway
	}
}

// LogFile is where a run's log stands.
func LogFile(dir string, id int64) string {
	return filepath.Join(dir, strconv.FormatInt(id, 10)+".log")
}

const (
	leastPause = time.Second
	maxRunTime = 6 * time.Hour // a build that hangs must not stop the fleet for ever
	logsKept   = 1000
)

// Run follows the branch until ctx ends. A commit whose release failed for a reason of its own is not
// tried again; one that met a transient failure, or one of this machine, is, with growing pauses.
func (c *CI) Run(ctx context.Context) {
	c.markInterrupted(ctx)
	done := ""          // the commit that needs no more work
	var heard time.Time // when somebody said that there is something
	pause := time.Duration(0)
	for failures := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		case at := <-c.wake:
			heard = at.UTC()
		}
		select {
		case at := <-c.wake: // came during a run
			heard = at.UTC()
		default:
		}
		again, worked := c.look(ctx, &done, heard)
		switch {
		case again:
			failures++
			pause = jittered(min(c.Poll, leastPause<<min(failures-1, 12)))
		case worked: // something newer may have come meanwhile
			failures, pause, heard = 0, 0, time.Time{}
		default:
			failures, pause, heard = 0, jittered(c.Poll), time.Time{}
		}
	}
}

func jittered(d time.Duration) time.Duration {
	return time.Duration((0.9 + 0.2*rand.Float64()) * float64(d))
}

// look releases the branch's tip unless it is done. again says that it should look again soon, worked that it released something.
func (c *CI) look(ctx context.Context, done *string, heard time.Time) (again, worked bool) {
	t := &proc.Timeline{}
	timed := proc.WithTimeline(ctx, t)
	var tip fleet.Source
	err := proc.Stage(timed, fleet.Fetch, func() (err error) {
		tip, err = c.Releaser.Tip(timed)
		return err
	})
	switch {
	case ctx.Err() != nil:
		return false, false
	case err != nil:
		c.Log.Warn("CI cannot look at the source branch", "stage", fleet.Fetch, "err", err)
		return true, false
	case tip.Commit == "" || tip.Commit == *done:
		return false, false
	}
	if !heard.IsZero() {
		tip.PushedAt = &heard
	}
	if again, err = c.run(ctx, tip, t); err != nil {
		c.Log.Error("a CI run cannot be kept", "commit", tip.Commit, "err", err)
	}
	if !again {
		*done = tip.Commit
	}
	return again, true
}

// markInterrupted ends the runs that a hub which was killed left behind as running.
func (c *CI) markInterrupted(ctx context.Context) {
	runs, err := c.Hub.Store.Runs(ctx, maxRunsAsk)
	for _, r := range runs {
		if r.State != fleet.RunRunning {
			continue
		}
		ended := time.Now().UTC()
		r.State, r.EndedAt = fleet.RunFailed, &ended
		r.Failure = &fleet.Failure{Class: fleet.Transient, Code: fleet.CodeInterrupted, Stage: r.Stage,
			Message: "the hub was stopped in the middle of this run", Hint: "nothing to do: the commit is released by a later run"}
		if _, perr := c.Hub.NoteRun(ctx, r); perr != nil {
			err = perr
		}
	}
	if err != nil && ctx.Err() == nil {
		c.Log.Error("runs that were interrupted cannot be marked", "err", err)
	}
}

// run makes one run and keeps it. again says that the same commit should be tried later. The error is that of store or log.
func (c *CI) run(ctx context.Context, source fleet.Source, t *proc.Timeline) (again bool, err error) {
	r := fleet.Run{Schema: fleet.StatusSchema, Source: source, State: fleet.RunRunning, StartedAt: time.Now().UTC(), Stages: t.Stages()}
	if r.ID, err = c.Hub.NoteRun(ctx, r); err != nil {
		return true, err
	}
	out, err := os.OpenFile(LogFile(c.LogDir, r.ID), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		err = fleet.Errorf(fleet.Local, fleet.CodeState, "the log of CI run %d cannot be written", r.ID).WithCause(err)
		return true, errors.Join(err, c.end(ctx, r, err))
	}
	defer out.Close()
	_ = os.Remove(LogFile(c.LogDir, r.ID-logsKept)) // usually there is none
	c.Log.Info("CI run begins", "run", r.ID, "commit", source.Commit, "subject", source.Subject)
	say := func(format string, args ...any) {
		fmt.Fprintf(out, "%s garrison: %s\n", time.Now().UTC().Format(time.RFC3339), proc.Redact(fmt.Sprintf(format, args...)))
	}
	t.OnStage = func(s fleet.StageTime, ended bool) {
		if ended {
			say("stage %s ended after %.3f s", s.Stage, s.Seconds)
		} else {
			say("stage %s begins", s.Stage)
		}
		r.Stage, r.Stages = s.Stage, t.Stages()
		if _, err := c.Hub.NoteRun(ctx, r); err != nil && ctx.Err() == nil {
			c.Log.Error("a run cannot be kept", "run", r.ID, "err", err)
		}
	}
	limited, cancel := context.WithTimeoutCause(ctx, maxRunTime, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "the release took longer than %s", maxRunTime))
	defer cancel()
	state, release, err := c.Releaser.Release(proc.WithTimeline(limited, t), source, out)
	if err == nil {
		c.Hub.WakeAgents() // also of what was released before: perhaps by a run that died before it could tell
	} else if ctx.Err() != nil {
		err = fleet.Errorf(fleet.Transient, fleet.CodeInterrupted, "the hub was stopped in the middle of this run").WithHint("nothing to do: the commit is released by a later run")
	}
	r.State, r.Release, r.Stages = state, release, t.Stages()
	if err != nil {
		say("failed: %s", err)
	}
	return err != nil && fleet.ClassOf(err) != fleet.Bad, c.end(ctx, r, err)
}

// end keeps a run that has ended, with failure or without.
func (c *CI) end(ctx context.Context, r fleet.Run, failure error) error {
	ended := time.Now().UTC()
	r.EndedAt = &ended
	if failure != nil {
		r.State, r.Failure = fleet.RunFailed, fleet.FailureOf(r.Stage, failure)
		r.Failure.Message = proc.Redact(r.Failure.Message)
		c.Log.Error("CI run failed", "run", r.ID, "stage", r.Stage, "err", r.Failure.Message)
	} else {
		r.Stage = ""
		c.Log.Info("CI run ended", "run", r.ID, "state", r.State, "duration", ended.Sub(r.StartedAt).Round(time.Millisecond))
	}
	// It is kept also when the hub is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err := c.Hub.NoteRun(ctx, r)
	return err
}
