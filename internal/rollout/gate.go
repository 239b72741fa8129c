package rollout

import (
	"fmt"
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

// MayBegin says whether the first step may be given a release now that is about to be published, as far as a publisher knows: it hears of no drills.
// If not, why, in words: a hub, or a person, gives it to the step later.
func MayBegin(m *fleet.Manifest, l fleet.Ledger, now time.Time) (why string, ok bool) {
	if len(m.Rings) == 0 {
		return "", true
	}
	if o := l.Aborted; o != nil && o.AtOnce && m.Number > o.Release && m.RollbackTo == o.To && !stopped(&l, now, o.At) {
		return "", true
	}
	p := &plan{Facts: Facts{Now: now, Ledger: l}}
	if g := p.gateOf(&ring{Ring: m.Rings[0]}, m.Number); g != nil {
		return g.reason, false
	}
	return "", true
}

// stopped says whether somebody ordered after a time that nothing is promoted, and that is in force.
func stopped(l *fleet.Ledger, now, after time.Time) bool {
	return l.Paused != nil && l.Paused.At.After(after) || frozen(l, now) && l.Freeze.At.After(after)
}

// frozen says whether a freeze is in force.
func frozen(l *fleet.Ledger, now time.Time) bool {
	return l.Freeze != nil && (l.Freeze.Until == nil || now.Before(*l.Freeze.Until))
}

// gateOf is what keeps a ring from being given release n now; nil for nothing.
func (p *plan) gateOf(r *ring, n int) *gate {
	l := &p.Ledger
	switch {
	case l.Paused != nil:
		return &gate{state: fleet.RolloutStopped, reason: "paused" + ordered(l.Paused)}
	case frozen(l, p.Now):
		g := &gate{state: fleet.RolloutWaiting, reason: "frozen" + ordered(l.Freeze)}
		if l.Freeze.Until != nil {
			g.until = *l.Freeze.Until
			g.reason = "frozen until " + p.moment(g.until, r) + ordered(l.Freeze)
		}
		return g
	case r.Manual && !p.approved(r, n):
		return &gate{state: fleet.RolloutWaiting, approve: true, reason: "waits for somebody to say: garrison promote --to " + r.Name + " " + fleet.TagName(n)}
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

func (p *plan) approved(r *ring, n int) bool {
	for _, o := range p.Ledger.Approved {
		if o.Ring == r.Name && o.Release == n {
			return true
		}
	}
	return false
}

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
