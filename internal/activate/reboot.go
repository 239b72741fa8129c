package activate

import (
	"context"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Reboot has systemd reboot the host in good order, as systemctl reboot does. It returns when that was begun.
// Errors: CodeMissingTool on a host without systemd.
func Reboot(ctx context.Context) error {
	if !HasSystemd() {
		return fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "this host has no systemd that could be asked for a reboot").WithHint("reboot it by hand")
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	conn, err := connect(ctx)
	if err == nil {
		defer conn.Close()
		_, err = conn.StartUnitContext(ctx, "reboot.target", "replace-irreversibly", nil)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "systemd does not reboot the host").WithHint("reboot it by hand").WithCause(err)
	}
	return nil
}

// AfterBoot waits until the units of a host that just came up are at rest, at most so long, and fails with
// CodeCheck when some failed or did not get there.
func AfterBoot(ctx context.Context, most time.Duration) error {
	if !HasSystemd() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	units := &services{}
	defer units.close()
	// All that failed so far did so since the boot: nothing had failed before.
	return settle(ctx, units.look, unitStates{}, patienceTimes{every: time.Second, calm: 2 * time.Second, loops: patience.loops})
}
