package activate

import (
	"context"
	"os"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// carryOut does the request from its beginning.
func (h *helper) carryOut(ctx context.Context) (fleet.Result, *fleet.Failure) {
	h.log.Info("activating", "release", h.req.Release.Number, "storePath", h.req.OutPath, "previous", h.req.Previous)
	if err := h.ready(); err != nil {
		return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err)
	}
	was, err := h.observe(ctx)
	if err != nil {
		return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err)
	}
	now, err := h.test(ctx)
	switch {
	case err != nil && now == untouched:
		return fleet.NotActivated, fleet.FailureOf(fleet.Activate, err)
	case err != nil:
		return h.rollback(ctx, fleet.FailureOf(fleet.Activate, err))
	case now == forNextBoot:
		return h.commit(ctx, true)
	}
	if err := h.check(ctx, was); err != nil {
		result, why := h.rollback(ctx, fleet.FailureOf(fleet.Check, err))
		if result == fleet.RolledBack {
			h.blame(ctx, err, why)
		}
		return result, why
	}
	return h.commit(ctx, false)
}

// ready makes sure that there is something to switch to, and something to come back to.
func (h *helper) ready() error {
	if _, err := os.Stat(switcher(h.req.OutPath)); err != nil {
		return fleet.Errorf(fleet.Bad, fleet.CodeActivate, "%s is not a NixOS system", h.req.OutPath).
			WithHint("its config.system.build.toplevel must have a bin/switch-to-configuration").WithCause(err)
	}
	if h.req.Previous == "" {
		return nil
	}
	err := os.Remove(previousRoot)
	if err == nil || os.IsNotExist(err) {
		err = os.Symlink(h.req.Previous, previousRoot)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the previous system cannot be kept from garbage collection").WithCause(err)
	}
	return nil
}

// test switches the running system, without touching profile and boot entry, and says what runs now.
func (h *helper) test(ctx context.Context) (now verdict, err error) {
	now = untouched
	err = proc.Stage(ctx, fleet.Activate, func() error {
		if err := h.intent(stepTest); err != nil {
			return err
		}
		code, err := h.switchTo(ctx, h.req.OutPath, "test")
		if code == notRun {
			return err
		}
		now = live // a switch that was cut short may have done anything
		if err != nil {
			return err
		}
		if now, err = h.judge(code); err != nil {
			return err
		}
		return h.done(stepTest, code)
	})
	return now, err
}

// commit makes the checked system the one that the next boot takes, unless it is only tested.
func (h *helper) commit(ctx context.Context, reboot bool) (fleet.Result, *fleet.Failure) {
	switch {
	case h.req.TestOnly && reboot:
		return h.rollback(ctx, fleet.FailureOf(fleet.Commit, fleet.Errorf(fleet.Bad, fleet.CodeActivate, "%s takes effect with a boot only, so it cannot be tried", h.req.OutPath).
			WithHint("release it, or test a change that can be switched to")))
	case h.req.TestOnly:
		return fleet.Tested, nil
	}
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
		code, err := h.switchPatiently(ctx, h.req.OutPath, "boot")
		if err != nil {
			return err
		}
		if code != 0 {
			return fleet.Errorf(fleet.Local, fleet.CodeActivate, "the boot entry cannot be made: switch-to-configuration boot %s%s", ended(code), h.saidLast())
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

func switcher(system string) string { return filepath.Join(system, "bin/switch-to-configuration") }
