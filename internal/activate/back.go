package activate

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// recover ends what a helper that died had begun. What was confirmed is committed, what was not is undone.
func (h *helper) recover(ctx context.Context, steps []step) (fleet.Result, *fleet.Failure) {
	endAll(0, marker(h.req.ID)) // checks that it left behind
	if err := h.awaitSwitch(ctx); err != nil {
		h.log.Error("cannot tell whether a switch is under way", "err", err)
	}
	now, last := current(), steps[len(steps)-1]
	h.log.Warn("an activation was interrupted", "release", h.req.Release.Number, "step", last.Step, "done", last.Done, "current", now)
	switch what, reboot := resolve(steps, now, h.req); what {
	case alreadyBack:
		return fleet.RolledBack, h.reason(steps)
	case finish:
		return h.commit(ctx, reboot)
	}
	return h.rollback(ctx, h.reason(steps))
}

type resolution int

const (
	undo resolution = iota
	finish
	alreadyBack
)

// resolve decides what becomes of an activation that ended after steps, when now is the running system. reboot says
// that the new system is for the next boot only.
func resolve(steps []step, now string, req Request) (what resolution, reboot bool) {
	last := steps[len(steps)-1]
	for _, s := range steps {
		if s.Step == stepRollback {
			if last.Done {
				return alreadyBack, false
			}
			return undo, false
		}
		reboot = reboot || s.Step == stepTest && s.Done && s.Code == 100
	}
	confirmed := last.Step == stepProfile || last.Step == stepBoot || last.Done && (last.Step == stepCheck || reboot)
	switch {
	case confirmed && now == req.OutPath:
		return finish, false
	case confirmed && reboot && now == req.Previous:
		return finish, true
	}
	// Also where the previous system runs again, or still: units may be stopped, so it is activated once more.
	return undo, false
}

// reason is why a roll-back was begun, or that there was an interruption.
func (h *helper) reason(steps []step) *fleet.Failure {
	for _, s := range steps {
		if s.Why != nil {
			return s.Why
		}
	}
	last := steps[len(steps)-1]
	when := "in"
	if last.Done {
		when = "after"
	}
	return fleet.FailureOf(fleet.Activate, fleet.Errorf(fleet.Bad, fleet.CodeInterrupted, "the activation was interrupted %s its step %q, by a power cut, reboot or kill", when, last.Step).
		WithHint("if the host is well, publish a newer release: it is tried again"))
}

// rollback goes back to the previous system: running, profile and, where it had moved, boot entry.
func (h *helper) rollback(ctx context.Context, why *fleet.Failure) (fleet.Result, *fleet.Failure) {
	h.log.Error("rolling back", "release", h.req.Release.Number, "previous", h.req.Previous, "err", firstLine(why.Message))
	told := *why
	// Without room for this line the way back is gone all the same: a helper that came after us would choose it as well.
	if err := h.write(step{Step: stepRollback, Why: why}); err != nil {
		h.log.Error("the roll-back cannot be written down", "err", err)
	}
	result, err := h.goBack(ctx)
	switch {
	case result == fleet.NotActivated:
		told.Message += "\nnothing was switched"
	case err != nil && h.req.Previous == "":
		told.Message += "\nthis host had no system to go back to: what was switched stays until the next release or a reboot"
	case err != nil:
		told.Message += "\nand the previous system could not be restored: " + err.Error()
		told.Hint = "look at the host: " + LogFile(h.dir)
	}
	if result == fleet.RolledBack {
		if err := h.done(stepRollback, 0); err != nil {
			h.log.Error("the roll-back cannot be written down", "err", err)
		}
	}
	return result, &told
}

func (h *helper) goBack(ctx context.Context) (fleet.Result, error) {
	now := current()
	if h.req.Previous == "" {
		if err := h.restoreBoot(ctx); now == "" && err == nil {
			return fleet.NotActivated, nil
		}
		return fleet.RollbackFailed, errors.New("there is no previous system")
	}
	var err error
	if now == "" || now == h.req.OutPath || now == h.req.Previous { // else somebody, or a boot, chose another one: that stays
		err = h.restoreRunning(ctx)
	}
	if err := errors.Join(err, h.restoreBoot(ctx)); err != nil {
		return fleet.RollbackFailed, err
	}
	return fleet.RolledBack, nil
}

func (h *helper) restoreRunning(ctx context.Context) error {
	code, err := h.switchPatiently(ctx, h.req.Previous, "test")
	if err != nil {
		return err
	}
	now := current()
	switch {
	case now != h.req.Previous:
	case code == 0, code == 4, code == 100: // a unit of the previous system that fails is no worse than before
		return nil
	case code == 2:
		h.log.Warn("the previous system runs, but its activation script failed", "storePath", now)
		return nil
	}
	return fleet.Errorf(fleet.Local, fleet.CodeRollback, "its switch-to-configuration %s, and %s is %q%s", ended(code), CurrentSystem, now, h.saidLast())
}

// restoreBoot puts profile and boot entry back where the profile had moved.
func (h *helper) restoreBoot(ctx context.Context) error {
	p, err := filepath.EvalSymlinks(h.req.Profile)
	if err != nil || p != h.req.OutPath || h.req.PreviousProfile == h.req.OutPath {
		return nil
	}
	before := h.req.PreviousProfile
	if before == "" {
		if err := os.Remove(h.req.Profile); err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeRollback, "the profile cannot be put back").WithCause(err)
		}
		if before = h.req.Previous; before == "" {
			return nil
		}
	} else if err := h.nix.SetProfile(ctx, h.req.Profile, before); err != nil {
		return err
	}
	if code, err := h.switchPatiently(ctx, before, "boot"); err != nil || code != 0 {
		return fleet.Errorf(fleet.Local, fleet.CodeRollback, "the boot entry cannot be put back: switch-to-configuration boot %s", ended(code)).WithCause(err)
	}
	return nil
}
