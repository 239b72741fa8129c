package activate

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
)

// carryOut does the request from its beginning, or from where a helper before this one died.
func (h *helper) carryOut(ctx context.Context) (fleet.Result, *fleet.Failure) {
	var err error
	if h.nix, err = nix.Find(ctx); err != nil {
		return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err)
	}
	if last, begun := h.last(); begun {
		return h.recover(ctx, last)
	}
	h.log.Info("activating", "release", h.req.Release.Number, "storePath", h.req.OutPath, "previous", h.req.Previous)
	failedBefore, err := h.units.failed(ctx)
	if err != nil {
		return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err)
	}
	reboot, err := h.test(ctx)
	if err != nil {
		if current() == h.req.Previous && fleet.ClassOf(err) == fleet.Transient {
			return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err) // the lock was held: nothing was begun
		}
		return h.rollback(ctx, fleet.FailureOf(fleet.Activate, err))
	}
	if !reboot {
		if err := h.check(ctx, failedBefore); err != nil {
			return h.rollback(ctx, fleet.FailureOf(fleet.Check, err))
		}
	}
	return h.commit(ctx, reboot)
}

// test switches the running system, without touching profile and boot entry. It is true when
// the new system can only be booted into.
func (h *helper) test(ctx context.Context) (reboot bool, err error) {
	err = proc.Stage(ctx, fleet.Activate, func() error {
		if err := h.intent(stepTest); err != nil {
			return err
		}
		code, err := h.switchTo(ctx, h.req.OutPath, "test")
		if err != nil {
			return err
		}
		reboot, err = h.judge(code)
		if err != nil {
			return err
		}
		return h.done(stepTest, code)
	})
	return reboot, err
}

// judge tells what an exit status of switch-to-configuration means (shared facts: nixpkgs' switch-to-configuration).
func (h *helper) judge(code int) (reboot bool, err error) {
	switch code {
	case 0:
		return false, nil
	case 4: // some unit failed, perhaps one that failed before: the check finds out
		return false, nil
	case 100:
		return true, nil
	case 11:
		return false, fleet.Errorf(fleet.Transient, fleet.CodeBusy, "another switch is under way on this host (switch-to-configuration exited with 11)")
	case 2:
		return false, h.switchFailed(code, "its activation script failed")
	}
	return false, h.switchFailed(code, "it failed")
}

func (h *helper) switchFailed(code int, how string) error {
	return fleet.Errorf(fleet.Bad, fleet.CodeActivate, "switch-to-configuration exited with %d: %s%s", code, how, h.saidLast()).
		WithHint("its whole log: %s", LogFile(h.dir))
}

// saidLast is the end of the log, for an error that is read without it.
func (h *helper) saidLast() string {
	data, err := os.ReadFile(LogFile(h.dir))
	if err != nil || len(data) == 0 {
		return ""
	}
	const most = 1500
	if len(data) > most {
		data = data[len(data)-most:]
	}
	return ":\n" + strings.ToValidUTF8(strings.TrimSpace(string(data)), "")
}

// switchTo runs a system's switch-to-configuration and returns its exit status. Everything it says goes to the log.
func (h *helper) switchTo(ctx context.Context, system, action string) (int, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, switchTimeout, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "switch-to-configuration took longer than %s", switchTimeout))
	defer cancel()
	log, err := os.OpenFile(LogFile(h.dir), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return -1, stateError(err)
	}
	defer log.Close()
	fmt.Fprintf(log, "--- %s %s %s\n", time.Now().UTC().Format(time.RFC3339), action, system)
	err = proc.RunTo(ctx, log, proc.Cmd{Program: filepath.Join(system, "bin/switch-to-configuration"), Args: []string{action}, Env: []string{"NIXOS_INSTALL_BOOTLOADER="}})
	if code, ran := proc.ExitCode(err); ran {
		return code, nil
	}
	if err != nil {
		return -1, fleet.Errorf(fleet.ClassOf(err), fleet.CodeActivate, "switch-to-configuration of %s cannot be run", system).WithCause(err)
	}
	return 0, nil
}

