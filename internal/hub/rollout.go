package hub

import (
	"fmt"
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
	at := map[standing][]string{}
	for host, e := range m.Hosts {
		s := known[host]
		where, why := standingOf(s, m, e)
		if where > done && now.Sub(later(expected(s), m.CreatedAt)) > silent {
			where, why = away, ""
		}
		if why != "" {
			host += " (" + why + ")"
		}
		at[where] = append(at[where], host)
	}
	all := len(m.Hosts)
	r := forge.Status{Context: RolloutContext, State: forge.Pending}
	parts := []string{fmt.Sprintf("%d of %d hosts", len(at[done]), all)}
	switch {
	case len(at[failed]) > 0:
		r.State = forge.Failure
	case len(at[done]) == all:
		r.State = forge.Success
		parts[0] = fmt.Sprintf("all %d hosts", all)
		if all == 1 {
			parts[0] = "its one host"
		}
	}
	for _, kind := range []standing{failed, away, needsSomebody, retrying} {
		if list := at[kind]; len(list) > 0 {
			slices.Sort(list)
			parts = append(parts, kind.String()+": "+few(list))
		}
	}
	r.Text = m.Name() + ": " + strings.Join(parts, "; ")
	return r
}

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
)

func (s standing) String() string {
	return [...]string{failed: "failed", done: "done", underWay: "under way", needsSomebody: "waits", retrying: "retrying", away: "silent"}[s]
}

// standingOf says where a host is with release m, which has e for it, and in a word why.
func standingOf(s fleet.Status, m *fleet.Manifest, e fleet.Entry) (standing, string) {
	switch {
	case s.Newest == nil || s.Newest.Number < m.Number:
		if s.Refused != nil {
			return failed, "refused, " + string(s.Refused.Failure.Code)
		}
		if f := s.Remote.Failure; f != nil && s.At.After(m.CreatedAt) {
			return retrying, string(f.Code)
		}
		return underWay, ""
	case s.Phase == fleet.PhaseHeld || s.Last != nil && s.Last.Result == fleet.RollbackFailed && s.Failure != nil:
		return failed, whyFailed(s)
	case s.Drift:
		return needsSomebody, "drift"
	case s.Phase == fleet.PhaseIdle && s.Failure == nil && s.Active != nil && s.Active.OutPath == e.OutPath:
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
