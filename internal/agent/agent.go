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
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/garrison-nix/garrison/internal/activate"
	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
)

// Options are what an agent needs besides its Config.
type Options struct {
	Config   Config
	Version  string
	Exe      string             // the garrison binary, for the activation helper
	Notify   func(state string) // tells the service manager, as sd_notify(3) does; may be nil
	Watchdog time.Duration      // how often the service manager wants to hear from the loop; 0 for never
	Log      *slog.Logger
}

// Agent follows the releases of one host.
type Agent struct {
	Options
	nix     *nix.Nix
	looker  *looker
	remotes []*remote
	known   atomic.Pointer[known] // as the loop last left it
	history *durable.Journal
	acts    *durable.Journal
	lastAct atomic.Pointer[fleet.Act] // of acts
	policy  deploy.Policy
	watcher *watcher
	pusher  pusher
	self    activate.Self
	boot    string             // that the machine is in
	stop    context.CancelFunc // ends the loop

	// of the loop alone
	record      deploy.Record
	newest      fleet.ReleaseRef // remembered besides the record
	refusedBy   *remote          // whose tip the record's refusal is of
	began       time.Time
	lookStages  []fleet.StageTime // of the look that found the target
	stages      []fleet.StageTime // of the target, so far
	previous    string            // what ran when its activation began
	stageRun    int               // tells the answer of a stage that was superseded
	cancelStage context.CancelFunc
	stageDone   chan struct{} // closed when the newest stage has ended
	// rebootFailure is why the host could not be rebooted, or is not well since
	rebootFailure *fleet.Failure
	checkingBoot  bool
	due           *time.Timer   // fires when the record waits for a time that has come
	replacement   error         // *Replaced
	afterDone     chan struct{} // closed when the newest run of afterDeploy has ended
	credentials   credentials
	ahead         ahead

	results  chan result
	wake     chan struct{}
	switched chan struct{} // somebody replaced the running system, or the profile
	report   chan struct{}
	tasks    sync.WaitGroup

	mu     sync.Mutex
	status fleet.Status // but for Systems and Drift, which are looked at when asked for
	reboot bool         // as in the record
	tried  string       // as in the record

	watching watchers
	lineMu   sync.Mutex
	line     string // the service manager's
	counts   counts
	diffs    diffs
	hubDiff  fleet.HostDiff // that the hub was told last; of reportAll alone
	told     told
}

const (
	historyKept = 1000
	maxRecord   = 16 << 20 // bytes
)

// Run follows releases until ctx ends; then it stops what it started, but never an activation.
// It fails only before it is ready: with CodeBusy when another agent works in the same state directory,
// CodeMissingTool and CodeNixTooOld, CodeState. Everything that can come right by itself is waited for. After a deployment
// that replaced the agent's program it returns a *Replaced.
func Run(ctx context.Context, o Options) error {
	a := &Agent{Options: o, policy: o.Config.policy(), results: make(chan result),
		wake: make(chan struct{}, 1), switched: make(chan struct{}, 1), report: make(chan struct{}, 1), pusher: newPusher()}
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
	defer a.acts.Close()
	a.self = activate.KnowSelf(ctx)

	ctx, a.stop = context.WithCancel(ctx)
	defer a.tasks.Wait()
	defer a.stop()
	stopAPI, err := a.serve()
	if err != nil {
		return err
	}
	defer stopAPI()
	if a.watcher, err = newWatcher(activate.CurrentSystem, o.Config.Profile); err != nil {
		a.Log.Warn("switches by hand are seen by polling only", "err", err)
	}
	defer a.watcher.close()
	a.tasks.Go(func() { a.watcher.watch(a.switched) })
	if o.Config.Metrics.Listen != "" {
		a.tasks.Go(func() { a.exposeMetrics(ctx) })
	}
	if o.Config.Hub.URL != "" {
		a.tasks.Go(func() { a.listen(ctx) })
		a.tasks.Go(func() { a.reportAll(ctx) })
	}
	a.tasks.Go(func() { a.pushAll(ctx) })
	a.Log.Info("agent runs", "host", o.Config.Host, "phase", a.record.Phase, "version", o.Version, "nix", a.nix.Version)
	a.manage(daemon.SdNotifyReady)
	a.loop(ctx)
	a.manage(daemon.SdNotifyStopping)
	return a.replacement
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
	repo, err := openRepo(ctx, filepath.Join(c.StateDir, "repo.git"))
	if err != nil {
		return err
	}
	a.remotes, a.boot = c.remotes(), thisBoot()
	a.looker = &looker{repo: repo, host: c.Host, branch: c.Branch, signers: c.AllowedSigners, several: len(a.remotes) > 1, permits: a.policy.Permits, log: a.Log,
		runs: func() string { return a.systems().Current }}
	for _, m := range a.remotes {
		a.status.Remotes = append(a.status.Remotes, fleet.Remote{Name: m.name, URL: git.Redact(m.URL)})
	}
	if err := durable.Sweep(c.StateDir); err != nil {
		return stateError(err)
	}
	if a.history, err = durable.OpenJournal(a.historyFile(), 0o644); err != nil {
		return stateError(err)
	}
	if a.acts, err = durable.OpenJournal(a.actsFile(), 0o644); err != nil {
		return stateError(err)
	}
	if past, err := durable.ReadJournal[fleet.Act](a.actsFile(), 1); err == nil && len(past) > 0 {
		a.lastAct.Store(&past[0])
	}
	if err := a.readRecord(); err != nil {
		return err
	}
	a.recall(ctx)
	a.publish() // whoever asks before the loop has begun hears what was written down
	return nil
}

