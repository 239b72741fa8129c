package fleet

import (
	"testing"
	"time"
)

// TestStanding: what is wrong comes before what is well, and a silent host is never well.
func TestStanding(t *testing.T) {
	now := time.Now()
	seven := &ReleaseRef{Number: 7}
	idle := Status{Phase: PhaseIdle, Newest: seven}
	with := func(s Status, change func(*Status)) Status { change(&s); return s }
	for _, c := range []struct {
		name string
		s    Status
		want Standing
	}{
		{"converged", idle, AllWell},
		{"has not seen the newest", with(idle, func(s *Status) { s.Newest = &ReleaseRef{Number: 6} }), UnderWay},
		{"silent", with(idle, func(s *Status) { s.Seen = &Seen{Silent: &now} }), Silent},
		{"silent after it failed", with(idle, func(s *Status) { s.Phase, s.Seen = PhaseHeld, &Seen{Silent: &now} }), Silent},
		{"not heard yet", Status{Phase: PhaseUnheard, Seen: &Seen{}}, UnderWay},
		{"never reported", Status{Phase: PhaseUnheard, Seen: &Seen{Silent: &now}}, Silent},
		{"left out of the release", with(idle, func(s *Status) { s.Seen = &Seen{Gone: true, Silent: &now} }), Gone},
		{"held", with(idle, func(s *Status) { s.Phase = PhaseHeld }), Failed},
		{"refused", with(idle, func(s *Status) { s.Refused = &Refusal{} }), Failed},
		{"not well after a reboot", with(idle, func(s *Status) { s.Reboot = &Reboot{Failure: &Failure{}} }), Failed},
		{"not in the release, and it says so", Status{Phase: PhaseManual, Failure: &Failure{}}, Failed},
		{"tried again", with(idle, func(s *Status) { s.Phase, s.Failure = PhaseRetrying, &Failure{} }), Retrying},
		{"begun again after a failure", with(idle, func(s *Status) { s.Phase, s.Failure = PhaseStaging, &Failure{} }), UnderWay},
		{"git is away", with(idle, func(s *Status) { s.Remote.Failure = &Failure{} }), Retrying},
		{"drift", with(idle, func(s *Status) { s.Drift = true }), ByHand},
		{"a test", with(idle, func(s *Status) { s.Phase = PhaseTesting }), ByHand},
		{"a window", with(idle, func(s *Status) { s.Phase = PhaseWaiting }), Waiting},
		{"by hand, as declared", Status{Phase: PhaseManual}, Manual},
		{"new", Status{Phase: PhaseNew}, UnderWay},
	} {
		if got := c.s.Standing(7); got != c.want {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
	if got := idle.Standing(0); got != AllWell {
		t.Errorf("without a release that is known: %q", got)
	}
}
