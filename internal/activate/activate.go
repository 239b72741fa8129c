// Package activate makes a host run another system, and goes back if that system is
// not healthy. It is the process that outlives the agent: the agent writes a
// Request and starts the helper (Start), which runs detached or, under systemd,
// in a unit of its own, and leaves an Outcome; nobody needs to listen to it.
//
// It commits last: the profile and the boot entry move only after the running system passed
// its checks, so that until then a reboot is the roll-back. Each step is written down
// before and after, durably; a helper that died is followed by another that reads the
// journal, looks at reality, and ends what was begun (Run). Start at Run.
package activate

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
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
	// CheckSeconds is how long the new system has to become healthy.
	CheckSeconds float64 `json:"checkSeconds"`
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
)

func requestFile(dir string) string { return filepath.Join(dir, "request.json") }
func outcomeFile(dir string) string { return filepath.Join(dir, "outcome.json") }
func journalFile(dir string) string { return filepath.Join(dir, "journal.jsonl") }
func lockFile(dir string) string    { return filepath.Join(dir, "lock") }

// LogFile is where the helper and switch-to-configuration write in dir.
func LogFile(dir string) string { return filepath.Join(dir, "log") }

// CurrentSystem is where a NixOS host says what it runs.
const CurrentSystem = "/run/current-system"

// helper is one run of the helper.
type helper struct {
	dir     string
	req     Request
	journal *durable.Journal
	nix     *nix.Nix
	units   units
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
	h.units = findUnits()
	defer h.units.close()
	timeline := &proc.Timeline{}
	ctx = proc.WithTimeline(ctx, timeline)
	result, failure := h.carryOut(ctx)
	out := Outcome{Schema: schema, ID: h.req.ID, Result: result, Failure: failure, Stages: timeline.Stages(), EndedAt: time.Now().UTC()}
	log.Info("activation ended", "result", result, "release", h.req.Release.Number)
	return stateError(durable.WriteJSON(outcomeFile(dir), out, 0o644))
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

// Prepare writes the request, so that a helper can carry it out.
func Prepare(dir string, r Request) error {
	r.Schema = schema
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return stateError(err)
	}
	return stateError(durable.WriteJSON(requestFile(dir), r, 0o644))
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
func (h *helper) intent(name string) error {
	return stateError(h.journal.Append(step{ID: h.req.ID, At: time.Now().UTC(), Step: name}))
}

func (h *helper) done(name string, code int) error {
	return stateError(h.journal.Append(step{ID: h.req.ID, At: time.Now().UTC(), Step: name, Done: true, Code: code}))
}

// last is the last step of this request in the journal, false if it was not begun.
func (h *helper) last() (step, bool) {
	steps, _ := durable.ReadJournal[step](journalFile(h.dir), 0) // a damaged line is an unknown step; those after it tell
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i].ID == h.req.ID {
			return steps[i], true
		}
	}
	return step{}, false
}

// current is the system that runs now, "" if there is none.
func current() string {
	p, err := filepath.EvalSymlinks(CurrentSystem)
	if err != nil {
		return ""
	}
	return p
}
