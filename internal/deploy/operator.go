package deploy

import (
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// The events that operators make.
type (
	// Retry tries what is held, or waits for another try, at once.
	Retry struct{}
	// Confirm lets one release through the gate: the very one that waits there, or nothing.
	Confirm struct {
		By      fleet.Actor
		Release int
		Tag     string // object name
		Now     bool   // and not only in a window
	}
	// Choose has a system deployed that the operator chose: that of an older release, an earlier one of this host, any.
	Choose struct {
		Act    string // fleet.ActDeploy or fleet.ActRollback
		By     fleet.Actor
		Reason string
		Target fleet.Target
		Now    bool
	}
	// Suspend keeps activations from starting.
	Suspend struct {
		By     fleet.Actor
		Reason string
		Until  time.Time
	}
	// Resume ends that.
	Resumed struct{}
	// Accept is the word that a refused tip may follow what was verified before, whatever the history says.
	Accept struct {
		By     fleet.Actor
		Commit string
	}
)

func (Retry) event()   {}
func (Confirm) event() {}
func (Choose) event()  {}
func (Suspend) event() {}
func (Resumed) event() {}
func (Accept) event()  {}

// May says why an operator's event does nothing now (CodeNotNow), nil when it does something. Other events always may.
func (p Policy) May(r Record, e Event, at time.Time) error {
	switch e := e.(type) {
	case Retry:
		if r.Phase != fleet.PhaseHeld && r.Phase != fleet.PhaseRetrying {
			return notNow("nothing failed here that could be tried again: the host is %s", r.Phase).WithHint("garrison explain says why it is where it is")
		}
	case Confirm:
		return mayConfirm(r, e)
	case Choose:
		switch {
		case r.Phase == fleet.PhaseActivating:
			return notNow("%s is just being activated", r.Target.Release.Name()).WithHint("wait for its end: garrison status")
		case r.Active != nil && r.Active.OutPath == e.Target.OutPath && r.Drift == nil && r.Target == nil && r.Phase != fleet.PhaseTesting:
			return notNow("this host runs that system already, from %s", r.Active.Release.Name())
		}
	case Suspend:
		if !e.Until.After(at) {
			return notNow("a suspension must end in the future, not at %s", e.Until.Format(time.RFC3339))
		}
	case Accept:
		return mayAccept(r, e)
	case Resumed:
		if r.Suspended == nil {
			return notNow("nothing is suspended on this host")
		}
	}
	return nil
}

func mayAccept(r Record, e Accept) error {
	if r.Refused == nil {
		return notNow("no release is refused here: there is nothing to accept").WithHint("see garrison status")
	}
	tip, f := r.Refused.Tip, r.Refused.Failure
	why, _, _ := strings.Cut(f.Message, "\n")
	switch {
	case tip == "" || tip != e.Commit:
		return notNow("%.12s is not the commit that is refused (%.12s)", e.Commit, tip).WithHint("only the branch's tip, as garrison status shows it, can be accepted")
	case !Acceptable(f.Code):
		return notNow("%.12s cannot be accepted by anybody's word: %s", tip, why).WithHint("%s", f.Hint)
	case r.Accept != nil && r.Accept.Commit == tip:
		return notNow("%.12s is accepted already; what is refused is not where it stands in the history: %s", tip, why).WithHint("%s", f.Hint)
	}
	return nil
}

func mayConfirm(r Record, e Confirm) error {
	switch {
	case r.Phase != fleet.PhaseStaging && r.Phase != fleet.PhaseWaiting && r.Phase != fleet.PhaseRetrying:
		return notNow("nothing waits for a confirmation: the host is %s", r.Phase).WithHint("garrison explain says why it is where it is")
	case r.Target.Release.Number != e.Release:
		return notNow("%s is not what waits here: %s is", fleet.TagName(e.Release), r.Target.Release.Name()).
			WithHint("look at it, then: garrison confirm %s", r.Target.Release.Name())
	case r.Target.Release.Tag != e.Tag:
		return notNow("%s is not the one that was looked at: its tag is %.12s, not %.12s", fleet.TagName(e.Release), r.Target.Release.Tag, e.Tag).
			WithHint("look at it again: garrison status")
	}
	return nil
}

func notNow(format string, args ...any) *fleet.Error {
	return fleet.Errorf(fleet.Bad, fleet.CodeNotNow, format, args...)
}

func (s *step) retry(Retry) {
	s.r.Corrections = 0
	s.again()
}

func (s *step) confirm(e Confirm) {
	t := s.r.Target
	s.r.Confirmed = &fleet.Confirmation{By: e.By, At: s.at, Release: t.Release, OutPath: t.OutPath, Now: e.Now}
	s.gateAgain()
}

// choose turns to the operator's target. It stands as confirmed: they named it.
func (s *step) choose(e Choose) {
	r := &s.r
	target := e.Target
	target.At = s.at
	r.Corrections = 0
	s.leave()
	r.Choice = &fleet.Choice{Act: e.Act, By: e.By, Reason: e.Reason, Since: s.at, Release: target.Release, OutPath: target.OutPath, Overruled: r.Newest}
	switch {
	case r.Entry == nil:
	case r.Entry.OutPath == target.OutPath: // what the newest release says is nothing of the operator's own
		r.Choice, target = nil, *r.Entry.Target(*r.Newest, s.at)
	default:
		r.Choice.System = r.Entry.OutPath
	}
	r.Confirmed = &fleet.Confirmation{By: e.By, At: s.at, Release: target.Release, OutPath: target.OutPath, Now: e.Now}
	s.work(&target)
}

func (s *step) suspend(e Suspend) {
	s.r.Suspended = &fleet.Suspension{By: e.By, Reason: e.Reason, Since: s.at, Until: e.Until}
	s.waitOn()
}

func (s *step) accept(e Accept) { s.r.Accept = &Acceptance{Commit: e.Commit, By: e.By, At: s.at} }

func (s *step) resume(Resumed) {
	s.r.Suspended = nil
	s.gateAgain()
}

// waitOn brings what a waiting target waits for up to date, where that got more.
func (s *step) waitOn() {
	if s.r.Phase == fleet.PhaseWaiting && s.r.Wait.For != fleet.ForGrace {
		s.r.Wait = s.obstacle()
	}
}
