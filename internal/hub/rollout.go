package hub

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// RolloutContext is the name under which a release's commit shows how many hosts have it.
const RolloutContext = "garrison/rollout"

// Rollout says how far a release has come on the hosts that follow it: those that it makes manual are left out. It is a failure as soon as
// one host says that it will not have this release by itself, a success when all have it. A host that has not, and was not heard of for
// as long as silent, is named.
func Rollout(m *fleet.Manifest, hosts []fleet.Status, now time.Time, silent time.Duration) forge.Status {
	known := map[string]fleet.Status{}
	for _, s := range hosts {
		known[s.Host] = s
	}
	at := stood{}
	for host, e := range m.Hosts {
		s := known[host]
		where, why := standingOf(s, m.Number, m.CreatedAt, e.OutPath)
		if where > done && now.Sub(later(expected(s), m.CreatedAt)) > silent {
			where, why = away, ""
		}
		at.add(where, host, why)
	}
	state, text := at.text(len(m.Hosts))
	return forge.Status{Context: RolloutContext, State: state, Text: m.Name() + ": " + text}
}

// stood are the hosts of a release by where they are with it.
type stood map[standing][]string

func (at stood) add(where standing, host, why string) {
	if why != "" {
		host += " (" + why + ")"
	}
	at[where] = append(at[where], host)
}

// text says in a line how far a release is that so many hosts follow.
func (at stood) text(all int) (forge.State, string) {
	state := forge.Pending
	parts := []string{fmt.Sprintf("%d of %d hosts", len(at[done]), all)}
	switch {
	case len(at[failed]) > 0:
		state = forge.Failure
	case len(at[done]) == all:
		state = forge.Success
		parts[0] = fmt.Sprintf("all %d hosts", all)
		if all == 1 {
			parts[0] = "its one host"
		}
	}
	return state, strings.Join(append(parts, at.wanting()...), "; ")
}

// wanting names the hosts that somebody may have to look after.
func (at stood) wanting() (parts []string) {
	for _, kind := range []standing{failed, away, needsSomebody, retrying} {
		if list := at[kind]; len(list) > 0 {
			slices.Sort(list)
			parts = append(parts, kind.String()+": "+few(list))
		}
	}
	if n := len(at[itsTurn]); n > 0 {
		parts = append(parts, fmt.Sprintf("%d until their ring is given it", n))
	}
	return parts
}

// RingContext is the beginning of the name under which a release's commit shows how it stands in a ring, whose name follows.
const RingContext = "garrison/ring/"

// ringStatus says how a release stands in a ring: a success once the ring is through with it, a failure when it goes no further there.
func ringStatus(r fleet.RolloutRing, release int) forge.Status {
	s := forge.Status{Context: RingContext + r.Name, State: forge.Pending, Text: fleet.TagName(release) + ": " + cmp.Or(ringText.ReplaceAllString(r.Reason, ""), string(r.State))}
	switch {
	case r.State == fleet.RolloutStopped:
		s.State = forge.Failure
	case r.State == fleet.RolloutDone && r.Release >= release:
		s.State = forge.Success
	}
	return s
}

// ringText is what of a ring's reason changes by the minute.
var ringText = regexp.MustCompile(` \([^()]* left\)`)

// Superseded is what becomes of a rollout that had not come to its end when the next release came.
func Superseded(last forge.Status, by string) forge.Status {
	last.State = forge.Success // nothing is wrong with it, and nobody waits for it any more
	last.Text = "superseded by " + by + "; until then " + last.Text
	return last
}

// standing is where a host is with a release, as far as it said.
type standing int

const (
	failed standing = iota
	done
	underWay
	needsSomebody
	retrying
	away
	itsTurn // has not come: its ring is given it later
)

func (s standing) String() string {
	return [...]string{failed: "failed", done: "done", underWay: "under way", needsSomebody: "waits", retrying: "retrying", away: "silent", itsTurn: "waits"}[s]
}

// standingOf says where a host is with the newest release, and in a word why. system is what that has for the host; "" where that is not known, and the host's word is taken.
func standingOf(s fleet.Status, release int, created time.Time, system string) (standing, string) {
	switch {
	case s.Newest == nil || s.Newest.Number < release:
		if s.Refused != nil {
			return failed, "refused, " + string(s.Refused.Failure.Code)
		}
		if f := s.Remote.Failure; f != nil && s.At.After(created) {
			return retrying, string(f.Code)
		}
		if a := s.Ahead; a != nil && a.Release.Number >= release {
			return itsTurn, fleet.WaitsForRing
		}
		return underWay, ""
	case s.Phase == fleet.PhaseHeld || s.Last != nil && s.Last.Result == fleet.RollbackFailed && s.Failure != nil:
		return failed, whyFailed(s)
	case s.Drift:
		return needsSomebody, "drift"
	case s.Phase == fleet.PhaseIdle && s.Failure == nil && s.Active != nil && (system == "" || s.Active.OutPath == system):
		return done, ""
	case s.Phase == fleet.PhaseReboot:
		return needsSomebody, "reboot"
	case s.Phase == fleet.PhaseWaiting && s.Wait != nil:
		return needsSomebody, string(s.Wait.For)
	case s.Phase == fleet.PhaseOverruled, s.Phase == fleet.PhaseTesting, s.Phase == fleet.PhaseManual:
		return needsSomebody, string(s.Phase)
	case s.Phase == fleet.PhaseRetrying:
		return retrying, whyFailed(s)
	}
	return underWay, ""
}

func whyFailed(s fleet.Status) string {
	var why []string
	if s.Last != nil && s.Newest != nil && s.Last.Release.Number == s.Newest.Number && s.Last.Result != fleet.Committed {
		why = append(why, string(s.Last.Result))
	}
	if s.Failure != nil {
		why = append(why, string(s.Failure.Code))
	}
	return strings.Join(why, ", ")
}

// few names the first of a list.
func few(list []string) string {
	const most = 3
	if more := len(list) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), more)
	}
	return strings.Join(list, ", ")
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
