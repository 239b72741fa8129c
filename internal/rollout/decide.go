package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// plan is a decision on its way.
type plan struct {
	Facts
	rings    []*ring
	steps    []*step
	troubled []*member // that failed with some release, wherever they are now
	moves    []Move
	next     time.Time // when the clock alone changes something
	quiet    time.Time // when the first host's silence begins to count
}

// ring is one of the newest release's, with its steps.
type ring struct {
	fleet.Ring
	index int
	steps []*step
	hours *hours // nil before they were asked for
}

// step is one, with what it was given.
type step struct {
	fleet.Step
	ring    *ring
	before  *step // nil for the first
	members []*member
	tip     int
	given   []fleet.Promotion
	offer   int   // a newer release that it could be given, but for
	gate    *gate // this
}

// Decide says what each step is given now, who may reboot, and what is to be said of it. It depends on nothing but the facts, and changes none of them.
func Decide(f Facts) Decision {
	if f.Newest == nil {
		return Decision{View: fleet.Rollout{Schema: fleet.StatusSchema, At: f.Now, State: fleet.RolloutWaiting, Reason: "no release is known", Rings: []fleet.RolloutRing{}}}
	}
	p := newPlan(f)
	for _, s := range p.steps {
		p.advance(s)
	}
	d := Decision{Moves: p.moves}
	var rebooting [][]string
	d.Permits, rebooting = p.reboots()
	d.View = p.view(rebooting)
	d.Again = earlier(p.next, p.quiet)
	return d
}

func newPlan(f Facts) *plan {
	f.Branch, f.Silent = cmp.Or(f.Branch, "release"), cmp.Or(f.Silent, 15*time.Minute)
	p := &plan{Facts: f}
	first := make(map[string]int, len(f.Newest.Rings)) // ring's first step
	for i, r := range f.Newest.Rings {
		here := &ring{Ring: r, index: i}
		p.rings, first[r.Name] = append(p.rings, here), len(p.steps)
		for b := 1; b <= r.Batches; b++ {
			s := &step{Step: fleet.Step{Ring: r.Name, Batch: b}, ring: here}
			if len(p.steps) > 0 {
				s.before = p.steps[len(p.steps)-1]
			}
			s.tip, s.given = f.Tips[s.Step], f.Ledger.Promotions[fleet.RingBranch(f.Branch, r.Name, b)]
			here.steps, p.steps = append(here.steps, s), append(p.steps, s)
		}
	}
	if len(p.rings) == 0 {
		return p
	}
	all := make([]member, 0, len(f.Newest.Hosts))
	for _, name := range slices.Sorted(maps.Keys(f.Newest.Hosts)) {
		e, h := f.Newest.Hosts[name], f.Hosts[name]
		all = append(all, p.member(name, h))
		m := &all[len(all)-1]
		at, there := first[e.Ring]
		if !there || e.Batch < 1 || e.Batch > f.Newest.Rings[p.steps[at].ring.index].Batches {
			continue // no valid manifest is like that
		}
		m.step = p.steps[at+e.Batch-1]
		m.step.members = append(m.step.members, m)
		if m.isTroubled() {
			p.troubled = append(p.troubled, m)
		}
	}
	others := len(p.troubled)
	for name, h := range f.Hosts {
		if _, there := f.Newest.Hosts[name]; there {
			continue
		}
		if m := p.member(name, h); m.isTroubled() {
			p.troubled = append(p.troubled, &m)
		}
	}
	slices.SortFunc(p.troubled[others:], func(a, b *member) int { return cmp.Compare(a.name, b.name) })
	return p
}

// advance gives the step the newest release that it may be given.
func (p *plan) advance(s *step) {
	back := p.wayBack()
	for _, n := range p.offers(s) {
		if n <= back || p.aborted(n) || p.stops(n) {
			continue
		}
		why := "published"
		if s.before != nil {
			var passed bool
			if why, passed = p.passed(s, n); !passed {
				continue
			}
		}
		g := p.gateOf(s.ring, n)
		if g == nil {
			p.give(s, n, why)
			return
		}
		if s.gate == nil {
			s.offer, s.gate = n, g
			p.clock(g.until)
		}
	}
	if s.tip < back {
		o := p.Ledger.Aborted
		p.give(s, back, fmt.Sprintf("%s aborted %s, to %s at once", o.By, fleet.TagName(o.Release), fleet.TagName(o.To)))
	}
}

