package hub

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// What becomes of decisions and orders: an act each, in git.

// hubActor is who promotes, in the ledger.
const hubActor = "hub"

// acceptedRef is the ledger's last commit that was gone by.
const acceptedRef = "refs/garrison/published/rollout"

// hinders is why this hub gives nothing to anybody, whatever may be given; nil for nothing.
func (c *Controller) hinders() error {
	switch {
	case c.broken != nil:
		return c.broken
	case c.misled != nil:
		return c.misled
	case !c.Moves:
		return fleet.Errorf(fleet.Local, fleet.CodeNotNow, "this hub gives no ring a release: it was not said that it may").
			WithHint("set [rollout] enable = true, where what lets it in to the repository may push; or garrison promote from a clone")
	}
	return nil
}

// entry is the act that a decision comes to; nil for none.
func (c *Controller) entry(d rollout.Decision, f rollout.Facts) *ledger.Entry {
	e := &ledger.Entry{By: "Garrison's hub <" + git.Address + ">", Ledger: c.page.Ledger}
	var said, why []string
	for _, m := range d.Moves {
		if m.To == m.From || f.Releases[m.To] == nil {
			continue
		}
		c.move(e, m.Step, m.To)
		e.Ledger.Promoted(fleet.RingBranch(c.Branch, m.Ring, m.Batch), fleet.Promotion{Release: m.To, At: f.Now, By: hubActor, Reason: m.Reason})
		said = append(said, fmt.Sprintf("%s to %s", fleet.TagName(m.To), stepName(m.Step)))
		why = append(why, stepName(m.Step)+": "+m.Reason)
	}
	if !maps.Equal(d.Permits, c.page.Ledger.Reboots) {
		var to []string
		for _, host := range slices.Sorted(maps.Keys(d.Permits)) {
			if d.Permits[host] != c.page.Ledger.Reboots[host] {
				to = append(to, host)
			}
		}
		if e.Ledger.Reboots = d.Permits; len(to) > 0 {
			said = append(said, strings.Join(to, ", ")+" may reboot")
		} else {
			said = append(said, "reboots are over")
		}
	}
	if len(said) == 0 {
		return nil
	}
	e.Summary, e.Reason = strings.Join(said, "; "), strings.Join(why, "\n")
	return e
}

func stepName(s fleet.Step) string {
	if s.Batch > 1 {
		return fmt.Sprintf("%s (batch %d)", s.Ring, s.Batch)
	}
	return s.Ring
}

// move has an entry move a step's branch to a release.
func (c *Controller) move(e *ledger.Entry, s fleet.Step, release int) {
	branch := fleet.RingBranch(c.Branch, s.Ring, s.Batch)
	e.Advances = append(e.Advances, ledger.Advance{Branch: branch, From: c.page.Rings[branch], To: c.page.Tags[fleet.TagName(release)].Commit})
}

// trusted says why the ledger of a page is not gone by: somebody wrote it anew, and did not say since that it goes on. The second error is git's, here.
func (c *Controller) trusted(ctx context.Context, p ledger.Page) (broken, err error) {
	accepted, known, err := c.Repo.Resolve(ctx, acceptedRef)
	if err != nil || !known {
		return nil, c.keepAccepted(ctx)
	}
	switch goesOn, err := c.follows(ctx, p.Tip, accepted); {
	case err != nil:
		return nil, err
	case goesOn:
		return nil, c.keepAccepted(ctx)
	}
	resumed, err := c.resumedIn(ctx, accepted)
	if err != nil {
		return nil, err
	}
	if r := p.Ledger.Resumed; r != nil && r.At.After(resumed) { // an older one was put back with the rest
		return nil, c.keepAccepted(ctx)
	}
	return fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "somebody wrote the branch %s anew: what it says of pauses, freezes and promotions may be wrong", fleet.RolloutBranch(c.Branch)).
		WithHint("put it back: git push --force origin %s:refs/heads/%s (in a clone that has it, or the hub's repo.git); or let it go on as it is: garrison rollout resume --reason …", accepted[:12], fleet.RolloutBranch(c.Branch)), nil
}

// follows says whether a commit of the ledger comes after another one.
func (c *Controller) follows(ctx context.Context, tip, after string) (bool, error) {
	if tip == "" || tip == after {
		return tip == after, nil
	}
	return c.Repo.IsAncestor(ctx, after, tip)
}

// resumedIn is when somebody last resumed, as a commit of the ledger says; zero where it says nothing.
func (c *Controller) resumedIn(ctx context.Context, commit string) (time.Time, error) {
	text, there, err := c.Repo.ReadFile(ctx, commit, fleet.LedgerPath)
	if err != nil || !there {
		return time.Time{}, err
	}
	if l, err := fleet.ParseLedger(text); err == nil && l.Resumed != nil {
		return l.Resumed.At, nil
	}
	return time.Time{}, nil
}

