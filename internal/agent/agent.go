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
	"strings"
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
	Ready   func() // called when the agent runs and answers; may be nil
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
	stageRun    int               // tells the answer of a stage that was superseded
	cancelStage context.CancelFunc
	stageDone   chan struct{} // closed when the newest stage has ended
	retry       *time.Timer   // fires when a retry is due
	afterDone   chan struct{} // closed when the newest run of afterDeploy has ended

	results chan result
	wake    chan struct{}
	report  chan struct{}
	tasks   sync.WaitGroup

	mu     sync.Mutex
	status fleet.Status // but for Systems and Drift, which are looked at when asked for
	reboot bool         // as in the record
}

const (
	historyKept = 1000
	maxRecord   = 16 << 20 // bytes
)

// Run follows releases until ctx ends; then it stops what it started, but never an activation.
// It fails only before it is ready: with CodeBusy when another agent works in the same state directory,
// CodeMissingTool and CodeNixTooOld, CodeState. Everything that can come right by itself is waited for.
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
	stopAPI, err := a.serve()
	if err != nil {
		return err
	}
	defer stopAPI()
	if o.Config.Hub.URL != "" {
		a.tasks.Go(func() { a.listen(ctx) })
		a.tasks.Go(func() { a.reportAll(ctx) })
	}
	a.Log.Info("agent runs", "host", o.Config.Host, "phase", a.record.Phase, "version", o.Version, "nix", a.nix.Version)
	if o.Ready != nil {
		o.Ready()
	}
	a.loop(ctx)
	return nil
}

func stateError(err error) error {
	if err == nil {
		return nil
	}
	return fleet.Errorf(fleet.Local, fleet.CodeState, "the agent's state cannot be read or written").
		WithHint("is the disk full or read-only?").WithCause(err)
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

// readRecord reads the record. One that cannot be used is set aside and begun anew: reality, not the record, says what runs.
func (a *Agent) readRecord() error {
	now := time.Now().UTC()
	a.record = deploy.New(a.Config.Host, now)
	if past, err := durable.ReadJournal[fleet.Deployment](a.historyFile(), 1); err == nil && len(past) > 0 {
		a.status.Last = &past[0]
	}
	var r deploy.Record
	there, err := durable.ReadJSON(a.recordFile(), maxRecord, &r)
	if err == nil && !there {
		return nil
	}
	why := ""
	switch {
	case errors.Is(err, durable.ErrDamaged):
		why = err.Error()
	case err != nil:
		return stateError(err)
	case r.Schema != deploy.RecordSchema:
		why = fmt.Sprintf("it has schema %d, this agent knows %d", r.Schema, deploy.RecordSchema)
	case r.Host != a.Config.Host:
		why = fmt.Sprintf("it is of host %q", r.Host)
	case !r.Valid():
		why = fmt.Sprintf("it lacks what belongs to its phase %q", r.Phase)
	default:
		a.record = r
		return nil
	}
	aside := fmt.Sprintf("%s.damaged-%d", a.recordFile(), now.Unix())
	a.Log.Error("the record cannot be used and is set aside; beginning anew", "file", a.recordFile(), "to", aside, "err", why)
	return stateError(os.Rename(a.recordFile(), aside))
}

// loop is the owner of the record.
func (a *Agent) loop(ctx context.Context) {
	a.retry = time.NewTimer(time.Hour)
	defer a.retry.Stop()
	a.setRetry()
	a.apply(ctx, deploy.Restarted{Systems: a.systems()})
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
			a.look(ctx)
		case <-poll.C:
			a.look(ctx)
			next := jittered(time.Duration(a.Config.Poll))
			poll.Reset(next)
			a.note(func(s *fleet.Status) { s.NextPoll = time.Now().Add(next).UTC() })
		case <-a.retry.C:
			a.apply(ctx, deploy.Due{})
		case r := <-a.results:
			r.take(ctx, a)
		}
	}
}

// setRetry has the timer fire when the record says so, and never much later than any backoff: the clock
// may have been wrong then, or be so now.
func (a *Agent) setRetry() {
	a.retry.Stop()
	if at := a.record.RetryAt; at != nil {
		a.retry.Reset(min(time.Until(*at), deploy.MaxBackoff))
	}
}

// apply is the only place where the record changes: by deploy.Next, and on disk before its effects begin.
func (a *Agent) apply(ctx context.Context, e deploy.Event) {
	before := a.record
	next, effects := deploy.Next(before, e, time.Now().UTC(), random())
	if changed(before, next) && !a.save(ctx, next) {
		return
	}
	a.record = next
	a.tell(before, next)
	if next.RetryAt != before.RetryAt {
		a.setRetry()
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
}

// save writes the record, however long that takes: nothing may be done that is not on record. It is false when ctx ended first.
func (a *Agent) save(ctx context.Context, r deploy.Record) bool {
	for wait := retryLeast; ; wait = pause(ctx, wait) {
		err := stateError(durable.WriteJSON(a.recordFile(), r, 0o644))
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		a.Log.Error("the record cannot be written; nothing is done before", "err", err, "retryIn", wait)
		a.note(func(s *fleet.Status) { s.Failure = fleet.FailureOf("", err) })
	}
}

// tell logs what changed in the record.
func (a *Agent) tell(was, now deploy.Record) {
	switch {
	case now.Refused != nil && now.Refused != was.Refused:
		f := now.Refused.Failure
		a.Log.Error("release refused", "stage", f.Stage, "tip", now.Refused.Tip, "code", f.Code, "err", firstLine(f.Message), "hint", f.Hint)
	case now.Refused == nil && was.Refused != nil:
		a.Log.Info("the release branch is in order again", "stage", fleet.Verify)
	}
	if now.Phase == was.Phase {
		return
	}
	log := a.Log.With("release", releaseNumber(now))
	switch now.Phase {
	case fleet.PhaseStaging:
		log.Info("fetching", "storePath", now.Target.OutPath, "attempt", now.Attempt+1)
	case fleet.PhaseActivating:
		log.Info("activating", "storePath", now.Target.OutPath)
	case fleet.PhaseRetrying:
		log.Warn("trying again later", "attempt", now.Attempt, "at", now.RetryAt.Format(time.RFC3339), "stage", now.Failure.Stage)
	case fleet.PhaseHeld:
		log.Error("holding: this release is bad for this host", "stage", now.Failure.Stage, "code", now.Failure.Code)
	case fleet.PhaseReboot:
		log.Warn("waiting for a reboot into the new system", "storePath", now.Active.OutPath)
	case fleet.PhaseManual:
		log.Info("this host is not deployed by this release")
	case fleet.PhaseIdle:
		if was.Phase != fleet.PhaseActivating { // else its end was told
			log.Info("this host runs what the release says")
		}
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
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
