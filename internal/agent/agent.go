// Package agent is the host side: it sees a release, verifies it, brings its
// closure into the store, has it activated, and says what became of it.
//
// One goroutine (loop) owns the record and makes every decision by deploy.Next; the rest
// (looking at git, substituting, waiting for the activation, talking to the hub) runs beside it and sends results.
// What it decided is on disk before it is done, so it may be killed at any instruction. Start at Run.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
)

// Options are what an agent needs besides its Config.
type Options struct {
	Config  Config
	Version string
	Exe     string // the garrison binary, for the activation helper
	Log     *slog.Logger
}

// Agent follows the releases of one host.
type Agent struct {
	Options
	nix     *nix.Nix
	looker  *looker
	history *durable.Journal

	// of the loop alone
	record      deploy.Record
	looking     bool
	lookAgain   bool
	lookStages  []fleet.StageTime // of the look that found the target
	stages      []fleet.StageTime // of the target, so far
	previous    string            // what ran when its activation began
	cancelStage context.CancelFunc
	stageRun    int // tells the answer of a stage that was superseded

	results chan result
	wake    chan struct{}
	report  chan struct{}
	tasks   sync.WaitGroup

	mu     sync.Mutex
	status fleet.Status
}

const historyKept = 1000

// Run follows releases until ctx ends; then it stops what it started, but never an activation.
// Errors: CodeBusy when another agent works in the same state directory, CodeMissingTool and
// CodeNixTooOld, CodeState. Everything that can come right by itself is waited for.
func Run(ctx context.Context, o Options) error {
	a := &Agent{Options: o, results: make(chan result), wake: make(chan struct{}, 1), report: make(chan struct{}, 1)}
	if err := os.MkdirAll(o.Config.StateDir, 0o755); err != nil {
		return stateError(err)
	}
	lock, err := durable.TryLock(filepath.Join(o.Config.StateDir, "agent.lock"))
	if errors.Is(err, durable.ErrLocked) {
		return fleet.Errorf(fleet.Local, fleet.CodeBusy, "another agent works in %s", o.Config.StateDir).WithHint("stop it first: systemctl status garrison-agent")
	}
	if err != nil {
		return stateError(err)
	}
	defer lock.Unlock()
	if err := a.open(ctx); err != nil {
		return err
	}
	defer a.history.Close()

	ctx, cancel := context.WithCancel(ctx)
	defer a.tasks.Wait()
	defer cancel()
	stopAPI, err := a.serve(ctx)
	if err != nil {
		return err
	}
	defer stopAPI()
	if o.Config.Hub.URL != "" {
		a.tasks.Go(func() { a.listen(ctx) })
		a.tasks.Go(func() { a.reportAll(ctx) })
	}
	a.Log.Info("agent runs", "host", o.Config.Host, "phase", a.record.Phase, "version", o.Version, "nix", a.nix.Version)
	return a.loop(ctx)
}

func stateError(err error) error {
	if err == nil {
		return nil
	}
	return fleet.Errorf(fleet.Local, fleet.CodeState, "the agent's state cannot be read or written").WithCause(err)
}

// open finds nix and reads what earlier agents left.
func (a *Agent) open(ctx context.Context) (err error) {
	c := a.Config
	if a.nix, err = nix.Find(ctx); err != nil {
		return err
	}
	repo, err := git.Init(ctx, filepath.Join(c.StateDir, "repo.git"))
	if err != nil {
		return err
	}
	a.looker = &looker{repo: repo, host: c.Host, remote: c.Remote, branch: c.Branch, signers: c.AllowedSigners}
	if err := durable.Sweep(c.StateDir); err != nil {
		return stateError(err)
	}
	if a.history, err = durable.OpenJournal(a.historyFile(), 0o644); err != nil {
		return stateError(err)
	}
	return a.readRecord()
}

func (a *Agent) recordFile() string  { return filepath.Join(a.Config.StateDir, "state.json") }
func (a *Agent) historyFile() string { return filepath.Join(a.Config.StateDir, "history.jsonl") }
func (a *Agent) activationDir() string {
	return filepath.Join(a.Config.StateDir, "activation")
}

// readRecord reads the record. A damaged one is set aside and begun anew: reality, not the record, says what runs.
func (a *Agent) readRecord() error {
	now := time.Now().UTC()
	a.record = deploy.New(a.Config.Host, now)
	var r deploy.Record
	there, err := durable.ReadJSON(a.recordFile(), 16<<20, &r)
	switch {
	case errors.Is(err, durable.ErrDamaged), err == nil && there && (r.Schema != deploy.RecordSchema || r.Host != a.Config.Host):
		aside := fmt.Sprintf("%s.damaged-%d", a.recordFile(), now.Unix())
		a.Log.Error("the record cannot be used and is set aside", "file", a.recordFile(), "to", aside, "err", err)
		return stateError(os.Rename(a.recordFile(), aside))
	case err != nil:
		return stateError(err)
	case there:
		a.record = r
	}
	if past, err := durable.ReadJournal[fleet.Deployment](a.historyFile(), 1); err == nil && len(past) > 0 {
		a.status.Last = &past[0]
	}
	return nil
}

// loop is the owner of the record.
func (a *Agent) loop(ctx context.Context) error {
	if err := a.apply(ctx, deploy.Restarted{}); err != nil {
		return err
	}
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		retry := a.retryTimer()
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
			a.look(ctx)
		case <-poll.C:
			a.look(ctx)
			next := jittered(time.Duration(a.Config.Poll))
			poll.Reset(next)
			a.note(func(s *fleet.Status) { s.NextPoll = time.Now().Add(next).UTC() })
		case <-retry:
			if err := a.apply(ctx, deploy.Due{}); err != nil {
				return err
			}
		case r := <-a.results:
			if err := r.take(ctx, a); err != nil {
				return err
			}
		}
	}
}

// retryTimer fires when the record says that it is time to try again.
func (a *Agent) retryTimer() <-chan time.Time {
	if a.record.RetryAt == nil {
		return nil
	}
	return time.After(time.Until(*a.record.RetryAt))
}

// apply is the only place where the record changes: by deploy.Next, and on disk before its effects begin.
func (a *Agent) apply(ctx context.Context, e deploy.Event) error {
	now := time.Now().UTC()
	before := a.record
	next, effects := deploy.Next(a.record, e, now, random())
	if changed(before, next) {
		if err := durable.WriteJSON(a.recordFile(), next, 0o644); err != nil {
			return stateError(err)
		}
	}
	a.record = next
	if before.Phase != next.Phase {
		a.Log.Info("phase", "phase", next.Phase, "was", before.Phase, "release", releaseNumber(next))
	}
	for _, effect := range effects {
		switch effect {
		case deploy.Stage:
			a.stage(ctx)
		case deploy.Activate:
			a.activate(ctx)
		case deploy.Resume:
			a.resume(ctx)
		}
	}
	a.publish()
	return nil
}

func releaseNumber(r deploy.Record) int {
	switch {
	case r.Target != nil:
		return r.Target.Release.Number
	case r.Newest != nil:
		return r.Newest.Number
	}
	return 0
}

// systems looks which systems run, are to be booted, and were booted.
func (a *Agent) systems() fleet.Systems {
	at := func(link string) string {
		p, err := filepath.EvalSymlinks(link)
		if err != nil {
			return ""
		}
		return p
	}
	return fleet.Systems{Current: at(activate.CurrentSystem), Profile: at(a.Config.Profile), Booted: at("/run/booted-system")}
}