// keepAccepted notes that the ledger is gone by as it is.
func (c *Controller) keepAccepted(ctx context.Context) error {
	if c.page.Tip == "" {
		return nil
	}
	return c.Repo.UpdateRef(ctx, acceptedRef, c.page.Tip)
}

// abort has somebody make the release that an abort asks for, while there is none.
func (c *Controller) abort(ctx context.Context, f rollout.Facts) error {
	o := rollout.ToMake(f.Ledger)
	if o == nil || f.Newest == nil || f.Newest.Number > o.Release || c.Abort == nil || c.broken != nil {
		return nil
	}
	m, err := c.release(ctx, fleet.TagName(o.To))
	if err == nil && m != nil {
		c.Abort(*o, m.Source)
	}
	return err
}

// Order implements Roller.
func (c *Controller) Order(ctx context.Context, by string, o fleet.RolloutCommand) (fleet.Rollout, error) {
	if !c.concerned() {
		_, err := rollout.Carry(o, by, rollout.Standing{Newest: c.Hub.Newest(), Now: time.Now()})
		return fleet.Rollout{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.Moves {
		return fleet.Rollout{}, c.hinders()
	}
	b, err := c.book()
	if err != nil {
		return fleet.Rollout{}, err
	}
	var done *ledger.Entry
	p, err := b.Change(ctx, func(p ledger.Page) (*ledger.Entry, error) {
		c.turn(p)
		done, err = c.ordered(ctx, by, o)
		return done, err
	})
	if err != nil {
		c.stale = true
		return fleet.Rollout{}, err
	}
	c.turn(p)
	if done != nil {
		c.Log.Info("the roll-out was changed by an order", "act", done.Summary, "reason", done.Reason)
		c.tell(*done, done.Ledger.Reboots)
	}
	c.stale = true // what is there is held against what was gone by
	if _, err := c.step(ctx); err != nil {
		c.Changed() // and is said there
	}
	return c.last(), nil
}

// ordered is the act that somebody's order comes to on the page; nil when it is so already.
func (c *Controller) ordered(ctx context.Context, by string, o fleet.RolloutCommand) (*ledger.Entry, error) {
	f := rollout.Facts{Tips: map[fleet.Step]int{}, Releases: map[int]*fleet.Manifest{}}
	if err := c.ofGit(ctx, &f); err != nil {
		return nil, err
	}
	for _, n := range []int{o.Release, o.To, rollout.LastGood(cmp.Or(f.Newest, &fleet.Manifest{}), c.page.Ledger, c.Branch)} { // an older one may be meant
		if _, there := c.page.Tags[fleet.TagName(n)]; there && f.Releases[n] == nil {
			m, err := c.release(ctx, fleet.TagName(n))
			if err != nil {
				return nil, err
			}
			f.Releases[n] = m
		}
	}
	s := rollout.Standing{Branch: c.Branch, Newest: f.Newest, Tips: f.Tips, Ledger: c.page.Ledger, Now: time.Now().UTC(), Releases: map[int]bool{}}
	for n, m := range f.Releases {
		s.Releases[n] = m != nil
	}
	a, err := rollout.Carry(o, by, s)
	if err != nil || a.Summary == "" || orderedBefore(c.page.Ledger, o, a.Order) {
		return nil, err
	}
	e := &ledger.Entry{By: by + " <" + git.Address + ">", Summary: a.Summary, Reason: a.Order.Reason, Ledger: a.Ledger}
	for _, m := range a.Moves {
		c.move(e, m.Step, m.To)
	}
	return e, nil
}

// orderedBefore says whether an order is told again, because its answer was lost.
func orderedBefore(l fleet.Ledger, c fleet.RolloutCommand, o fleet.RolloutOrder) bool {
	same := func(was *fleet.RolloutOrder) bool {
		return was != nil && was.By == o.By && was.Reason == o.Reason && was.Release == o.Release && was.To == o.To && was.AtOnce == o.AtOnce && o.At.Sub(was.At) < time.Minute
	}
	switch c.Act {
	case fleet.RolloutPause:
		return same(l.Paused)
	case fleet.RolloutResume:
		return l.Paused == nil && same(l.Resumed)
	case fleet.RolloutFreeze:
		return same(l.Freeze) && l.Freeze.Until != nil && l.Freeze.Until.Equal(*o.Until)
	case fleet.RolloutPromote:
		return !c.Force && rollout.Approved(l, o.Ring, o.Release)
	case fleet.RolloutAbort:
		return same(l.Aborted)
	}
	return false
}
