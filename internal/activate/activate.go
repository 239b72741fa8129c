// Package activate makes a host run another system, and goes back if that system is
// not healthy. It is the process that outlives the agent: the agent writes a
// Request and starts the helper (Start), which runs detached or, under systemd,
// in a unit of its own, and leaves an Outcome; nobody needs to listen to it.
//
// It commits last: the profile and the boot entry move only after the running system passed
// its checks, so that until then a reboot is the roll-back. Each step is written down
// before and after, durably; a helper that died is followed by another that reads the
// journal, looks at reality, and ends what was begun (recover). Start at Run, on the
// agent's side at Prepare and Follow.
package activate

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Request is what the agent asks for; it stands in request.json.
type Request struct {
	Schema   int              `json:"schema"`
	ID       string           `json:"id"` // unique: an outcome with another ID is of another request
	Release  fleet.ReleaseRef `json:"release"`
	OutPath  string           `json:"outPath"`
	Previous string           `json:"previous"` // what runs now and is gone back to; "" for none
	Profile  string           `json:"profile"`
	// PreviousProfile is what Profile points at now; "" for nothing. It differs from Previous
	// after a switch by hand, and while a reboot is waited for.
	PreviousProfile string `json:"previousProfile"`
	// CheckSeconds is how long the new system has to become healthy.
	CheckSeconds float64 `json:"checkSeconds"`
	// Checks are what must be well in it, and Endpoints what it must reach if Previous does.
	Checks    []fleet.HealthCheck `json:"checks,omitempty"`
	Endpoints []Endpoint          `json:"endpoints,omitempty"`
	// TestOnly ends it when the system has passed its checks: profile and boot entry stay as they are.
	TestOnly bool `json:"testOnly,omitempty"`
}

// Outcome is what became of a request; it stands in outcome.json.
type Outcome struct {
	Schema  int               `json:"schema"`
	ID      string            `json:"id"`
	Result  fleet.Result      `json:"result"`
	Failure *fleet.Failure    `json:"failure,omitempty"`
	Stages  []fleet.StageTime `json:"stages"`
	EndedAt time.Time         `json:"endedAt"`
}

// step is a line of the journal: what is about to be done, or was done.
type step struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
	Step string    `json:"step"`
	Done bool      `json:"done"`
	Code int       `json:"code,omitempty"` // exit status of switch-to-configuration
	// Why is the reason of a roll-back.
	Why *fleet.Failure `json:"why,omitempty"`
}

// The steps, in order.
const (
	stepTest      = "test"
	stepCheck     = "check"
	stepProfile   = "profile"
	stepBoot      = "boot"
	stepRollback  = "rollback"
	schema        = 1
	maxFile       = 1 << 20
	switchTimeout = 15 * time.Minute // NixOS itself settles for 90 s at most
	saveEvery     = 5 * time.Second  // an outcome that cannot be written, for want of space say
)

func requestFile(dir string) string { return filepath.Join(dir, "request.json") }
func outcomeFile(dir string) string { return filepath.Join(dir, "outcome.json") }
func journalFile(dir string) string { return filepath.Join(dir, "journal.jsonl") }
func lockFile(dir string) string    { return filepath.Join(dir, "lock") }

// LogFile is where the helper and switch-to-configuration write in dir.
func LogFile(dir string) string { return filepath.Join(dir, "log") }

// Where a NixOS host says what it runs, and what keeps others from switching it.
const (
	CurrentSystem = "/run/current-system"
	switchLock    = "/run/nixos/switch-to-configuration.lock"
)

// previousRoot keeps the previous system from garbage collection: once another one runs,
// nothing else might refer to it, and then there would be no way back.
const previousRoot = "/nix/var/nix/gcroots/garrison-previous"

// helper is one run of the helper.
type helper struct {
	dir     string
	req     Request
	journal *durable.Journal
	nix     nix.Nix // only for the profile, which any Nix can set
	log     *slog.Logger
}

