package activate

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// HasSystemd says whether systemd is this host's init (sd_booted(3)).
func HasSystemd() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// startUnit runs the helper in a transient unit of its own, which no restart of the agent touches. A start that systemd has not
// confirmed in time is no error: whether the helper runs, its lock says.
func startUnit(ctx context.Context, exe, dir string, r Request) error {
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "cannot reach systemd over D-Bus").WithCause(err)
	}
	defer conn.Close()
	started := make(chan string, 1)
	// A unit whose helper was killed stays as long as the switch runs that it began: each start has a name of its own.
	name := fmt.Sprintf("garrison-activate-%d-%d.service", r.Release.Number, time.Now().UnixNano())
	property := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	_, err = conn.StartTransientUnitContext(ctx, name, "fail", []dbus.Property{
		dbus.PropDescription("Garrison: activate " + fleet.TagName(r.Release.Number)),
		dbus.PropExecStart([]string{exe, "activate", "--dir", dir}, false),
		dbus.PropType("exec"),
		property("CollectMode", "inactive-or-failed"),
		property("Environment", []string{"PATH=" + os.Getenv("PATH")}),
		// Only the helper itself is ever ended, and one that was killed is started again, also where no agent is left to do it.
		property("KillMode", "process"),
		property("OOMPolicy", "continue"),
		property("Restart", "on-abnormal"),
		property("RestartUSec", uint64(helperPause.Microseconds())),
		// Not to the journal: what it says must not depend on who listens.
		property("StandardOutputFileToAppend", LogFile(dir)),
		property("StandardErrorFileToAppend", LogFile(dir)),
	}, started)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "systemd does not start the activation").WithCause(err)
	}
	select {
	case result := <-started:
		if result != "done" {
			return fleet.Errorf(fleet.Local, fleet.CodeActivate, "the activation does not start: systemd says %q", result).WithHint("journalctl -u %s", name)
		}
	case <-ctx.Done():
	}
	return nil
}