func (p *plan) give(s *step, n int, why string) {
	if p.Held != "" {
		s.offer, s.gate = n, &gate{state: fleet.RolloutWaiting, reason: "is not given to it: " + p.Held}
		return
	}
	p.moves = append(p.moves, Move{Step: s.Step, From: s.tip, To: n, Reason: why})
	if s.tip = n; s.offer <= n {
		s.offer, s.gate = 0, nil
	}
	s.given = append(slices.Clip(s.given), fleet.Promotion{Release: n, At: p.Now})
}

// offers are the releases that a step could be given, newest first: those that are newer than what it has, and were published, or that the step before was given.
func (p *plan) offers(s *step) (list []int) {
	add := func(n int) {
		if p.Releases[n] != nil && n > s.tip && n <= p.Newest.Number {
			list = append(list, n)
		}
	}
	if s.before == nil {
		for n := range p.Releases {
			add(n)
		}
	} else if s.before.tip > s.tip {
		for _, g := range s.before.given {
			if g.Release <= s.before.tip { // else somebody took it back
				add(g.Release)
			}
		}
		add(s.before.tip)
	}
	slices.SortFunc(list, func(a, b int) int { return b - a })
	return slices.Compact(list)
}

// aborted says whether somebody ordered that release n goes no further.
func (p *plan) aborted(n int) bool { return Aborted(p.Ledger, n) }

// wayBack is the release that was made for an abort at once, if nobody ordered a stop since; else 0.
func (p *plan) wayBack() (way int) {
	o := p.Ledger.Aborted
	if o == nil || !o.AtOnce || stopped(&p.Ledger, p.Now, o.At) {
		return 0
	}
	switch {
	case p.Releases[o.Made] != nil:
		return o.Made
	case o.Made != 0: // all steps have a newer one
		return 0
	}
	for n, m := range p.Releases {
		if m != nil && n > o.Release && n <= p.Newest.Number && m.RollbackTo == o.To && (way == 0 || n < way) {
			way = n
		}
	}
	return way
}

// passed says whether release n passed what is before the step, and in words what that was.
func (p *plan) passed(s *step, n int) (string, bool) {
	r := s.before.ring
	v := p.judge(r, n, s.before.Batch, false)
	if s.Batch > 1 {
		return fmt.Sprintf("passed batch %d", s.before.Batch), p.holds(r, &v)
	}
	if !p.holds(r, &v) || v.ungiven || v.done.Count == 0 {
		return "", false
	}
	until := p.soakUntil(r, &v)
	p.clock(until)
	why := "passed ring " + r.Name
	if r.SoakSeconds > 0 {
		why += ", soaked " + span(r.soak())
	}
	return why, !p.Now.Before(until) && !v.heard.Before(until)
}

// holds says whether nothing speaks against what was judged.
func (p *plan) holds(r *ring, v *verdict) bool {
	return v.failed.Count <= r.Failures && v.silent.Count == 0 && v.pending.Count == 0
}

// soakUntil is when what was judged has soaked, if all stays well.
func (p *plan) soakUntil(r *ring, v *verdict) time.Time { return v.since.Add(r.soak()) }

func (r *ring) soak() time.Duration { return time.Duration(r.SoakSeconds) * time.Second }

// givenAt is when a step was given release n, or a newer one: at the earliest when n was made.
func (p *plan) givenAt(s *step, n int) time.Time {
	var at time.Time
	for _, g := range s.given {
		if g.Release >= n && (at.IsZero() || g.At.Before(at)) {
			at = g.At
		}
	}
	if at.IsZero() {
		at = p.Releases[n].CreatedAt
	}
	return at
}

// clock notes that something changes at that time.
func (p *plan) clock(at time.Time) {
	if at.After(p.Now) {
		p.next = earlier(p.next, at)
	}
}

// earlier is the one of two times that comes first; zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
