package fleet

import (
	"fmt"
	"strings"
	"time"
)

// The words of a roll-out, for terminals, the page and whoever is told: where it is, why, for how long yet, and what to type about it. Why a ring is in its state is said by
// who decides it (RolloutRing.Reason).

// Left is how long something lasts yet, in the two units that matter: "1 h 12 min", "4 min 9 s". The page's script counts down in the same words.
func Left(d time.Duration) string {
	s := int64(max(0, d+time.Second-1) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 48*3600:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d days %d h", s/86400, s%86400/3600)
}

// Counts is until when the clock alone keeps the ring where it is; nil when something else does.
func (r RolloutRing) Counts() *time.Time {
	switch {
	case r.State == RolloutSoaking:
		return r.SoakUntil
	case r.State == RolloutWaiting && !r.Approve:
		return r.Opens
	}
	return nil
}

// Lasting is why the ring is in its state, in words that stay true until something happens: no countdown.
func (r RolloutRing) Lasting() string {
	switch {
	case r.State == RolloutSoaking && r.SoakUntil != nil:
		return fmt.Sprintf("soaks %s until %s", TagName(r.Offered), Moment(*r.SoakUntil))
	case r.Reason == "":
		return string(r.State)
	}
	return r.Reason
}

// Said is Lasting with a countdown, as of now.
func (r RolloutRing) Said(now time.Time) string {
	said := r.Lasting()
	until := r.Counts()
	switch {
	case until == nil:
		return said
	case !now.Before(*until) && r.State == RolloutSoaking:
		return said + ": over, decided in a moment"
	case !now.Before(*until):
		return said + ": that is now"
	}
	return said + ": " + Left(until.Sub(now)) + " left"
}

// Share is how many of the ring's hosts have what it was given last: "3 of 5"; "5" where nothing is known of any.
func (r RolloutRing) Share() string {
	if r.Offered == 0 || r.Done.Count+r.Failed.Count+r.Silent.Count+r.Away.Count+r.Pending.Count == 0 {
		return fmt.Sprint(r.Hosts)
	}
	return fmt.Sprintf("%d of %d", r.Done.Count, r.Hosts)
}

// Has names the release that the ring was given last: "release-42", "release-42, batch 2 of 4", "none".
func (r RolloutRing) Has() string {
	switch {
	case r.Offered == 0:
		return "none"
	case r.Batches > 1 && r.Batch < r.Batches:
		return fmt.Sprintf("%s, batch %d of %d", TagName(r.Offered), r.Batch, r.Batches)
	}
	return TagName(r.Offered)
}

// Asked is what must hold before or after the ring has a release, as garrison.toml says, in a few words each.
func (r Ring) Asked() (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if r.Manual {
		add("by a person's word")
	}
	if r.DrillDays > 0 {
		add("after a drill of at most %d days", r.DrillDays)
	}
	if len(r.Windows) > 0 {
		zone := r.Zone
		if zone == "" {
			zone = "UTC"
		}
		add("in %s (%s)", strings.Join(r.Windows, ", "), zone)
	}
	if r.Batches > 1 {
		add("in %d batches", r.Batches)
	}
	if r.SoakSeconds > 0 {
		add("soaks %s", span(time.Duration(r.SoakSeconds)*time.Second))
	}
	if r.Failures > 0 {
		add("%d may fail", r.Failures)
	}
	if r.Reboots > 0 {
		add("%d reboot at a time", r.Reboots)
	}
	return list
}

// span is a duration that somebody declared: whole units.
func span(d time.Duration) string {
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= u.of && d%u.of == 0 {
			return fmt.Sprintf("%d %s", d/u.of, u.name)
		}
	}
	return Left(d)
}

