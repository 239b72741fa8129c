package fleet

// Standing is a host's state in one word, for who looks at a whole fleet.
type Standing string

// The standings, worst first. Only AllWell means that all is well.
const (
	Failed   Standing = "failed"    // somebody is needed, or the newest release is not for this host
	Silent   Standing = "silent"    // it should have reported, and did not: what is known of it is old
	Retrying Standing = "retrying"  // something is away, or the host is at fault; tried again
	ByHand   Standing = "by hand"   // it runs what somebody chose, or tries
	Waiting  Standing = "waiting"   // for a person, a window, a reboot, its ring
	UnderWay Standing = "under way" // to the newest release
	Manual   Standing = "manual"    // left to be deployed by hand
	Gone     Standing = "gone"      // the newest release does not name it any more
	AllWell  Standing = "converged" // it is what the newest release says
)

// Standings are all of them, worst first.
func Standings() []Standing {
	return []Standing{Failed, Silent, Retrying, ByHand, Waiting, UnderWay, Manual, Gone, AllWell}
}

// Standing is the host's, where newest is the number of the newest release that is known (0: none is). What a silent host said last does not count.
func (s Status) Standing(newest int) Standing {
	switch {
	case s.Seen != nil && s.Seen.Gone:
		return Gone
	case s.Seen != nil && s.Seen.Silent != nil:
		return Silent
	case s.Refused != nil, s.Phase == PhaseHeld, s.Reboot != nil && s.Reboot.Failure != nil, s.Failure != nil && s.Phase != PhaseRetrying && s.Phase != PhaseStaging && s.Phase != PhaseActivating:
		return Failed
	case s.Phase == PhaseRetrying, s.Remote.Failure != nil:
		return Retrying
	case s.Phase == PhaseOverruled, s.Phase == PhaseTesting, s.Drift:
		return ByHand
	case s.Phase == PhaseWaiting, s.Phase == PhaseReboot, s.Phase == PhaseIdle && s.Ahead != nil:
		return Waiting
	case s.Phase == PhaseManual:
		return Manual
	case s.Phase == PhaseIdle && (newest == 0 || s.Newest != nil && s.Newest.Number >= newest):
		return AllWell
	}
	return UnderWay
}
