package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// moment is a time as people near the ring's hosts say it.
func (p *plan) moment(t time.Time, r *ring) string {
	zone := time.UTC
	if r.Zone != "" {
		zone = r.open().zone
	}
	t, now := t.In(zone), p.Now.In(zone)
	switch days := t.Sub(now); {
	case t.YearDay() == now.YearDay() && t.Year() == now.Year():
		return t.Format("15:04 MST")
	case days.Abs() < 6*day:
		return t.Format("Mon 15:04 MST")
	case days.Abs() < 300*day:
		return t.Format("2 Jan 15:04 MST")
	}
	return t.Format("2 Jan 2006 15:04 MST")
}

// span is a duration in words: the two largest units, rounded up to minutes.
func span(d time.Duration) string {
	minutes := int64((d + time.Minute - 1) / time.Minute)
	days, hours, rest := minutes/(24*60), minutes/60%24, minutes%60
	part := func(big int64, unit string, small int64, of string) string {
		if small == 0 {
			return fmt.Sprintf("%d %s", big, unit)
		}
		return fmt.Sprintf("%d %s %d %s", big, unit, small, of)
	}
	switch {
	case days > 0:
		return part(days, "d", hours, "h")
	case hours > 0:
		return part(hours, "h", rest, "min")
	}
	return fmt.Sprintf("%d min", rest)
}

// ordered is who ordered it and why, to follow what was.
func ordered(o *fleet.RolloutOrder) string {
	text := ""
	if o.By != "" {
		text = " by " + o.By
	}
	if o.Reason != "" {
		text += ": " + oneLine(o.Reason)
	}
	return text
}

// troubles says who stopped a ring, and why.
func (p *plan) troubles(r *ring, v *verdict) string {
	var list []string
	for _, m := range v.gone {
		list = append(list, p.trouble(m, v.release))
	}
	if more := v.failed.Count + v.silent.Count - len(v.gone); more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	text := strings.Join(list, "; ")
	if r.Failures > 0 && v.failed.Count > r.Failures {
		text += fmt.Sprintf(" (%d failed, %d may)", v.failed.Count, r.Failures)
	}
	return text
}

// trouble says what is with a host that failed with a release, or is silent.
func (p *plan) trouble(m *member, n int) string {
	name, s := fleet.TagName(n), &m.Status
	e := p.Releases[n].Hosts[m.name]
	if _, failed := m.failure(n, e.OutPath); !failed {
		if s.Refused != nil && m.heard == fresh {
			return fmt.Sprintf("%s refuses %s: %s", m.name, name, oneLine(s.Refused.Failure.Message))
		}
		return fmt.Sprintf("%s was given %s and is silent since %s", m.name, name, p.moment(m.last, &ring{}))
	}
	verb, why := "failed with", ""
	for _, f := range m.Faults {
		if f.Release == n {
			why = f.Why
		}
	}
	switch last := s.Last; {
	case s.Reboot != nil && s.Reboot.Failure != nil:
		verb, why = "is not well since it was to reboot for", s.Reboot.Failure.Message
	case last != nil && last.Release.Number == n && last.Result == fleet.RolledBack:
		verb = "was rolled back from"
	case last != nil && last.Release.Number == n && last.Result == fleet.NotActivated:
		verb = "could not activate"
	case last != nil && last.Release.Number == n && last.Result == fleet.RollbackFailed:
		verb = "was left broken by"
	case s.Phase == fleet.PhaseHeld:
		verb = "holds"
	}
	if why == "" && s.Failure != nil {
		why = s.Failure.Message
	}
	text := fmt.Sprintf("%s %s %s", m.name, verb, name)
	if why != "" {
		text += ": " + oneLine(why)
	}
	return text
}

// progress says how far a ring's hosts are with what they were given.
func (p *plan) progress(v *verdict) string {
	text := fmt.Sprintf("%d of %d hosts have %s", v.done.Count, v.hosts, fleet.TagName(v.release))
	if v.hosts == 1 {
		text = strings.Replace(text, "hosts have", "host has", 1)
	}
	text += p.lacking(v)
	if len(v.wait) == 0 {
		return text
	}
	var list []string
	for _, m := range v.wait {
		list = append(list, m.name+" "+p.doing(m, v.release))
	}
	if more := v.pending.Count - len(v.wait); more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return text + "; " + strings.Join(list, ", ")
}

// lacking says how many hosts do not have what they were given, and are not waited for.
func (p *plan) lacking(v *verdict) (text string) {
	if n := v.away.Count; n > 0 {
		text += fmt.Sprintf(", %d away", n)
	}
	if n := v.failed.Count; n > 0 {
		text += fmt.Sprintf(", %d failed", n)
	}
	return text
}

// doing says what a host that is waited for is about.
func (p *plan) doing(m *member, n int) string {
	s := &m.Status
	switch {
	case m.heard == unsure:
		return "was not heard of since the hub began to listen"
	case s.Refused != nil:
		return "refuses what git has"
	case s.Suspended != nil && p.Now.Before(s.Suspended.Until.Add(m.skew)):
		return "is suspended by " + s.Suspended.By.String()
	case s.Drift:
		return "was switched by hand"
	case s.Reboot != nil && s.Reboot.Failure != nil:
		return "is not well since it was to reboot"
	}
	switch s.Phase {
	case fleet.PhaseStaging:
		return "fetches it"
	case fleet.PhaseActivating:
		return "activates it"
	case fleet.PhaseRetrying:
		return "tries again"
	case fleet.PhaseReboot:
		return "must be rebooted"
	case fleet.PhaseTesting:
		return "tries a test release"
	case fleet.PhaseOverruled:
		return "runs what somebody chose"
	case fleet.PhaseManual:
		return "is left to a person"
	case fleet.PhaseHeld:
		return "holds another release"
	case fleet.PhaseWaiting:
		if s.Wait != nil {
			switch s.Wait.For {
			case fleet.ForConfirm:
				return "waits for a person's word"
			case fleet.ForWindow:
				return "waits for its window"
			case fleet.ForResume:
				return "is suspended"
			}
		}
		return "waits"
	}
	return "has not said that it saw it"
}

// oneLine is the beginning of a text in a line.
func oneLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	const most = 160
	if r := []rune(line); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return line
}
