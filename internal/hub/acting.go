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

// acceptedRef is the ledger's last commit that was gone by; rewrittenRef one that does not descend from it.
const (
	acceptedRef  = "refs/garrison/published/rollout"
	rewrittenRef = "refs/garrison/published/rollout-rewritten"
)

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
		c.give(e, m.Step, m.To, fleet.Promotion{Release: m.To, At: f.Now, By: hubActor, Reason: m.Reason})
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
		said = append(said, cmp.Or(strings.Join(to, ", ")+" may reboot", "reboots are done"))
		if len(to) == 0 {
			said[len(said)-1] = "reboots are done"
		}
		e.Ledger.Reboots = d.Permits
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

// give has an entry give a step a release.
func (c *Controller) give(e *ledger.Entry, s fleet.Step, release int, p fleet.Promotion) {
	branch := fleet.RingBranch(c.Branch, s.Ring, s.Batch)
	e.Advances = append(e.Advances, ledger.Advance{Branch: branch, From: c.page.Rings[branch], To: c.page.Tags[fleet.TagName(release)].Commit})
	e.Ledger.Promoted(branch, p)
}

// trusted says why the ledger of a page is not gone by: somebody wrote it anew, and did not say since that it goes on. The second error is git's, here.
func (c *Controller) trusted(ctx context.Context, p ledger.Page) (broken, err error) {
	accepted, known, err := c.Repo.Resolve(ctx, acceptedRef)
	if err != nil || !known {
		return nil, c.keepAccepted(ctx)
	}
	from := accepted
	rewritten, again, err := c.Repo.Resolve(ctx, rewrittenRef)
	if err != nil {
		return nil, err
	}
	switch goesOn, err := c.follows(ctx, p.Tip, accepted); {
	case err != nil:
		return nil, err
	case goesOn:
		return nil, c.keepAccepted(ctx)
	}
	if again {
		from = rewritten
	}
	resumed, err := c.resumedIn(ctx, from)
	if err != nil {
		return nil, err
	}
	if r := p.Ledger.Resumed; r != nil && !r.At.Equal(resumed) {
		return nil, c.keepAccepted(ctx)
	}
	if err := c.Repo.UpdateRef(ctx, rewrittenRef, cmp.Or(p.Tip, accepted)); err != nil {
		return nil, err
	}
	return fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "somebody wrote the branch %s anew: what it says of pauses, freezes and promotions may be wrong", fleet.RolloutBranch(c.Branch)).
		WithHint("put it back: git push --force origin %s:refs/heads/%s (in a clone that has it, or the hub's repo.git); or let it go on as it is: garrison resume --reason …", accepted[:12], fleet.RolloutBranch(c.Branch)), nil
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
	return c.Repo.UpdateRefs(ctx, map[string]string{acceptedRef: c.page.Tip, rewrittenRef: ""})
}

// abort has somebody make the release that an abort asks for, while there is none.
func (c *Controller) abort(f rollout.Facts) {
	if o := rollout.ToMake(f.Ledger); o != nil && f.Newest != nil && f.Newest.Number <= o.Release && c.Abort != nil && c.broken == nil {
		c.Abort(*o)
	}
}

// Order implements Roller.
func (c *Controller) Order(ctx context.Context, by string, o fleet.RolloutCommand) (fleet.Rollout, error) {
	if !c.Moves {
		return fleet.Rollout{}, c.hinders()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
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
		if err := c.wrote(ctx, *done); err != nil {
			c.Log.Error("what was ordered is done, and cannot be noted here", "err", err)
		}
	}
	c.known = false // so that what is there is held against what was gone by
	if _, err := c.step(ctx); err != nil {
		c.Changed() // and is said there
	}
	return c.last(), nil
}

