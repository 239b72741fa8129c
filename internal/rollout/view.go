package rollout

import (
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// patience is how long a step may take, beside soak times and windows, before the roll-out is late; dayPatience how long people may.
const (
	patience    = time.Hour
	dayPatience = day
)

// view says all that is to be said after the moves.
func (p *plan) view(rebooting [][]string) fleet.Rollout {
	m := p.Newest
	v := fleet.Rollout{Schema: fleet.StatusSchema, At: p.Now, Release: m.Number, Commit: m.Source.Commit, Subject: m.Source.Subject,
		State: fleet.RolloutDone, LastGood: LastGood(m, p.Ledger, p.Branch), Rings: make([]fleet.RolloutRing, 0, len(p.rings)), Paused: p.Ledger.Paused}
	if Frozen(p.Ledger, p.Now) {
		v.Freeze = p.Ledger.Freeze
		if v.Freeze.Until != nil {
			p.clock(*v.Freeze.Until)
		}
	}
	var late time.Time
	for i, r := range p.rings {
		ring := p.viewRing(r, &late)
		ring.Rebooting = rebooting[i]
		for m := range r.members() {
			if _, may := p.Ledger.Reboots[m.name]; r.Reboots > 0 && !may && m.toReboot() && !contains(rebooting[i], m.name) {
				ring.ToReboot.Add(m.name)
			}
		}
		v.Rings = append(v.Rings, ring)
		if graver(ring.State, v.State) {
			v.State, v.Reason = ring.State, "ring "+r.Name+": "+ring.Reason
		}
	}
	if !late.IsZero() {
		if late = late.UTC(); late.After(p.Now) {
			p.clock(late)
		} else {
			v.LateSince = &late
		}
	}
	if !p.next.IsZero() {
		next := p.next.UTC()
		v.Next = &next
	}
	return v
}

// graver says whether a ring's state says more of the whole than that of the rings before it. The first ring that is stopped does, then the first that is
// under way, and so on.
func graver(a, b fleet.RolloutState) bool {
	order := map[fleet.RolloutState]int{fleet.RolloutStopped: 4, fleet.RolloutRolling: 3, fleet.RolloutSoaking: 2, fleet.RolloutWaiting: 1}
	return order[a] > order[b]
}

// viewRing says what is to be said of one ring; late becomes when the first thing in it was to be over.
func (p *plan) viewRing(r *ring, late *time.Time) fleet.RolloutRing {
	first, last := r.steps[0], r.steps[len(r.steps)-1]
	v := fleet.RolloutRing{Ring: r.Ring, Offered: first.tip, Release: last.tip}
	for _, s := range r.steps {
		v.Hosts += len(s.members)
		if s.tip > 0 && s.tip >= first.tip {
			v.Batch++
		}
	}
	if v.Candidate = first.offer; first.gate != nil {
		v.Approve = first.gate.approve
		if first.gate.window {
			opens := first.gate.until.UTC()
			v.Opens = &opens
		}
	}
	var on verdict
	if p.Releases[first.tip] != nil {
		on = p.judge(r, first.tip, len(r.steps), p.over(r))
		v.Done, v.Failed, v.Silent, v.Away, v.Pending = on.done, on.failed, on.silent, on.away, on.pending
	}
	v.State, v.Reason = p.stateOf(r, &on, &v)
	p.lateness(r, &on, v.State, late)
	return v
}

// over says whether nothing waits for the ring any more: the next one has what it was given, or it is the last and has been given it wholly.
func (p *plan) over(r *ring) bool {
	if r.index < len(p.rings)-1 {
		return p.rings[r.index+1].steps[0].tip >= r.steps[0].tip
	}
	for _, s := range r.steps {
		if s.tip < r.steps[0].tip {
			return false
		}
	}
	return true
}

// stateOf is a ring's state, and in words why it is in that.
func (p *plan) stateOf(r *ring, on *verdict, v *fleet.RolloutRing) (fleet.RolloutState, string) {
	first, name := r.steps[0], fleet.TagName(on.release)
	switch {
	case on.release == 0 && first.tip > 0:
		return p.waiting(r, fmt.Sprintf("has %s, which is not known here", fleet.TagName(first.tip)))
	case on.release == 0:
		return p.waiting(r, "has no release yet")
	case on.failed.Count > r.Failures || on.silent.Count > 0 && (r.index == len(p.rings)-1 || !p.over(r)):
		return fleet.RolloutStopped, "paused: " + p.troubles(r, on)
	case on.ungiven:
		return p.between(r, on, v)
	case on.pending.Count > 0:
		return fleet.RolloutRolling, p.progress(on)
	case on.done.Count == 0:
		return fleet.RolloutWaiting, p.empty(r, on)
	}
	if until := p.soakUntil(r, on); r.index < len(p.rings)-1 && !p.aborted(on.release) && p.rings[r.index+1].steps[0].tip < on.release {
		if p.Now.Before(until) {
			p.clock(until)
			u := until.UTC()
			v.SoakUntil = &u
			return fleet.RolloutSoaking, fmt.Sprintf("soaks %s until %s (%s left)", name, p.moment(until, r), span(until.Sub(p.Now)))
		}
		if on.heard.Before(until) {
			return fleet.RolloutSoaking, fmt.Sprintf("soaked %s until %s; waits until all hosts have said since that they are well", name, p.moment(until, r))
		}
	}
	if first.tip >= p.Newest.Number && !p.aborted(first.tip) {
		return fleet.RolloutDone, "has " + name + p.lacking(on)
	}
	return p.waiting(r, "has "+name+p.lacking(on))
}

// between is of a ring of which some batches were given what the first one was.
func (p *plan) between(r *ring, on *verdict, v *fleet.RolloutRing) (fleet.RolloutState, string) {
	text := fmt.Sprintf("batch %d of %d: %s", v.Batch, len(r.steps), p.progress(on))
	for _, s := range r.steps[1:] {
		if s.gate != nil && s.offer >= on.release {
			return s.gate.state, text + "; " + s.gate.reason
		}
	}
	return fleet.RolloutRolling, text
}

// waiting is of a ring that is through with what it has.
func (p *plan) waiting(r *ring, has string) (fleet.RolloutState, string) {
	switch s := r.steps[0]; {
	case s.gate != nil:
		return s.gate.state, has + "; " + fleet.TagName(s.offer) + ": " + s.gate.reason
	case p.aborted(p.Newest.Number):
		o := p.Ledger.Aborted
		return fleet.RolloutWaiting, fmt.Sprintf("%s; %s was aborted%s: waits for a release of what %s has", has, fleet.TagName(o.Release), ordered(o), fleet.TagName(o.To))
	case r.index > 0:
		return fleet.RolloutWaiting, has + "; waits for ring " + p.rings[r.index-1].Name
	}
	return fleet.RolloutWaiting, has
}

// empty is why a ring passes nothing though nobody is waited for.
func (p *plan) empty(r *ring, on *verdict) string {
	name := fleet.TagName(on.release)
	what := fmt.Sprintf("none of its hosts has %s%s", name, p.lacking(on))
	switch {
	case r.count() == 0:
		what = "it has no hosts"
	case on.hosts == 0:
		what = name + " has none of its hosts"
	}
	if r.index == len(p.rings)-1 {
		return what
	}
	next := p.rings[r.index+1].Name
	return fmt.Sprintf("%s, so %s does not go to ring %s, unless by garrison promote --force --to %s %s --reason …", what, name, next, next, name)
}

func (r *ring) count() (n int) {
	for _, s := range r.steps {
		n += len(s.members)
	}
	return n
}

// lateness notes when a ring that is not done was to be.
func (p *plan) lateness(r *ring, on *verdict, state fleet.RolloutState, late *time.Time) {
	first := r.steps[0]
	switch {
	case first.gate != nil && first.gate.approve:
		from := p.Releases[first.offer].CreatedAt
		if first.before != nil {
			v := p.judge(first.before.ring, first.offer, first.before.Batch, false)
			from = later(p.soakUntil(first.before.ring, &v), p.givenAt(first.before, first.offer))
		}
		*late = earlier(*late, from.Add(dayPatience))
	case state == fleet.RolloutRolling, state == fleet.RolloutWaiting && on.release > 0 && on.done.Count == 0:
		var from time.Time // when the last of its steps was given it
		waits := on.pending.Count == 0
		for _, s := range r.steps {
			if s.tip < on.release {
				continue
			}
			given := p.givenAt(s, on.release)
			from = later(from, given)
			for _, m := range s.members {
				if e, named := p.Releases[on.release].Hosts[m.name]; named && !waits && !m.bides() {
					c, _ := p.classify(m, e, on.release, given)
					waits = c == pending
				}
			}
		}
		if waits {
			*late = earlier(*late, from.Add(patience))
		}
	}
}

// bides says whether the host waits for a window of its own, or its turn to reboot: that explains what it takes.
func (m *member) bides() bool {
	s := &m.Status
	return s.Phase == fleet.PhaseWaiting && s.Wait != nil && s.Wait.For == fleet.ForWindow || s.Phase == fleet.PhaseReboot && m.toReboot()
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