// Some names hosts, and how many more there are; "" for none.
func (n Named) Some(most int) string {
	names := n.Names[:min(len(n.Names), most)]
	text := strings.Join(names, ", ")
	switch more := n.Count - len(names); {
	case n.Count == 0:
		return ""
	case len(names) == 0:
		return fmt.Sprintf("%d hosts", n.Count)
	case more > 0:
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Group is some hosts of a ring that are alike.
type Group struct {
	Standing string // in a word
	Named
}

// Groups are the hosts of the ring that have not simply what it was given: who failed first, those under way last.
func (r RolloutRing) Groups() (list []Group) {
	for _, g := range []Group{
		{"failed", r.Failed}, {"silent", r.Silent}, {"under way", r.Pending}, {"away", r.Away},
		{"reboots", Named{len(r.Rebooting), r.Rebooting}}, {"waits to reboot", r.ToReboot},
	} {
		if g.Count > 0 {
			list = append(list, g)
		}
	}
	return list
}

// Title says where the roll-out is, in a line without its reasons.
func (v Rollout) Title() string {
	name, at := TagName(v.Release), 0
	for i, r := range v.Rings {
		if r.State != RolloutDone {
			at = i + 1
			break
		}
	}
	switch {
	case v.Release == 0:
		return "no release is known"
	case len(v.Rings) == 0:
		return name + " goes to all hosts at once: the fleet has no rings"
	case v.State == RolloutDone:
		if len(v.Rings) == 1 {
			return "the one ring has " + name
		}
		return fmt.Sprintf("all %d rings have %s", len(v.Rings), name)
	case v.Paused != nil:
		return name + " is paused"
	}
	of := fmt.Sprintf("ring %d of %d, %s", at, len(v.Rings), v.Rings[max(0, at-1)].Name)
	switch v.State {
	case RolloutStopped:
		return name + " is paused"
	case RolloutSoaking:
		return name + " soaks: " + of
	case RolloutWaiting:
		return name + " waits: " + of
	}
	return name + " is on its way: " + of
}

// RolloutLate says what a roll-out does that is late.
const RolloutLate = "takes longer than its soak times and windows explain"

// RingStops says what a release does that a ring stopped.
func RingStops(release, ring string) string { return release + " goes no further than ring " + ring }

// Notes say what concerns the roll-out as a whole: who paused or froze it, what hinders the hub, that it is late.
func (v Rollout) Notes() (list []string) {
	if o := v.Paused; o != nil {
		list = append(list, "paused since "+Moment(o.At)+byAndWhy(*o))
	}
	if o := v.Freeze; o != nil && o.Until != nil {
		list = append(list, "frozen until "+Moment(*o.Until)+byAndWhy(*o))
	}
	if f := v.Trouble; f != nil {
		line := "no ring is given a release: " + FirstLine(f.Message)
		if f.Hint != "" {
			line += " (" + FirstLine(f.Hint) + ")"
		}
		list = append(list, line)
	}
	if v.LateSince != nil {
		list = append(list, RolloutLate+", since "+Moment(*v.LateSince))
	}
	return list
}

func byAndWhy(o RolloutOrder) string {
	text := ""
	if o.By != "" {
		text = " by " + o.By
	}
	if o.Reason != "" {
		text += ": " + FirstLine(o.Reason)
	}
	return text
}

// Commands are the next to type about a roll-out that waits for somebody; none where nobody is needed.
func (v Rollout) Commands() (list []string) {
	hosts := map[string]bool{}
	failed, silent := false, false
	for _, r := range v.Rings {
		if r.State != RolloutStopped {
			continue
		}
		for _, n := range []Named{r.Failed, r.Silent} {
			if len(n.Names) > 0 && len(hosts) < 3 && !hosts[n.Names[0]] {
				hosts[n.Names[0]] = true
				list = append(list, "garrison explain "+n.Names[0])
			}
		}
		failed, silent = failed || r.Failed.Count > 0, silent || r.Silent.Count > 0
	}
	switch {
	case v.Paused != nil:
		list = append(list, rolloutCommand(RolloutResume, "", 0))
	case failed || silent:
		list = append(list, rolloutCommand(RolloutResume, "", 0)+" (to go on in spite of that)", rolloutCommand(RolloutAbort, "", 0)+" (to go back)")
	}
	if v.Freeze != nil {
		list = append(list, rolloutCommand(RolloutUnfreeze, "", 0)+" (to end the freeze now)")
	}
	for _, r := range v.Rings {
		if r.Approve {
			list = append(list, rolloutCommand(RolloutPromote, r.Name, r.Candidate))
		}
	}
	return list
}

// rolloutCommand is how an act is ordered at a terminal.
func rolloutCommand(act, ring string, release int) string {
	text := "garrison rollout " + act
	if act == RolloutPromote {
		text = "garrison " + act // which has a place of its own
	}
	if ring != "" {
		text += " --to " + ring
	}
	if release > 0 {
		text += " " + TagName(release)
	}
	return text + " --reason WHY"
}

// Awaits says in a sentence what keeps a host of that ring from release, and when it gets it; "" when its ring has it, or is not known.
func (v Rollout) Awaits(ring string, batch, release int) string {
	for i, r := range v.Rings {
		if r.Name != ring {
			continue
		}
		switch {
		case r.Offered >= release && batch <= r.Batch:
			return ""
		case r.Offered >= release:
			return fmt.Sprintf("Batches of ring %s get %s one after the other, and this host's, %d of %d, is not there yet: %s.", ring, TagName(release), batch, r.Batches, strings.TrimSuffix(r.Lasting(), "."))
		case r.Candidate >= release && r.Reason != "", i == 0:
			return fmt.Sprintf("Its ring, %s, is not given %s yet: %s.", ring, TagName(release), strings.TrimSuffix(r.Lasting(), "."))
		}
		for k := i - 1; k >= 0; k-- { // the one that it is at
			if b := v.Rings[k]; b.Offered >= release || k == 0 {
				return fmt.Sprintf("Its ring, %s, is given %s after ring %s, which comes first: %s.", ring, TagName(release), b.Name, strings.TrimSuffix(b.Lasting(), "."))
			}
		}
	}
	return ""
}
