package deploy

import "github.com/garrison-nix/garrison/internal/fleet"

// Test is a test release that the host turned to.
type Test struct {
	Release fleet.ReleaseRef `json:"release"`
	Entry   fleet.Entry      `json:"entry"`
	// Left says that a boot, an operator or somebody's switch ended it: it is not tried again until the branch moves.
	Left bool `json:"left,omitempty"`
}

// testFound turns a host that runs what its newest release says to the test that is built on that, or on one that its ring does not give it yet. It is told at each look: what
// cannot be done now is done at a later one.
func (s *step) testFound(e TestFound) {
	r := &s.r
	quiet := r.Phase == fleet.PhaseIdle || r.Phase == fleet.PhaseTesting || s.trying()
	switch {
	case !quiet || r.Choice != nil || r.Drift != nil || r.Entry == nil:
		return
	case e.Base < r.Newest.Number || e.Base > s.published() || r.Test != nil && r.Test.Release.Tag == e.Release.Tag:
		return
	case r.Tested != nil && r.TestNumber() > (Record{Host: r.Host, Tested: &e.Release}).TestNumber():
		return // replayed
	}
	release := e.Release
	r.Tested, r.Test = &release, &Test{Release: release, Entry: e.Entry}
	target := e.Entry.Target(release, s.at)
	switch {
	case r.Phase == fleet.PhaseHeld && r.Target.OutPath == target.OutPath && r.Failure.Code != fleet.CodeInterrupted:
		known := *r.Target
		known.Release = release
		r.Target = &known // the same system, which is known to be bad here
	case e.Entry.OutPath == r.Entry.OutPath:
		s.turn() // nothing of its own to try
	default:
		s.work(target)
	}
}

// published is the number of the newest release, whether the host's ring gives it or not.
func (s *step) published() int {
	if s.r.Head != nil {
		return s.r.Head.Release.Number
	}
	return s.r.Newest.Number
}

// TestNumber is that of the newest test release that was accepted, 0 for none.
func (r Record) TestNumber() int {
	if r.Tested == nil {
		return 0
	}
	n, _ := fleet.TestTagNumber(r.Host, r.Tested.Test)
	return n
}

// testGone goes back to what the newest release says.
func (s *step) testGone(TestGone) {
	there := s.r.Phase == fleet.PhaseTesting || s.trying()
	s.r.Test = nil
	if there {
		s.turn()
	}
}

// trying says whether the target is a test release.
func (s *step) trying() bool { return s.r.Target != nil && s.r.Target.Release.Test != "" }

// tried notes that a test runs; what is confirmed stays.
func (s *step) tried() {
	s.r.Tried = s.r.Target.OutPath
	s.drop()
	s.r.Phase = fleet.PhaseTesting
}

// leave ends a test that somebody else than its branch ended.
func (s *step) leave() {
	if t := s.r.Test; t != nil {
		left := *t
		left.Left = true
		s.r.Test = &left
	}
}