func (a *Agent) recordFile() string  { return filepath.Join(a.Config.StateDir, "state.json") }
func (a *Agent) historyFile() string { return filepath.Join(a.Config.StateDir, "history.jsonl") }
func (a *Agent) actsFile() string    { return filepath.Join(a.Config.StateDir, "acts.jsonl") }
func (a *Agent) activationDir() string {
	return filepath.Join(a.Config.StateDir, "activation")
}

// readRecord reads the record. One that cannot be used is set aside and begun anew: reality, not the record, says what runs.
func (a *Agent) readRecord() error {
	now := time.Now().UTC()
	a.record = deploy.New(a.Config.Host, now)
	if past, err := durable.ReadJournal[fleet.Deployment](a.historyFile(), 1); err == nil && len(past) > 0 && fleet.ValidStorePath(past[0].OutPath) {
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
	a.due = time.NewTimer(time.Hour)
	defer a.due.Stop()
	a.apply(ctx, deploy.Restarted{Systems: a.systems(), Boot: a.boot})
	a.afterReboot(ctx)
	a.began = time.Now()
	for _, m := range a.remotes {
		a.tasks.Go(func() { a.watch(ctx, m) })
	}
	beat, stop := a.heartbeat()
	defer stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat:
			a.alive()
		case <-a.wake:
			a.look()
		case <-a.due.C:
			a.apply(ctx, deploy.Due{})
		case <-a.switched:
			a.apply(ctx, deploy.Observed{Systems: a.systems()})
		case r := <-a.results:
			r.take(ctx, a)
		}
	}
}

// setDue has the timer fire when the record says so, and never much later than any backoff: the clock
// may have been wrong then, or be so now.
func (a *Agent) setDue() {
	a.due.Stop()
	if at := a.policy.Wake(a.record, time.Now().UTC()); at != nil {
		a.due.Reset(min(time.Until(*at), deploy.MaxBackoff))
	}
}

// apply is the only place where the record changes: by Policy.Next, and on disk before its effects begin. It is false
// when ctx ended before that.
func (a *Agent) apply(ctx context.Context, e deploy.Event) bool {
	before := a.record
	next, effects := a.policy.Next(before, e, time.Now().UTC(), random())
	if changed(before, next) && !a.save(ctx, next) {
		return false
	}
	a.record = next
	a.tell(before, next)
	a.setDue()
	for _, effect := range effects {
		switch effect {
		case deploy.Stage:
			a.stage(ctx)
		case deploy.Activate:
			a.activate(ctx)
		case deploy.Resume:
			a.resume(ctx)
		case deploy.Reboot:
			a.rebootHost(ctx)
		}
	}
	a.lookCredentials(ctx)
	a.prefetch(ctx)
	a.publish()
	return true
}

// save writes the record, however long that takes: nothing may be done that is not on record. It is false when ctx ended first.
func (a *Agent) save(ctx context.Context, r deploy.Record) bool {
	for wait := retryLeast; ; wait = a.pauseAlive(ctx, wait) {
		err := stateError(durable.WriteJSON(a.recordFile(), r, 0o644))
		a.counts.change(func(c *counts) { c.unwritable = err != nil })
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
	s := fleet.Systems{Current: at(activate.CurrentSystem), Profile: at(a.Config.Profile), Booted: at("/run/booted-system")}
	s.Reboot = newKernel(s.Booted, s.Current)
	return s
}
