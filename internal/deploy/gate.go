package deploy

import (
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// gate lets a staged target through, or has it wait.
func (s *step) gate() {
	if s.r.Wait = s.obstacle(); s.r.Wait != nil {
		s.r.Phase = fleet.PhaseWaiting
		return
	}
	s.r.Phase = fleet.PhaseActivating
	s.effects = []Effect{Activate}
}

// gateAgain asks the gate for a target that waits. One that waited for the end of somebody's switch is fetched once more: nothing
// kept its closure meanwhile.
func (s *step) gateAgain() {
	switch r := &s.r; {
	case r.Phase != fleet.PhaseWaiting:
	case r.Wait.For != fleet.ForGrace:
		s.gate()
	case !s.at.Before(*r.Wait.Until):
		s.again()
	}
}

// obstacle is what keeps the target from being activated now; nil for nothing.
func (s *step) obstacle() *fleet.Wait {
	r := &s.r
	confirmed := s.isConfirmed()
	switch {
	case s.suspended():
		until := r.Suspended.Until
		return &fleet.Wait{For: fleet.ForResume, Until: &until}
	case s.Confirm && !confirmed && r.Target.OutPath != pathOf(r.Active):
		return &fleet.Wait{For: fleet.ForConfirm}
	case !s.Windows.Open(s.at, s.Zone) && !(confirmed && r.Confirmed.Now):
		next := s.Windows.Next(s.at, s.Zone).UTC()
		return &fleet.Wait{For: fleet.ForWindow, Until: &next}
	}
	return nil
}

// pathOf is a target's system, "" for none.
func pathOf(t *fleet.Target) string {
	if t == nil {
		return ""
	}
	return t.OutPath
}

// isConfirmed says whether an operator gave their word for the very target.
func (s *step) isConfirmed() bool {
	c, t := s.r.Confirmed, s.r.Target
	return c != nil && c.Release == t.Release && c.OutPath == t.OutPath
}

// suspended says whether activations are suspended now.
func (s *step) suspended() bool { return s.r.Suspended != nil && s.at.Before(s.r.Suspended.Until) }

// RebootAt is when the agent will reboot the host by itself, if its ring lets it by then where that is asked for (MayReboot); nil for never.
func (p Policy) RebootAt(r Record, at time.Time) *time.Time {
	s := &step{Policy: p, r: r, at: at}
	settled := r.Phase == fleet.PhaseIdle || r.Phase == fleet.PhaseReboot || r.Phase == fleet.PhaseOverruled && r.Drift == nil
	if len(p.Reboots) == 0 && !p.Permits || !settled || !s.rebootNeeded() || r.Rebooted == r.Active.OutPath {
		return nil
	}
	when := at
	if s.suspended() {
		when = r.Suspended.Until
	}
	zone := p.Zone
	if zone == nil {
		zone = time.UTC
	}
	if !p.Reboots.Open(when, zone) {
		when = p.Reboots.Next(when, zone)
	}
	when = when.UTC()
	return &when
}

// MayReboot says whether nothing but the time keeps the agent from rebooting a host that needs it: its ring lets it end this very boot, if the host asks
// for that.
func (p Policy) MayReboot(r Record) bool { return !p.Permits || r.Permit != "" && r.Permit == r.Boot }

// rebootNeeded says whether the host runs something else than it would after a reboot.
func (s *step) rebootNeeded() bool { return s.r.Reboot || s.seen().Reboot }

// rebootDue reboots the host, once for each system, when it needs it and may.
func (s *step) rebootDue() {
	if when := s.RebootAt(s.r, s.at); when != nil && !s.at.Before(*when) && s.MayReboot(s.r) {
		s.r.Rebooted, s.r.Permit = s.r.Active.OutPath, ""
		s.effects = []Effect{Reboot}
	}
}

// booted notes which boot the machine is in: what let it end the one before is used up.
func (s *step) booted(e Restarted) {
	if s.r.Boot != e.Boot {
		s.r.Boot, s.r.Permit = e.Boot, ""
	}
}

func (s *step) permitted(e Permitted) { s.r.Permit = e.Boot }