// Run is the helper: it carries out the request in dir, or ends what an earlier
// helper began, and writes the outcome. It does nothing when there is an outcome already. It must not be
// interrupted by anything gentler than SIGKILL, so ctx should have no signals attached.
// Errors: CodeBusy when another helper is at work, CodeState when files cannot be read or written.
func Run(ctx context.Context, dir string, log *slog.Logger) error {
	lock, err := durable.TryLock(lockFile(dir))
	if errors.Is(err, durable.ErrLocked) {
		return fleet.Errorf(fleet.Transient, fleet.CodeBusy, "another activation is under way in %s", dir)
	}
	if err != nil {
		return stateError(err)
	}
	defer lock.Unlock()
	h := &helper{dir: dir, log: log}
	there, err := durable.ReadJSON(requestFile(dir), maxFile, &h.req)
	if err != nil || !there {
		return stateError(err)
	}
	if _, done, err := ReadOutcome(dir, h.req.ID); err != nil || done {
		return err
	}
	if h.journal, err = durable.OpenJournal(journalFile(dir), 0o644); err != nil {
		return stateError(err)
	}
	defer h.journal.Close()
	steps, err := h.steps()
	if err != nil {
		return err // what was begun is unknown: nothing may be done yet
	}
	timeline := &proc.Timeline{}
	ctx = proc.WithTimeline(ctx, timeline)
	out := Outcome{Schema: schema, ID: h.req.ID}
	if len(steps) > 0 {
		out.Result, out.Failure = h.recover(ctx, steps)
	} else {
		out.Result, out.Failure = h.carryOut(ctx)
	}
	out.Stages, out.EndedAt = timeline.Stages(), time.Now().UTC()
	log.Info("activation ended", "result", out.Result, "release", h.req.Release.Number)
	return h.save(ctx, out)
}

// save writes the outcome, however long that takes: whoever came after us without it would
// have to take a deployment that ended for one that was interrupted.
func (h *helper) save(ctx context.Context, out Outcome) error {
	for warned := false; ; warned = true {
		err := durable.WriteJSON(outcomeFile(h.dir), out, 0o644)
		if err == nil {
			return nil
		}
		if !warned {
			h.log.Error("the outcome cannot be written; trying on", "err", err)
		}
		select {
		case <-ctx.Done():
			return stateError(err)
		case <-time.After(saveEvery):
		}
	}
}

func stateError(err error) error {
	if err == nil {
		return nil
	}
	return fleet.Errorf(fleet.Local, fleet.CodeState, "the state of the activation cannot be read or written").WithCause(err)
}

// ReadOutcome reads the outcome of request id, false if there is none yet.
func ReadOutcome(dir, id string) (Outcome, bool, error) {
	var o Outcome
	there, err := durable.ReadJSON(outcomeFile(dir), maxFile, &o)
	if errors.Is(err, durable.ErrDamaged) {
		return o, false, nil // the helper looks at reality and writes it anew
	}
	return o, err == nil && there && o.ID == id, err
}

// ReadRequest reads the request in dir, false if there is none.
func ReadRequest(dir string) (Request, bool, error) {
	var r Request
	there, err := durable.ReadJSON(requestFile(dir), maxFile, &r)
	return r, there, stateError(err)
}

// Running says whether a helper is at work in dir.
func Running(dir string) (bool, error) { return durable.Held(lockFile(dir)) }

// intent writes down that a step is about to be done; done that it was.
func (h *helper) intent(name string) error { return h.write(step{Step: name}) }

func (h *helper) done(name string, code int) error {
	return h.write(step{Step: name, Done: true, Code: code})
}

func (h *helper) write(s step) error {
	s.ID, s.At = h.req.ID, time.Now().UTC()
	if err := h.journal.Append(s); err != nil {
		return stateError(err)
	}
	h.log.Info("noted", "step", s.Step, "done", s.Done)
	return nil
}

// steps are the lines of the journal that are about this request. A damaged line is no step; the others tell enough.
func (h *helper) steps() ([]step, error) { return readSteps(h.dir, h.req.ID) }

func readSteps(dir, id string) ([]step, error) {
	steps, err := durable.ReadJournal[step](journalFile(dir), 0)
	if err != nil && !errors.Is(err, durable.ErrDamaged) {
		return nil, stateError(err)
	}
	return slices.DeleteFunc(steps, func(s step) bool { return s.ID != id }), nil
}

// current is the system that runs now, "" if there is none.
func current() string {
	p, err := filepath.EvalSymlinks(CurrentSystem)
	if err != nil {
		return ""
	}
	return p
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