// check waits until the new system is healthy: it runs, and no unit fails that did not fail before.
func (h *helper) check(ctx context.Context, failedBefore map[string]bool) error {
	deadline := time.Duration(h.req.CheckSeconds * float64(time.Second))
	return proc.Stage(ctx, fleet.Check, func() error {
		ctx, cancel := context.WithTimeout(ctx, deadline)
		defer cancel()
		if err := h.intent(stepCheck); err != nil {
			return err
		}
		if now := current(); now != h.req.OutPath {
			return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "switch-to-configuration ended well, but %s is %q", CurrentSystem, now)
		}
		if err := h.units.settle(ctx, failedBefore); err != nil {
			return err
		}
		return h.done(stepCheck, 0)
	})
}

// commit makes the checked system the one that the next boot takes.
func (h *helper) commit(ctx context.Context, reboot bool) (fleet.Result, *fleet.Failure) {
	err := proc.Stage(ctx, fleet.Commit, func() error {
		if err := h.intent(stepProfile); err != nil {
			return err
		}
		if err := h.nix.SetProfile(ctx, h.req.Profile, h.req.OutPath); err != nil {
			return err
		}
		if err := h.intent(stepBoot); err != nil {
			return err
		}
		code, err := h.switchTo(ctx, h.req.OutPath, "boot")
		if err != nil {
			return err
		}
		if code != 0 {
			return fleet.Errorf(fleet.Local, fleet.CodeActivate, "the boot entry cannot be made: switch-to-configuration boot exited with %d%s", code, h.saidLast())
		}
		return h.done(stepBoot, code)
	})
	if err != nil {
		return h.rollback(ctx, fleet.FailureOf(fleet.Commit, err))
	}
	if reboot {
		return fleet.RebootNeeded, nil
	}
	return fleet.Committed, nil
}

// rollback goes back to the previous system: running, profile and, where the profile had moved, boot entry.
func (h *helper) rollback(ctx context.Context, why *fleet.Failure) (fleet.Result, *fleet.Failure) {
	h.log.Error("rolling back", "release", h.req.Release.Number, "err", why.Message)
	if h.req.Previous == "" {
		why.Message += " (and there is no previous system to go back to)"
		return fleet.RollbackFailed, why
	}
	if err := h.goBack(ctx); err != nil {
		why.Message += "; and the previous system could not be restored: " + err.Error()
		why.Hint = "look at the host: " + LogFile(h.dir)
		return fleet.RollbackFailed, why
	}
	return fleet.RolledBack, why
}

func (h *helper) goBack(ctx context.Context) error {
	if err := h.intent(stepRollback); err != nil {
		return err
	}
	code, err := h.switchTo(ctx, h.req.Previous, "test")
	if err != nil {
		return err
	}
	if now := current(); now != h.req.Previous {
		return fleet.Errorf(fleet.Local, fleet.CodeRollback, "switch-to-configuration exited with %d and %s is %q%s", code, CurrentSystem, now, h.saidLast())
	}
	if p, err := filepath.EvalSymlinks(h.req.Profile); err == nil && p == h.req.OutPath {
		if err := h.nix.SetProfile(ctx, h.req.Profile, h.req.Previous); err != nil {
			return err
		}
		if code, err := h.switchTo(ctx, h.req.Previous, "boot"); err != nil || code != 0 {
			return fleet.Errorf(fleet.Local, fleet.CodeRollback, "the boot entry cannot be put back (exit status %d)", code).WithCause(err)
		}
	}
	return h.done(stepRollback, code)
}

// recover ends what a helper that died had begun. What was confirmed is committed, what was not is undone.
func (h *helper) recover(ctx context.Context, last step) (fleet.Result, *fleet.Failure) {
	now := current()
	h.log.Warn("an activation was interrupted", "step", last.Step, "done", last.Done, "current", now)
	interrupted := fleet.FailureOf(fleet.Activate, fleet.Errorf(fleet.Bad, fleet.CodeInterrupted, "the activation was interrupted at the step %q", last.Step).
		WithHint("if the host is well, try again with a newer release"))
	confirmed := last.Step == stepProfile || last.Step == stepBoot || last.Step == stepCheck && last.Done
	switch {
	case last.Step == stepRollback && last.Done:
		return fleet.RolledBack, interrupted
	case confirmed && now == h.req.OutPath:
		return h.commit(ctx, false)
	}
	// Also where the previous system runs again (a power cut, or killed before the switch began):
	// units may be stopped, so it is activated once more.
	return h.rollback(ctx, interrupted)
}
