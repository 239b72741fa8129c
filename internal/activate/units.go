package activate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// unitStates are the units that are not simply up or down, by name.
type unitStates map[string]unitState

type unitState int

const (
	unitBusy   unitState = iota + 1 // a job brings it up or down
	unitLoops                       // failed, and is started again and again
	unitFailed                      // failed for good
)

// services asks systemd about its units. The zero value is ready.
type services struct{ conn *dbus.Conn }

func (s *services) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// look says how the units are; on a host without systemd there are none. After an error
// it connects anew: systemd drops connections when it re-executes itself, as a switch may have it do.
func (s *services) look(ctx context.Context) (unitStates, error) {
	if !HasSystemd() {
		return unitStates{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, busTime)
	defer cancel()
	states, err := s.list(ctx)
	if err != nil {
		s.close()
		return nil, fleet.Errorf(fleet.Local, fleet.CodeCheck, "systemd does not say how its units are").WithHint("does systemctl list-units answer?").WithCause(err)
	}
	return states, nil
}

func (s *services) list(ctx context.Context) (unitStates, error) {
	if s.conn == nil {
		conn, err := connect(ctx)
		if err != nil {
			return nil, err
		}
		s.conn = conn
	}
	list, err := s.conn.ListUnitsFilteredContext(ctx, []string{"failed", "activating", "reloading", "deactivating"})
	if err != nil {
		return nil, err
	}
	states := unitStates{}
	for _, u := range list {
		switch {
		case u.ActiveState == "failed":
			states[u.Name] = unitFailed
		case strings.HasPrefix(u.SubState, "auto-restart"):
			// One that ended well and is to run again is no failure.
			if p, err := s.conn.GetServicePropertyContext(ctx, u.Name, "Result"); err == nil && p.Value.Value() != "success" {
				states[u.Name] = unitLoops
			}
		case u.JobId != 0:
			states[u.Name] = unitBusy
		}
	}
	return states, nil
}

// connect reaches systemd by its own socket, which needs no D-Bus daemon, else by the system bus. It gives up with ctx, as a
// systemd that hangs takes connections and says nothing; the connection outlives ctx.
func connect(ctx context.Context) (*dbus.Conn, error) {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	keep := context.AfterFunc(ctx, end)
	conn, err := dbus.NewSystemdConnectionContext(life)
	if err != nil && ctx.Err() == nil {
		conn, err = dbus.NewSystemConnectionContext(life)
	}
	if !keep() {
		if err == nil {
			conn.Close()
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		end()
	}
	return conn, err
}

// isActive asks whether a unit is up.
func isActive(ctx context.Context, unit string) error {
	if !HasSystemd() {
		return errors.New("this host has no systemd")
	}
	conn, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("systemd does not answer: %w", err)
	}
	defer conn.Close()
	state, err := conn.GetUnitPropertyContext(ctx, unit, "ActiveState")
	if err != nil {
		return fmt.Errorf("systemd does not answer: %w", inTimeOr(ctx, err))
	}
	if is, _ := state.Value.Value().(string); is != "active" && is != "reloading" {
		return fmt.Errorf("%s is %s", unit, is)
	}
	return nil
}

// patienceTimes are how long settle bears what.
type patienceTimes struct {
	every time.Duration // between two looks
	calm  time.Duration // with nothing wrong, before it is believed
	loops time.Duration // with a unit that fails and is started again
}

var patience = patienceTimes{every: 50 * time.Millisecond, calm: 300 * time.Millisecond, loops: 10 * time.Second}

const busTime = 10 * time.Second

// settle waits until units are up and stay so. It fails when one failed that had not before, when one goes on failing and
// being started, and when ctx ends before nothing is on its way any more. What was failing or busy before does not count.
func settle(ctx context.Context, look func(context.Context) (unitStates, error), before unitStates, p patienceTimes) error {
	var calmSince time.Time
	looping := map[string]time.Time{} // since when; a moment in which it runs does not end that
	for {
		now, err := look(ctx)
		failed, loops, busy := now.since(before)
		at := time.Now()
		if len(failed) > 0 {
			return unitsFailed(failed, "failed in the new system")
		}
		for _, name := range loops {
			if since, known := looping[name]; !known {
				looping[name] = at
			} else if at.Sub(since) >= p.loops {
				return unitsFailed([]string{name}, "failed in the new system again and again")
			}
		}
		if err != nil || len(loops)+len(busy) > 0 {
			calmSince = time.Time{}
		} else if calmSince.IsZero() {
			calmSince = at
		}
		if !calmSince.IsZero() && at.Sub(calmSince) >= p.calm {
			return nil
		}
		select {
		case <-ctx.Done():
			if err != nil { // whatever class it has: it answered before the switch
				return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "systemd does not answer in the new system").WithCause(err)
			}
			return unitsFailed(append(loops, busy...), "did not come up in time")
		case <-time.After(p.every):
		}
	}
}

func unitsFailed(names []string, how string) error {
	if len(names) == 0 {
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "units did not come to rest in time").WithHint("allow more by checkTime in the agent's configuration")
	}
	return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "%s %s", strings.Join(names, ", "), how).WithHint("journalctl -u %s", names[0])
}

// since are the units that were not failing, or not on their way, before.
func (s unitStates) since(before unitStates) (failed, loops, busy []string) {
	for name, state := range s {
		was := before[name]
		switch {
		case state == unitBusy && was == 0:
			busy = append(busy, name)
		case state == unitLoops && was < unitLoops:
			loops = append(loops, name)
		case state == unitFailed && was < unitLoops:
			failed = append(failed, name)
		}
	}
	slices.Sort(failed)
	slices.Sort(loops)
	slices.Sort(busy)
	return failed, loops, busy
}
