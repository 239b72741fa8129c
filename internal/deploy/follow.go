package deploy

import (
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// found takes note of a verified release and turns to it.
func (s *step) found(e Found) {
	s.observe(e.Systems)
	if s.note(e) {
		s.turn()
	}
}

// noted is found while an activation is under way; activated turns to the release.
func (s *step) noted(e Found) { s.note(e) }

// note puts a newer release on record.
func (s *step) note(e Found) (newer bool) {
	s.r.Refused = nil
	s.noteHead(e.Head, e.Release)
	accepted := s.accepts(e.Release) || e.Anew && (s.r.Newest == nil || s.r.Newest.Tag != e.Release.Tag)
	if s.r.Newest != nil && e.Release.Number <= s.r.Newest.Number && !accepted {
		return false
	}
	newest := e.Release
	s.r.Test = nil   // overtaken: it is not built on this one
	s.r.Accept = nil // made use of, or overtaken
	s.r.Newest, s.r.Entry, s.r.Manual = &newest, e.Entry, e.Manual
	return true
}

func (s *step) accepts(r fleet.ReleaseRef) bool {
	return s.r.Accept != nil && s.r.Accept.Commit == r.Commit
}

// noteHead keeps what the release branch points at, where that is not given; it never goes back but by an operator's word.
func (s *step) noteHead(h *Head, given fleet.ReleaseRef) {
	r := &s.r
	newest := given
	if h != nil {
		newest = h.Release
	}
	if newest.Tag == given.Tag || r.Newest != nil && newest.Tag == r.Newest.Tag {
		h = nil
	}
	known := r.Newest
	if r.Head != nil {
		known = &r.Head.Release
	}
	if known != nil && newest.Number < known.Number && !s.accepts(newest) {
		return
	}
	if h != nil && s.accepts(newest) {
		r.Accept = nil // made use of
	}
	r.Head = h
}

func (s *step) nothing(e Nothing) {
	if s.r.Refused = nil; s.r.Newest == nil && e.Head != nil {
		s.noteHead(e.Head, fleet.ReleaseRef{})
	}
}

func (s *step) refused(e Refused) {
	if was := s.r.Refused; was == nil || was.Tip != e.Tip || was.Failure.Code != e.Failure.Code {
		s.r.Refused = &fleet.Refusal{Tip: e.Tip, Since: s.at, Failure: e.Failure}
	}
}

// turn decides what the newest release means for this host.
func (s *step) turn() {
	r := &s.r
	if r.Active != nil && r.Entry != nil && r.Active.OutPath == r.Entry.OutPath {
		active := *r.Active
		active.Release = *r.Newest
		r.Active = &active
	}
	tested := r.Phase == fleet.PhaseTesting
	switch {
	case s.overruled():
		if s.trying() {
			s.settle()
		}
		return // it brings nothing new
	case r.Entry == nil:
		s.leftOut()
		return
	case r.Phase == fleet.PhaseHeld && r.Target.OutPath == r.Entry.OutPath && r.Failure.Code != fleet.CodeInterrupted:
		// The same system, which is known to be bad here: that others changed is no reason to try it again.
		target := *r.Target
		target.Release = *r.Newest
		r.Target, r.Choice = &target, nil
		return
	}
	s.drop()
	r.Choice, r.Corrections = nil, 0
	if r.Drift != nil { // which is overruled in its turn, though a fact until something is activated
		drift := *r.Drift
		drift.System, drift.Overruled = "", nil
		r.Drift = &drift
	}
	now, target := s.seen(), s.released()
	switch {
	case r.Active != nil && r.Active.OutPath == target.OutPath && r.Drift == nil && !tested && (r.Reboot || now.Current == "" || now.Current == target.OutPath):
		s.settle()
	case (r.Active == nil || r.Drift != nil || r.Reboot) && now.Current == target.OutPath && now.Profile == target.OutPath:
		s.adopt(target)
	default:
		s.work(target)
	}
}

// released is what the newest release wants this host to be.
func (s *step) released() *fleet.Target {
	return s.r.Entry.Target(*s.r.Newest, s.at)
}

// work begins with a target: its closure is fetched.
func (s *step) work(t *fleet.Target) {
	s.drop()
	s.r.Target, s.r.Phase = t, fleet.PhaseStaging
	s.effects = []Effect{Stage}
}

// drop forgets the target and all that is of it.
func (s *step) drop() {
	s.r.Target, s.r.Failure, s.r.Attempt, s.r.RetryAt, s.r.Wait = nil, nil, 0, nil, nil
}

// settle ends in the phase of a host that is left as it is.
func (s *step) settle() {
	s.drop()
	switch r := &s.r; {
	case r.Reboot:
		r.Phase = fleet.PhaseReboot
	case r.Choice != nil, r.Drift != nil:
		r.Phase = fleet.PhaseOverruled
	case r.Newest == nil:
		r.Phase = fleet.PhaseNew
	case r.Entry == nil:
		s.leftOut()
	default:
		r.Phase = fleet.PhaseIdle
	}
}

// adopt takes a system that runs and is to be booted for a deployed one.
func (s *step) adopt(t *fleet.Target) {
	s.r.Active, s.r.Reboot, s.r.Drift = t, false, nil
	s.settle()
}

// leftOut is for a release that does not deploy this host.
func (s *step) leftOut() {
	s.drop()
	s.r.Drift, s.r.Phase = nil, fleet.PhaseManual
	if !s.r.Manual {
		s.r.Failure = &fleet.Failure{Class: fleet.Bad, Code: fleet.CodeNoSuchHost, Stage: fleet.Verify,
			Message: fleet.TagName(s.r.Newest.Number) + " has no host " + s.r.Host,
			Hint:    "is the agent's host name one of the flake's nixosConfigurations?"}
	}
}

func (s *step) staged(Staged) { s.gate() }

func (s *step) stageFailed(e StageFailed) { s.failed(e.Failure) }

func (s *step) activated(e Activated) {
	r := &s.r
	target := *r.Target
	if e.Systems.Current != "" {
		r.Seen = &e.Systems
	}
	trying := s.trying()
	switch e.Result {
	case fleet.Committed, fleet.RebootNeeded, fleet.Tested:
		if trying {
			s.tried()
			break
		}
		target.At = s.at
		if s.correcting() {
			r.Corrections++
		}
		r.Active, r.Drift, r.Reboot = &target, nil, e.Result == fleet.RebootNeeded
		s.settle()
		if now := s.seen().Current; now != "" && now != target.OutPath && !r.Reboot {
			s.drifted() // somebody was quicker
		}
	default:
		f := fleet.Failure{Class: fleet.Bad, Code: fleet.CodeActivate, Stage: fleet.Activate, Message: string(e.Result)}
		if e.Failure != nil {
			f = *e.Failure
		}
		if e.Result == fleet.RollbackFailed {
			f.Class = fleet.Bad // trying again by itself could only make it worse
		}
		s.failed(f)
	}
	switch {
	case trying && r.Test != nil:
	case r.Newest != nil && r.Newest.Number != target.Release.Number:
		s.turn()
	}
}

// failed holds the target when the release is to blame, else notes when to try again.
func (s *step) failed(f fleet.Failure) {
	s.r.Failure = &f
	s.r.Attempt++
	if f.Class == fleet.Bad {
		s.r.Phase, s.r.RetryAt = fleet.PhaseHeld, nil
		return
	}
	retry := s.at.Add(Backoff(f.Class, s.r.Attempt, s.jitter))
	s.r.Phase, s.r.RetryAt = fleet.PhaseRetrying, &retry
}

func (s *step) restarted(e Restarted) {
	s.booted(e)
	s.observe(e.Systems)
	s.gateAgain()
}

func (s *step) restage(e Restarted) {
	s.booted(e)
	s.effects = []Effect{Stage}
}

func (s *step) resumeHelper(e Restarted) {
	s.booted(e)
	s.effects = []Effect{Resume}
}

// due does what its time has come for. It may be early: clocks jump, and the agent looks now and then in any case.
func (s *step) due(Due) {
	if r := &s.r; r.Suspended != nil && !s.suspended() {
		r.Suspended = nil
	}
	switch wait := s.r.RetryAt; {
	case s.r.Phase == fleet.PhaseRetrying && (!s.at.Before(*wait) || wait.Sub(s.at) > MaxBackoff):
		s.again()
	case s.r.Phase == fleet.PhaseWaiting:
		s.gateAgain()
	default:
		s.rebootDue()
	}
}

// again stages the target once more.
func (s *step) again() {
	s.r.Phase, s.r.RetryAt, s.r.Wait = fleet.PhaseStaging, nil, nil
	s.effects = []Effect{Stage}
}

// MaxBackoff is more than any Backoff.
const MaxBackoff = 45 * time.Minute

// Backoff is how long to wait after the given number of failures in a row: doubling from 5 s to 10 min,
// from 1 min to 30 min where the host itself is at fault, plus up to half of that by jitter.
func Backoff(c fleet.Class, failures int, jitter float64) time.Duration {
	wait, most := 5*time.Second, 10*time.Minute
	if c == fleet.Local {
		wait, most = time.Minute, MaxBackoff*2/3
	}
	for ; failures > 1 && wait < most; failures-- {
		wait *= 2
	}
	wait = min(wait, most)
	return wait + time.Duration(jitter*float64(wait)/2)
}
