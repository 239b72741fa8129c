package fleet

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// Meaning says in words what the status's phase is.
func (s Status) Meaning() string {
	release := "a release"
	if s.Target != nil {
		release = s.Target.Release.Name()
	}
	switch s.Phase {
	case PhaseNew:
		return "has not seen a release yet"
	case PhaseUnheard:
		return "has never reported"
	case PhaseIdle:
		if s.Ahead != nil {
			return "runs what its ring has; " + s.Ahead.Meaning(s.Ring)
		}
		return "runs what the newest release says"
	case PhaseManual:
		if s.Failure != nil {
			return "is not in the newest release"
		}
		return "is left to be deployed by hand"
	case PhaseReboot:
		return "must be rebooted to run the newest release"
	case PhaseHeld:
		return release + " is bad for this host; one with another system ends this"
	case PhaseWaiting:
		return release + " is fetched, and waits " + s.WaitsFor()
	case PhaseTesting:
		if s.Test != nil {
			return "tries " + s.Test.Name() + ", until its branch is deleted or released"
		}
		return "tries a test release"
	case PhaseOverruled:
		if s.Choice != nil {
			return fmt.Sprintf("runs what %s chose (%s)", s.Choice.By, s.Choice.Act)
		}
		return "runs what somebody switched to by hand"
	case PhaseStaging:
		return "fetches " + release
	case PhaseActivating:
		return "activates " + release
	case PhaseRetrying:
		when := "soon"
		if s.RetryAt != nil {
			when = "at " + s.RetryAt.Local().Format(time.TimeOnly)
		}
		times := "once"
		if s.Attempt > 1 {
			times = fmt.Sprintf("%d times", s.Attempt)
		}
		return fmt.Sprintf("%s failed %s, and is tried again %s", release, times, when)
	}
	return "is in a phase that this garrison does not know"
}

// Meaning says how far a host is with a release that its ring is not given yet.
func (a Ahead) Meaning(ring string) string {
	what := "is being staged"
	switch {
	case a.StagedAt != nil:
		what = "is staged"
	case a.Failure != nil:
		what = "could not be staged ahead"
	}
	return fmt.Sprintf("%s %s, and waits for ring %s", a.Release.Name(), what, ring)
}

// WaitsFor says what a staged system waits for.
func (s Status) WaitsFor() string {
	if s.Wait == nil {
		return "for nothing"
	}
	until := "later"
	if s.Wait.Until != nil {
		until = Moment(*s.Wait.Until)
	}
	switch s.Wait.For {
	case ForConfirm:
		return "for somebody to say: garrison confirm " + s.Target.Release.Name()
	case ForWindow:
		return "for its window, which opens " + until
	case ForResume:
		return "for the end of the suspension, " + until
	case ForGrace:
		return "until " + until + ", so that whoever switched this host by hand can end"
	}
	return "for " + string(s.Wait.For)
}

// Moment is a time as people near the host say it.
func Moment(t time.Time) string { return t.Local().Format("Mon 2006-01-02 15:04") }

// Summary is the status in one line: what runs, what the host is about, and what is wrong.
func (s Status) Summary() string {
	line := "no release active"
	if s.Active != nil {
		line = s.Active.Release.Name() + " active"
	}
	switch {
	case s.Phase != PhaseIdle:
		line += ", " + s.Meaning()
	case s.Ahead != nil:
		line += ", " + s.Ahead.Meaning(s.Ring)
	}
	switch {
	case s.Refused != nil:
		line += fmt.Sprintf("; REFUSED the release branch (%s)", s.Refused.Failure.Code)
	case s.Suspended != nil && s.Phase != PhaseWaiting:
		line += "; suspended until " + Moment(s.Suspended.Until)
	case s.Drift:
		line += "; DRIFT, somebody switched it by hand"
	case s.Remote.Failure != nil:
		line += fmt.Sprintf("; git is away (%s)", s.Remote.Failure.Code)
	}
	return line
}

// Converged says whether the host is what the newest release says, and nothing stands against it.
func (s Status) Converged() bool {
	return s.Settled() && s.Phase != PhaseOverruled && s.Phase != PhaseTesting
}

// Settled says whether nothing is to be done and nothing stands against it: the host is what the newest release says, or what somebody
// chose or tries instead.
func (s Status) Settled() bool {
	// A tip that cannot be verified, or that we are not let in to see, is a release that is not followed; a remote that is away
	// may come back.
	f := s.Remote.Failure
	unverified := f != nil && (f.Stage == Verify || f.Code == CodeKey || f.Code == CodeUnauthorized)
	return s.Refused == nil && s.Failure == nil && !unverified && (s.Phase == PhaseIdle || s.Phase == PhaseManual || s.Phase == PhaseOverruled || s.Phase == PhaseTesting) && (s.Reboot == nil || s.Reboot.Failure == nil)
}

// Healthy says whether the host runs a confirmed system and nothing is being done to it. It is of a
// host that holds a bad release, too: it runs the previous one.
func (s Status) Healthy() bool {
	if s.Active == nil || s.Phase == PhaseStaging || s.Phase == PhaseActivating {
		return false
	}
	failed := s.Last != nil && s.Last.Result == RollbackFailed && s.Failure != nil
	return !failed && s.Systems.Current == s.Active.OutPath
}

// Stuck says whether somebody is needed: what the host is about does not end by itself.
func (s Status) Stuck() bool {
	return s.Refused != nil || s.Phase == PhaseHeld || s.Phase == PhaseReboot || s.Phase == PhaseOverruled || s.Phase == PhaseTesting ||
		s.Phase == PhaseManual && s.Failure != nil || s.Phase == PhaseWaiting && s.Wait != nil && s.Wait.For == ForConfirm
}

// Results are all results, in the order of their constants.
var Results = []Result{Committed, Tested, RolledBack, NotActivated, RebootNeeded, RollbackFailed}

// Visible is text without what would do something to a terminal, but for the control characters in keep: what hosts, committers and logs say is theirs.
func Visible(text, keep string) string {
	return strings.Map(func(r rune) rune {
		if !strings.ContainsRune(keep, r) && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return -1
		}
		return r
	}, text)
}
