package deploy

import "github.com/garrison-nix/garrison/internal/fleet"

func (s *step) observed(e Observed) { s.observe(e.Systems) }

// seen is what the host was last seen to run and to boot; empty when it was never looked at.
func (s *step) seen() fleet.Systems {
	if s.r.Seen == nil {
		return fleet.Systems{}
	}
	return *s.r.Seen
}

// observe compares what runs with what did when last looked at: only a change is somebody's doing. What the agent's own
// activations and their roll-backs left is noted by activated, and no drift.
func (s *step) observe(now fleet.Systems) {
	r := &s.r
	if now.Current == "" {
		return // not known: there is none, or it is just being replaced
	}
	was := r.Seen
	first := was == nil
	r.Seen = &now
	if r.Active == nil || r.Phase == fleet.PhaseManual {
		return
	}
	// A record of before Seen was kept says what was expected: Active, or anything while a reboot is waited for.
	if first {
		was = &fleet.Systems{Current: r.Active.OutPath, Profile: r.Active.OutPath}
		if r.Reboot {
			was = &fleet.Systems{Current: now.Current, Profile: now.Profile}
		}
	}
	t := r.Target
	switch {
	case now.Current == r.Active.OutPath && (now.Profile == r.Active.OutPath || now.Profile == ""):
		s.back()
	case was.Current == now.Current && was.Profile == now.Profile:
	case r.Reboot && now.Current == was.Current && now.Profile == r.Active.OutPath:
		s.undrift() // only what is booted next had been changed, and was put back
	case !first && r.Entry != nil && now.Current == r.Entry.OutPath && now.Profile == r.Entry.OutPath:
		r.Choice = nil
		s.adopt(s.released()) // somebody deployed the release by hand
	case t != nil && now.Current == t.OutPath && t.OutPath != r.Active.OutPath:
		switch {
		case now.Profile != t.OutPath || first:
		case s.trying(): // it was switched to for good, which no test is
			s.drifted()
		default:
			s.adopt(t)
		}
	default:
		s.drifted()
	}
}

// back says that the host runs what was confirmed, be it that somebody or a boot brought it there.
func (s *step) back() {
	s.r.Reboot = false
	switch s.r.Phase {
	case fleet.PhaseTesting: // a boot ended it, or somebody
		s.leave()
		s.settle()
	case fleet.PhaseReboot, fleet.PhaseIdle:
		s.r.Drift = nil
		s.settle()
	default:
		s.undrift()
	}
}

// undrift ends a drift, and goes on with the newest release where the host was drawn away from it.
func (s *step) undrift() {
	r := &s.r
	correcting := s.correcting()
	if r.Drift = nil; !correcting && r.Phase != fleet.PhaseOverruled {
		return
	}
	s.settle()
	if r.Phase == fleet.PhaseIdle && r.Entry != nil && r.Entry.OutPath != r.Active.OutPath {
		s.work(s.released())
	}
}

// drifted says that somebody switched the host. A release that is held stays so: nothing is done about it in any case.
func (s *step) drifted() {
	r := &s.r
	now := s.seen()
	d := &fleet.Drift{Since: s.at, Current: now.Current, Profile: now.Profile, Overruled: r.Newest}
	if r.Entry != nil {
		d.System = r.Entry.OutPath
	}
	if had := r.Drift; had != nil && had.Current == now.Current {
		d.Since = had.Since
	}
	held := r.Phase == fleet.PhaseHeld && !s.trying()
	r.Drift = d
	s.leave()
	if c := r.Choice; c != nil && c.OutPath != r.Active.OutPath && !held {
		r.Choice = nil // which had not come to run
	}
	switch {
	case held:
		return
	case !s.Correct:
		s.drop()
		r.Phase = fleet.PhaseOverruled
		return
	}
	active := *r.Active
	active.At = s.at
	s.drop()
	r.Target = &active
	if r.Corrections >= MaxCorrections {
		s.failed(fleet.Failure{Class: fleet.Bad, Code: fleet.CodeDiffers, Stage: fleet.Gate,
			Message: "somebody switched this host by hand again after it had been corrected " + times(MaxCorrections),
			Hint:    "find out who does, then: garrison retry"})
		return
	}
	until := s.at.Add(s.Grace)
	r.Phase, r.Wait = fleet.PhaseWaiting, &fleet.Wait{For: fleet.ForGrace, Until: &until}
}

func times(n int) string { return [...]string{"", "once", "twice", "three times"}[n] }

// correcting says that the target is what was confirmed already, to which the host is brought back.
func (s *step) correcting() bool {
	return s.r.Target != nil && s.r.Active != nil && s.r.Target.OutPath == s.r.Active.OutPath && s.r.Drift != nil
}

// overruled says that an operator's choice, or what somebody switched to, stays: the newest release brings this host no other system
// than the one that was overruled.
func (s *step) overruled() bool {
	r := &s.r
	if r.Entry == nil {
		return r.Choice != nil
	}
	if r.Choice != nil && r.Head != nil && r.Choice.Release.Number > r.Newest.Number {
		return true // chosen ahead of the ring, which must not bring the host back
	}
	return r.Choice != nil && r.Choice.System == r.Entry.OutPath || r.Drift != nil && r.Drift.System == r.Entry.OutPath
}