// ordered is the act that somebody's order comes to on the page; nil when it is so already.
func (c *Controller) ordered(ctx context.Context, by string, o fleet.RolloutCommand) (*ledger.Entry, error) {
	newest, err := c.releaseAt(ctx, c.page.Newest)
	if err != nil {
		return nil, err
	}
	if newest == nil || len(newest.Rings) == 0 {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeNotNow, "the fleet has no rings: every host has each release at once").WithHint("garrison.toml declares rings (docs/ROLLOUT.md)")
	}
	at := fleet.RolloutOrder{By: by, At: time.Now().UTC().Truncate(time.Second), Reason: strings.TrimSpace(o.Reason), Ring: o.Ring, Release: o.Release, Until: o.Until, To: o.To, AtOnce: o.AtOnce}
	e := &ledger.Entry{By: by + " <" + git.Address + ">", Reason: at.Reason, Summary: o.Act}
	l := c.page.Ledger
	switch o.Act {
	case fleet.RolloutPromote:
		if err := c.orderedTo(newest, &at); err != nil {
			return nil, err
		}
		if m, err := c.release(ctx, fleet.TagName(at.Release)); err != nil || m == nil {
			return nil, cmp.Or(err, error(fleet.Errorf(fleet.Local, fleet.CodeNotFound, "there is no %s that may be believed", fleet.TagName(at.Release))))
		}
		e.Summary = fmt.Sprintf("promote %s to %s", fleet.TagName(at.Release), at.Ring)
	case fleet.RolloutAbort:
		at.Release = cmp.Or(at.Release, newest.Number)
		at.To = cmp.Or(at.To, rollout.LastGood(newest, l, c.Branch))
		e.Summary = fmt.Sprintf("abort %s: back to %s", fleet.TagName(at.Release), fleet.TagName(at.To))
	case fleet.RolloutPause, fleet.RolloutResume:
		at.Release = cmp.Or(at.Release, newest.Number)
		e.Summary = o.Act + " " + fleet.TagName(at.Release)
	case fleet.RolloutFreeze:
		e.Summary = "freeze"
		if at.Until != nil {
			e.Summary += " until " + at.Until.UTC().Format(time.RFC3339)
		}
	}
	if orderedBefore(l, o, at) {
		return nil, nil
	}
	if e.Ledger, err = rollout.Ordered(l, o.Act, at); err != nil {
		return nil, err
	}
	if o.Act == fleet.RolloutPromote && o.Force {
		c.force(e, newest, at)
	}
	return e, nil
}

// orderedTo completes which release is promoted, and says whether it can be.
func (c *Controller) orderedTo(newest *fleet.Manifest, o *fleet.RolloutOrder) error {
	i := slices.IndexFunc(newest.Rings, func(r fleet.Ring) bool { return r.Name == o.Ring })
	if i < 0 {
		var names []string
		for _, r := range newest.Rings {
			names = append(names, r.Name)
		}
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "there is no ring %s", o.Ring).WithHint("there are %s", strings.Join(names, ", "))
	}
	if v := c.last(); o.Release == 0 && i < len(v.Rings) && v.Rings[i].Name == o.Ring {
		o.Release = v.Rings[i].Candidate
	}
	o.Release = cmp.Or(o.Release, newest.Number)
	if o.Release > newest.Number {
		return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "there is no %s: the newest is %s", fleet.TagName(o.Release), newest.Name())
	}
	return nil
}

// force has an entry give the release to the ring at once, and to those before it that have an older one.
func (c *Controller) force(e *ledger.Entry, newest *fleet.Manifest, o fleet.RolloutOrder) {
	to := c.page.Tags[fleet.TagName(o.Release)].Commit
	for _, s := range newest.Steps() {
		branch := fleet.RingBranch(c.Branch, s.Ring, s.Batch)
		has := 0
		for _, p := range e.Ledger.Promotions[branch] {
			has = max(has, p.Release)
		}
		if c.page.Rings[branch] != to && has < o.Release {
			c.give(e, s, o.Release, fleet.Promotion{Release: o.Release, At: o.At, By: o.By, Reason: o.Reason})
		}
		if s.Ring == o.Ring && s.Batch == ringBatches(newest, s.Ring) {
			return
		}
	}
}

func ringBatches(m *fleet.Manifest, ring string) int {
	for _, r := range m.Rings {
		if r.Name == ring {
			return r.Batches
		}
	}
	return 0
}

// orderedBefore says whether an order asks for what is so already: it was told again, as its answer was lost, or somebody else said the same.
func orderedBefore(l fleet.Ledger, c fleet.RolloutCommand, o fleet.RolloutOrder) bool {
	same := func(was *fleet.RolloutOrder) bool {
		return was != nil && was.By == o.By && was.Reason == o.Reason && was.Release == o.Release && o.At.Sub(was.At) < time.Minute
	}
	switch c.Act {
	case fleet.RolloutPause:
		return same(l.Paused)
	case fleet.RolloutResume:
		return l.Paused == nil && same(l.Resumed)
	case fleet.RolloutFreeze:
		return same(l.Freeze) && l.Freeze.Until != nil && o.Until != nil && l.Freeze.Until.Equal(*o.Until)
	case fleet.RolloutPromote:
		return !c.Force && rollout.Approved(l, o.Ring, o.Release)
	case fleet.RolloutAbort:
		return l.Aborted != nil && l.Aborted.Release == o.Release && l.Aborted.To == o.To && l.Aborted.AtOnce == o.AtOnce
	}
	return false
}
