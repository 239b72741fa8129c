package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"

	_ "time/tzdata" // a hub's machine need not have any
)

// gate is what keeps a ring from being given a release.
type gate struct {
	state   fleet.RolloutState
	reason  string
	until   time.Time // when it opens by the clock alone; zero: it does not
	window  bool      // that is when its window opens
	approve bool      // a person's word opens it
}

// First says whether a release may be given to its first step as it is published, by what a publisher knows of: the release, the ledger, the clock. It is told
// in a line what keeps it, "" for nothing; then a hub, or a person, gives it to the step later. A drill is looked at by a hub alone, so a ring that asks
// for one gets nothing in this way.
func First(m *fleet.Manifest, l fleet.Ledger, now time.Time) (kept string) {
	if len(m.Rings) == 0 {
		return ""
	}
	if o := l.Aborted; o != nil && o.AtOnce && (o.Made == 0 || o.Made == m.Number) && m.Number > o.Release && m.RollbackTo == o.To && !stopped(&l, now, o.At) {
		return ""
	}
	p := &plan{Facts: Facts{Now: now, Ledger: l}}
	if g := p.gateOf(&ring{Ring: m.Rings[0]}, m.Number); g != nil {
		return "ring " + m.Rings[0].Name + ": " + g.reason
	}
	return ""
}

// Frozen says whether a freeze is in force.
func Frozen(l fleet.Ledger, now time.Time) bool {
	return l.Freeze != nil && (l.Freeze.Until == nil || now.Before(*l.Freeze.Until))
}

// Approved says whether a person gave their word for that ring to get that release.
func Approved(l fleet.Ledger, ring string, release int) bool {
	return slices.ContainsFunc(l.Approved, func(o fleet.RolloutOrder) bool { return o.Ring == ring && o.Release == release })
}

// stopped says whether somebody ordered after a time that nothing is promoted, and that is in force.
func stopped(l *fleet.Ledger, now, after time.Time) bool {
	return l.Paused != nil && l.Paused.At.After(after) || Frozen(*l, now) && l.Freeze.At.After(after)
}

// gateOf is what keeps a ring from being given release n now; nil for nothing.
func (p *plan) gateOf(r *ring, n int) *gate {
	l := &p.Ledger
	switch {
	case l.Paused != nil:
		return &gate{state: fleet.RolloutStopped, reason: "paused" + ordered(l.Paused)}
	case Frozen(*l, p.Now):
		g := &gate{state: fleet.RolloutWaiting, reason: "frozen" + ordered(l.Freeze)}
		if l.Freeze.Until != nil {
			g.until = *l.Freeze.Until
			g.reason = "frozen until " + p.moment(g.until, r) + ordered(l.Freeze)
		}
		return g
	case r.Manual && !Approved(*l, r.Name, n):
		return &gate{state: fleet.RolloutWaiting, approve: true, reason: "waits for a person's word: garrison promote --to " + r.Name + " " + fleet.TagName(n) + " --reason …"}
	case r.DrillDays > 0 && !p.drilled(r):
		g := &gate{state: fleet.RolloutWaiting, reason: fmt.Sprintf("waits for a drill: none passed in the last %s", span(time.Duration(r.DrillDays)*day))}
		if !p.Drilled.IsZero() {
			g.reason += ", the last one that did ended " + p.moment(p.Drilled, r)
		}
		return g
	}
	return p.closed(r)
}

const day = 24 * time.Hour

func (p *plan) drilled(r *ring) bool {
	return !p.Drilled.IsZero() && p.Now.Sub(p.Drilled) <= time.Duration(r.DrillDays)*day
}

// hours are when a ring may be given a release.
type hours struct {
	windows deploy.Windows
	zone    *time.Location
	err     error
}

// open reads what the ring says of its windows, once.
func (r *ring) open() *hours {
	if r.hours != nil {
		return r.hours
	}
	h := &hours{}
	r.hours = h
	if h.zone, h.err = time.LoadLocation(r.Zone); h.err != nil {
		h.zone = time.UTC
		return h
	}
	for _, text := range r.Windows {
		var w deploy.Window
		if h.err = w.UnmarshalText([]byte(text)); h.err != nil {
			return h
		}
		h.windows = append(h.windows, w)
	}
	return h
}

// closed is the ring's windows, if none is open.
func (p *plan) closed(r *ring) *gate {
	if len(r.Windows) == 0 {
		return nil
	}
	h := r.open()
	switch {
	case h.err != nil:
		return &gate{state: fleet.RolloutWaiting, reason: fmt.Sprintf("its windows are not understood (%v): release again with others", h.err)}
	case h.windows.Open(p.Now, h.zone):
		return nil
	}
	g := &gate{state: fleet.RolloutWaiting, window: true, until: h.windows.Next(p.Now, h.zone)}
	g.reason = "window opens " + p.moment(g.until, r)
	return g
}
