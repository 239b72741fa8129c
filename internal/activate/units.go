package activate

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// units asks the host's service manager about its units. The zero value is a host without systemd, which has none.
type units struct{ conn *dbus.Conn }

// HasSystemd says whether systemd is this host's init (sd_booted(3)).
func HasSystemd() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// findUnits connects to systemd where there is one. One that does not answer is found out by failed.
func findUnits() units {
	if !HasSystemd() {
		return units{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		conn, err = dbus.NewSystemConnectionContext(ctx)
	}
	if err != nil {
		return units{}
	}
	return units{conn}
}

func (u units) close() {
	if u.conn != nil {
		u.conn.Close()
	}
}

// failed lists the units that are in the state "failed" now.
func (u units) failed(ctx context.Context) (map[string]bool, error) {
	set := map[string]bool{}
	if u.conn == nil {
		if HasSystemd() {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeCheck, "systemd runs here, but does not answer on its bus")
		}
		return set, nil
	}
	list, err := u.conn.ListUnitsFilteredContext(ctx, []string{"failed"})
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeCheck, "systemd does not say which units failed").WithCause(err)
	}
	for _, s := range list {
		set[s.Name] = true
	}
	return set, nil
}

// busy lists the units that are on their way up or down.
func (u units) busy(ctx context.Context) ([]string, error) {
	list, err := u.conn.ListUnitsFilteredContext(ctx, []string{"activating", "reloading", "deactivating"})
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeCheck, "systemd does not say which units are being started").WithCause(err)
	}
	var names []string
	for _, s := range list {
		if s.JobId != 0 {
			names = append(names, s.Name)
		}
	}
	return names, nil
}

// settle waits until no unit is on its way, then fails if there is one that failed and did not before.
func (u units) settle(ctx context.Context, failedBefore map[string]bool) error {
	if u.conn == nil {
		return nil
	}
	for {
		busy, err := u.busy(ctx)
		if err != nil {
			return err
		}
		if len(busy) == 0 {
			break
		}
		select {
		case <-ctx.Done():
			return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "units did not come up in time: %s", strings.Join(busy, ", "))
		case <-time.After(50 * time.Millisecond):
		}
	}
	now, err := u.failed(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(now, func(name string, _ bool) bool { return failedBefore[name] })
	if len(now) > 0 {
		names := slices.Sorted(maps.Keys(now))
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "%s failed in the new system", strings.Join(names, ", ")).
			WithHint("journalctl -u %s", names[0])
	}
	return nil
}

// startUnit runs the helper in a transient unit of its own, which no restart of the agent touches.
func startUnit(ctx context.Context, exe, dir, id string) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "cannot reach systemd over D-Bus").WithCause(err)
	}
	defer conn.Close()
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, "garrison-activate-"+id+".service", "fail", []dbus.Property{
		dbus.PropDescription("Garrison: activate a release"),
		dbus.PropExecStart([]string{exe, "activate", "--dir", dir}, false),
		dbus.PropType("exec"),
		{Name: "CollectMode", Value: variant("inactive-or-failed")},
		{Name: "Environment", Value: variant([]string{"PATH=" + os.Getenv("PATH")})},
		{Name: "KillMode", Value: variant("process")},
	}, done)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeActivate, "systemd does not start the activation").WithCause(err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fleet.Errorf(fleet.Local, fleet.CodeActivate, "systemd says %q of the activation's start", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for systemd: %w", context.Cause(ctx))
	}
}
