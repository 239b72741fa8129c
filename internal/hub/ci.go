package hub

import (
	"context"
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

// Run follows the branch until ctx ends. A commit whose release failed for a reason of its own is not
// tried again; one that met a transient failure is, with growing pauses.
func (c *CI) Run(ctx context.Context) error {
	done := ""          // the commit that needs no more work
	var heard time.Time // when somebody said that there is something
	for attempt := 0; ; {
		pause := c.Poll
		t := &proc.Timeline{}
		var tip fleet.Source
		err := proc.Stage(proc.WithTimeline(ctx, t), fleet.Fetch, func() (err error) {
			tip, err = c.Releaser.Tip(proc.WithTimeline(ctx, t))
			return err
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			c.Log.Warn("CI cannot look at the source branch", "err", err)
		case tip.Commit != "" && tip.Commit != done:
			var again bool
			if !heard.IsZero() {
				at := heard
				tip.PushedAt = &at
			}
			if again, err = c.run(ctx, tip, t); err != nil {
				return err
			}
			attempt++
			if !again {
				done, attempt, heard = tip.Commit, 0, time.Time{}
			}
			pause = min(c.Poll, time.Second<<min(attempt, 10))
			if !again {
				pause = 0 // something newer may have come meanwhile
			}
		}
		if pause == 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Duration((0.9 + 0.2*rand.Float64()) * float64(pause))):
		case at := <-c.wake:
			heard = at.UTC()
		}
	}
}

// run makes one run and keeps it. again says that the same commit should be tried later. The error is the store's.
func (c *CI) run(ctx context.Context, source fleet.Source, t *proc.Timeline) (again bool, err error) {
	r := fleet.Run{Schema: fleet.StatusSchema, Source: source, State: fleet.RunRunning, StartedAt: time.Now().UTC(), Stages: t.Stages()}
	if r.ID, err = c.Hub.NoteRun(ctx, r); err != nil {
		return false, err
	}
	out, err := os.OpenFile(LogFile(c.LogDir, r.ID), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return false, fleet.Errorf(fleet.Local, fleet.CodeState, "the log of CI run %d cannot be written", r.ID).WithCause(err)
	}
	defer out.Close()
	c.Log.Info("CI run begins", "run", r.ID, "commit", source.Commit, "subject", source.Subject)
	t.OnStage = func(s fleet.StageTime, ended bool) {
		fmt.Fprintf(out, "%s garrison: stage %s %s\n", time.Now().UTC().Format(time.RFC3339), s.Stage, map[bool]string{false: "begins", true: fmt.Sprintf("ended after %.3f s", s.Seconds)}[ended])
		r.Stage, r.Stages = s.Stage, t.Stages()
		if _, err := c.Hub.NoteRun(ctx, r); err != nil {
			c.Log.Error("a run cannot be kept", "run", r.ID, "err", err)
		}
	}
	state, release, err := c.Releaser.Release(proc.WithTimeline(ctx, t), source, out)
	if err == nil && state == fleet.RunReleased {
		c.Hub.WakeAgents()
	}
	ended := time.Now().UTC()
	r.State, r.Release, r.Stages, r.EndedAt = state, release, t.Stages(), &ended
	if err != nil {
		r.State, r.Failure = fleet.RunFailed, fleet.FailureOf(r.Stage, err)
		fmt.Fprintf(out, "%s garrison: failed: %s\n", ended.Format(time.RFC3339), err)
		c.Log.Error("CI run failed", "run", r.ID, "stage", r.Stage, "err", err)
		again = fleet.ClassOf(err) != fleet.Bad
	} else {
		r.Stage = ""
		c.Log.Info("CI run ended", "run", r.ID, "state", r.State, "duration", ended.Sub(r.StartedAt).Round(time.Millisecond))
	}
	// The run is kept also when the hub is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	_, err = c.Hub.NoteRun(ctx, r)
	return again, err
}
