package notify

import (
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Host says what is wrong on a host, as far as it said, and a hub saw.
func (l Limits) Host(s fleet.Status, now time.Time) []Condition {
	h := hostFacts{limits: l, Status: s, now: now}
	if s.Seen != nil {
		if s.Seen.Gone {
			return nil // what becomes of a host that no release names any more is nobody's business
		}
		if s.Seen.Silent != nil {
			h.silent()
			// How long something has been going on is not known of a host that says nothing; what it said last still is.
			h.now = s.At
		}
	}
	if s.Phase == fleet.PhaseUnheard {
		return h.found
	}
	h.deployment()
	h.refused()
	h.remote()
	h.drift()
	h.reboot()
	h.push()
	h.clock()
	h.found = append(h.found, l.credentials(s.Host, s.Credentials, h.now)...)
	h.found = append(h.found, l.disks(s.Host, s.Disks, h.now)...)
	return h.found
}

// hostFacts is one look at a host.
type hostFacts struct {
	limits Limits
	fleet.Status
	now   time.Time
	found []Condition
}

// add completes a condition of this host; what tells conditions of its kind apart goes into the key.
func (h *hostFacts) add(c Condition, apart ...string) {
	c.Host = h.Host
	c.Key = key(c.Kind, append([]string{h.Host}, apart...)...)
	if c.Commands == nil {
		c.Commands = h.limits.commands(c.Kind, about{host: h.Host, release: c.Release, failed: h.Failure})
	}
	h.found = append(h.found, c)
}

func (h *hostFacts) silent() {
	c := Condition{Kind: fleet.AlertSilent, Severity: fleet.Critical, Since: *h.Seen.Silent, Cause: "silent", Of: "say nothing"}
	c.What = fmt.Sprintf("%s says nothing since %s", h.Host, clock(h.Seen.At))
	if h.Seen.At.IsZero() {
		c.What, c.Cause, c.Of = h.Host+" has never reported", "unheard", "have never reported"
	}
	if h.Failure != nil {
		c.Detail = "The last that it said was of a failure: " + detail(h.Failure)
	}
	h.add(c)
}

// deployment is a release that this host will not have by itself, or tries for long. While a newer one is on its way, what became of the last still counts.
func (h *hostFacts) deployment() {
	release, failure, how := "", h.Failure, ""
	last := h.Last
	if last != nil && h.Active != nil && last.Release.Number > 0 && h.Active.Release.Number > last.Release.Number {
		last = nil // the host has had a newer one since, which was the system that it ran already
	}
	switch {
	case h.Phase == fleet.PhaseHeld && h.Target != nil:
		release, how = h.Target.Release.Name(), "holds"
		if last != nil && last.Release.Number == h.Target.Release.Number && (last.Result == fleet.RolledBack || last.Result == fleet.RollbackFailed) {
			how = string(last.Result)
		}
	case last != nil && last.Result == fleet.RollbackFailed && !h.well():
		release, how = last.Release.Name(), string(last.Result)
	case last != nil && last.Result == fleet.RolledBack && !h.well():
		release, how = last.Release.Name(), string(last.Result)
	case last != nil && last.Result == fleet.NotActivated && last.Failure != nil && last.Failure.Class == fleet.Bad && !h.well():
		release, how = last.Release.Name(), "holds"
	case (h.Phase == fleet.PhaseRetrying || h.Phase == fleet.PhaseStaging && h.Attempt > 0) && h.Target != nil:
		if h.now.Sub(h.Target.At) >= h.limits.Retrying {
			c := Condition{Kind: fleet.AlertRetrying, Severity: fleet.Warning, Release: h.Target.Release.Name(), Since: h.Target.At, Detail: detail(failure)}
			c.What = fmt.Sprintf("%s tries %s since %s, and fails%s", h.Host, c.Release, clock(h.Target.At), coded(failure))
			c.Cause, c.Of = c.Release+codeOf(failure), "try "+c.Release+" again and again, and fail"+coded(failure)
			h.add(c, c.Release)
		}
		return
	default:
		return
	}
	if failure == nil && h.Last != nil {
		failure = h.Last.Failure
	}
	c := Condition{Kind: fleet.AlertDeployment, Severity: fleet.Critical, Release: release, Since: h.Since, Detail: detail(failure), Cause: release}
	if h.Last != nil && h.Last.Release.Name() == release {
		c.Since = h.Last.EndedAt
	}
	if _, isRelease := fleet.TagNumber(release); !isRelease {
		c.Severity = fleet.Warning // a test release, or what an operator chose
	}
	switch how {
	case string(fleet.RolledBack):
		c.What = fmt.Sprintf("%s rolled %s back%s", h.Host, release, coded(failure))
	case string(fleet.RollbackFailed):
		c.What = fmt.Sprintf("%s runs neither %s nor the system before whole%s", h.Host, release, coded(failure))
	default:
		c.What = fmt.Sprintf("%s holds %s%s", h.Host, release, coded(failure))
	}
	c.Of = "have not got " + release + ", and will not by themselves"
	h.add(c, release)
}

// well says whether the host has what somebody wants of it, whatever became of its last deployment.
func (h *hostFacts) well() bool {
	switch h.Phase {
	case fleet.PhaseIdle, fleet.PhaseManual, fleet.PhaseOverruled, fleet.PhaseTesting, fleet.PhaseReboot, fleet.PhaseNew:
		return h.Failure == nil
	}
	return false
}

func (h *hostFacts) refused() {
	if h.Refused == nil {
		return
	}
	f := &h.Refused.Failure
	c := Condition{Kind: fleet.AlertRefused, Severity: fleet.Critical, Since: h.Refused.Since, Detail: detail(f), Cause: h.Refused.Tip + codeOf(f)}
	c.What = fmt.Sprintf("%s does not accept what the release branch points at, %s%s", h.Host, short(h.Refused.Tip), coded(f))
	c.Of = fmt.Sprintf("do not accept what the release branch points at, %s%s", short(h.Refused.Tip), coded(f))
	c.Commands = h.limits.commands(c.Kind, about{host: h.Host, tip: short(h.Refused.Tip)})
	h.add(c, short(h.Refused.Tip))
}

// remote is a way to git that is not open.
func (h *hostFacts) remote() {
	refused := false
	for _, r := range h.Remotes {
		if refuses(r.Failure) && h.now.Sub(r.Since) >= h.limits.Refused {
			refused = true
			h.denied("git remote "+r.Name, r.Contact)
		}
	}
	f := h.Remote.Failure
	if f == nil || refused {
		return
	}
	lasts := h.now.Sub(h.Remote.Since)
	switch {
	case refuses(f) && lasts >= h.limits.Refused:
		h.denied("git", h.Remote)
	case lasts >= h.limits.Fetch:
		c := Condition{Kind: fleet.AlertFetch, Severity: fleet.Warning, Since: h.Remote.Since, Detail: detail(f), Cause: string(f.Code), Of: "do not reach git" + coded(f)}
		c.What = fmt.Sprintf("%s does not reach git since %s%s", h.Host, clock(h.Remote.Since), coded(f))
		h.add(c)
	}
}

// clock is one that is off: by how much may change from one look to the next, but not that it is.
func (h *hostFacts) clock() {
	off := time.Duration(h.ClockOffSeconds * float64(time.Second)).Round(time.Minute)
	if off == 0 {
		return
	}
	h.add(Condition{Kind: fleet.AlertClock, Severity: fleet.Warning, Since: h.now, What: fmt.Sprintf("%s: its clock is off by %s", h.Host, off), Cause: "clock", Of: "have a clock that is off"})
}

// denied is a credential that is not taken, or not there.
func (h *hostFacts) denied(to string, c fleet.Contact) {
	h.add(Condition{Kind: fleet.AlertCredential, Severity: fleet.Critical, Since: c.Since, Detail: detail(c.Failure), Cause: "refused " + to,
		What: fmt.Sprintf("%s: its credential for %s is refused%s", h.Host, to, coded(c.Failure)), Of: "have their credential for " + to + " refused"}, to)
}

func (h *hostFacts) drift() {
	if !h.Drift {
		return
	}
	since := h.Since
	if h.Drifted != nil {
		since = h.Drifted.Since
	}
	h.add(Condition{Kind: fleet.AlertDrift, Severity: fleet.Warning, Since: since, What: h.Host + " runs what somebody switched to by hand", Detail: h.Systems.Current,
		Cause: "drift", Of: "run what somebody switched to by hand"})
}

func (h *hostFacts) reboot() {
	if h.Reboot == nil || h.Reboot.Failure == nil {
		return
	}
	f, what := h.Reboot.Failure, "could not be rebooted"
	if h.Reboot.Tried {
		what = "is not well after its reboot"
	}
	since := h.Since
	if h.Reboot.At != nil {
		since = *h.Reboot.At
	}
	h.add(Condition{Kind: fleet.AlertReboot, Severity: fleet.Critical, Since: since, Detail: detail(f), What: h.Host + " " + what + coded(f), Cause: what, Of: "are not well after a reboot, or could not be"})
}

func (h *hostFacts) push() {
	f := h.Push.Failure
	if f == nil || h.Pushing == 0 {
		return
	}
	lasts := h.now.Sub(h.Push.Since)
	switch {
	case refuses(f) && lasts >= h.limits.Refused:
		h.denied("the cache", h.Push)
	case lasts >= h.limits.Push:
		c := Condition{Kind: fleet.AlertPush, Severity: fleet.Warning, Since: h.Push.Since, Detail: detail(f), Cause: string(f.Code), Of: "cannot push what they built" + coded(f)}
		c.What = fmt.Sprintf("%s: what it built does not get into the cache since %s%s", h.Host, clock(h.Push.Since), coded(f))
		h.add(c)
	}
}

func codeOf(f *fleet.Failure) string {
	if f == nil {
		return ""
	}
	return " " + string(f.Code)
}

func coded(f *fleet.Failure) string {
	if f == nil || f.Code == "" {
		return ""
	}
	return ": " + string(f.Code)
}
