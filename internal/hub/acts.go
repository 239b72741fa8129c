package hub

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// What happens in a roll-out, as events. They follow from the ledger and from how the rings stand, so that a hub that died before it told of something does
// so when it is back, and nothing is told twice.

// actsNoted are the events that the store has, as far as this hub knows.
type actsNoted struct {
	since time.Time // what was before is nobody's news
	known map[string]bool
}

// named is an act and what tells it from others.
type namedAct struct {
	id string
	fleet.RolloutAct
	follows time.Time // the last act in the ledger that it follows from; zero: it is one, or of now
}

// note keeps as events what was not told before. c.mu is held.
func (c *Controller) note(ctx context.Context, v fleet.Rollout) error {
	n := &c.events
	if n.known == nil {
		last, err := c.Hub.Store.Events(ctx, []string{fleet.EventRollout}, -1, 1)
		if err != nil {
			return err
		}
		n.known, n.since = map[string]bool{}, c.Hub.Started()
		if len(last) > 0 && last[0].Time.Before(n.since) {
			n.since = last[0].Time
		}
	}
	if c.broken != nil {
		return nil
	}
	acts := append(c.ledgerActs(), viewActs(c.page.Ledger, v)...)
	slices.SortStableFunc(acts, func(a, b namedAct) int { return a.At.Compare(b.At) })
	for _, a := range acts {
		if n.known[a.id] || news(a).Before(n.since.Truncate(time.Second)) {
			continue
		}
		a.Schema, a.Reason = fleet.StatusSchema, cut(a.Reason)
		e, err := fleet.NewEvent(fleet.EventRollout, "/rollout", a.id, cmp.Or(a.Ring, "rollout"), a.At, a.RolloutAct)
		if err := c.Hub.note(ctx, []fleet.Event{e}, err); err != nil {
			return err
		}
		n.known[a.id] = true
	}
	return nil
}

// news is when an act became something to tell.
func news(a namedAct) time.Time {
	if a.follows.IsZero() {
		return a.At
	}
	return a.follows
}

// ledgerActs are what the ledger tells of.
func (c *Controller) ledgerActs() (acts []namedAct) {
	l := c.page.Ledger
	add := func(act string, at time.Time, a fleet.RolloutAct) {
		a.Act, a.At = act, at
		acts = append(acts, namedAct{fmt.Sprintf("%s-%s.%d-%d-%d", act, a.Ring, a.Batch, a.Release, at.UnixNano()), a, time.Time{}})
	}
	for branch, given := range l.Promotions {
		s := ringOf(c.Branch, branch)
		for _, p := range given {
			add(fleet.RolloutPromoted, p.At, fleet.RolloutAct{By: p.By, Ring: s.Ring, Batch: s.Batch, Release: p.Release, Reason: p.Reason})
		}
	}
	order := func(act string, o *fleet.RolloutOrder) {
		if o != nil {
			add(act, o.At, fleet.RolloutAct{By: o.By, Ring: o.Ring, Release: o.Release, To: o.To, Reason: o.Reason, Until: o.Until})
		}
	}
	order(fleet.RolloutPaused, l.Paused)
	order(fleet.RolloutFrozen, l.Freeze)
	order(fleet.RolloutUnfrozen, l.Unfrozen)
	order(fleet.RolloutResumed, l.Resumed)
	order(fleet.RolloutAborted, l.Aborted)
	for _, o := range l.Approved {
		order(fleet.RolloutApproved, &o)
	}
	reboots := map[time.Time][]string{}
	for host, p := range l.Reboots {
		reboots[p.At] = append(reboots[p.At], host)
	}
	for at, hosts := range reboots {
		slices.Sort(hosts)
		add(fleet.RolloutRebooting, at, fleet.RolloutAct{By: hubActor, Hosts: hosts[:min(len(hosts), fleet.MaxNamed)]})
	}
	return acts
}

// viewActs are what follows from how the rings stand: that hosts stopped one, and that all have the newest release.
func viewActs(l fleet.Ledger, v fleet.Rollout) (acts []namedAct) {
	resumed, last := int64(0), time.Time{}
	if l.Resumed != nil {
		resumed = l.Resumed.At.UnixNano()
	}
	for _, r := range v.Rings {
		if r.State != fleet.RolloutStopped || r.Failed.Count+r.Silent.Count == 0 {
			continue
		}
		hosts := slices.Concat(r.Failed.Names, r.Silent.Names)
		acts = append(acts, namedAct{fmt.Sprintf("%s-%s-%d-%d", fleet.RolloutPaused, r.Name, r.Offered, resumed),
			fleet.RolloutAct{Act: fleet.RolloutPaused, At: v.At, Ring: r.Name, Release: r.Offered, Reason: r.Reason, Hosts: hosts[:min(len(hosts), fleet.MaxNamed)]}, time.Time{}})
	}
	for _, given := range l.Promotions {
		for _, p := range given {
			if p.Release == v.Release && p.At.After(last) {
				last = p.At
			}
		}
	}
	if v.State == fleet.RolloutDone && len(v.Rings) > 0 && !last.IsZero() {
		acts = append(acts, namedAct{fmt.Sprintf("%s-%d", fleet.RolloutComplete, v.Release), fleet.RolloutAct{Act: fleet.RolloutComplete, At: v.At, Release: v.Release}, last})
	}
	return acts
}
