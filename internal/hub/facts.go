package hub

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// What a roll-out is decided of: what git has, and what hosts and drills told.

// mostReleases is how many of the newest releases a roll-out looks at, beside those that rings have.
const mostReleases = 100

// DrillsLooked is how many of the newest drills say whether the fleet was drilled, and what is wrong.
const DrillsLooked = 20

// facts gathers all of them. An error is that the store, or git here, cannot be read.
func (c *Controller) facts(ctx context.Context) (rollout.Facts, error) {
	f := rollout.Facts{Now: time.Now().UTC(), Branch: c.Branch, Ledger: c.page.Ledger, Silent: c.Silent, Heard: c.Hub.Started(), Tips: map[fleet.Step]int{}, Releases: map[int]*fleet.Manifest{}}
	if err := c.ofGit(ctx, &f); err != nil {
		return f, err
	}
	drills, err := c.Hub.Store.Drills(ctx, DrillsLooked)
	if err != nil {
		return f, err
	}
	f.Drilled = drilledAt(drills, f.Newest)
	return f, c.ofHosts(ctx, &f)
}

// drilledAt is when the newest drill of the fleet ended; zero when there is none, or the last one of any of its hosts failed. What was drilled in a
// sandbox, or is no host of the release any more, says nothing of this fleet.
func drilledAt(newestFirst []fleet.DrillReport, newest *fleet.Manifest) (at time.Time) {
	if newest == nil {
		return at
	}
	seen := map[string]bool{}
	for _, d := range newestFirst {
		if _, ours := newest.Hosts[d.Host]; d.Where != "live" || !ours || seen[d.Host] {
			continue
		}
		if !d.Passed {
			return time.Time{}
		}
		seen[d.Host] = true
		if at.IsZero() {
			at = d.EndedAt
		}
	}
	return at
}

// ofGit reads the releases that the page's branches point at, and those that rings may be given.
func (c *Controller) ofGit(ctx context.Context, f *rollout.Facts) (err error) {
	if f.Newest, err = c.releaseAt(ctx, c.page.Newest); err != nil || f.Newest == nil {
		return err
	}
	c.misled = nil
	f.Releases[f.Newest.Number] = f.Newest
	oldest := f.Newest.Number
	for _, s := range f.Newest.Steps() {
		branch := fleet.RingBranch(c.Branch, s.Ring, s.Batch)
		tip := c.page.Rings[branch]
		if tip == "" {
			continue
		}
		m, err := c.releaseAt(ctx, tip)
		if err != nil {
			return err
		}
		if m == nil {
			c.misled = fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "the branch %s points at %.12s, which is no release that may be believed", branch, tip).
				WithHint("somebody else wrote to it; put it back to a release: git push --force origin release-N^{}:refs/heads/%s", branch)
			continue
		}
		f.Tips[s], f.Releases[m.Number] = m.Number, m
		oldest = min(oldest, m.Number)
	}
	numbers := []int{}
	for name := range c.page.Tags {
		if n, ok := fleet.TagNumber(name); ok && n > oldest && n < f.Newest.Number && f.Releases[n] == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers[max(0, len(numbers)-mostReleases):] {
		m, err := c.release(ctx, fleet.TagName(n))
		if err != nil {
			return err
		}
		if m != nil {
			f.Releases[n] = m
		}
	}
	c.forget(f)
	return nil
}

// releaseAt is the newest release whose tag leads to a commit; nil where there is none that may be believed.
func (c *Controller) releaseAt(ctx context.Context, commit string) (*fleet.Manifest, error) {
	for _, n := range ledger.Numbers(c.page.Tags, commit) {
		if m, err := c.release(ctx, fleet.TagName(n)); err != nil || m != nil {
			return m, err
		}
	}
	return nil, nil
}

// release is what a tag says; nil if it may not be believed. What a tag object says does not change, so it is read once.
func (c *Controller) release(ctx context.Context, name string) (*fleet.Manifest, error) {
	id := c.page.Tags[name].ID
	if m, known := c.releases[id]; known {
		return m, nil
	}
	m, _, err := ledger.Book{Repo: c.Repo, Release: c.Branch}.Manifest(ctx, c.page, name, c.Signers)
	switch {
	case err == nil:
		c.releases[id] = m
		return m, nil
	case fleet.ClassOf(err) != fleet.Bad:
		return nil, err
	}
	c.Log.Debug("passing over a tag", "tag", name, "err", err)
	c.releases[id] = nil // until git is looked at again: it may be the signers that change
	return nil, nil
}

// forget drops the releases that are of no use any more.
func (c *Controller) forget(f *rollout.Facts) {
	if len(c.releases) <= 2*len(f.Releases)+mostReleases {
		return
	}
	for id, m := range c.releases {
		if m == nil || f.Releases[m.Number] != m {
			delete(c.releases, id)
		}
	}
}

// ofHosts reads what hosts told.
func (c *Controller) ofHosts(ctx context.Context, f *rollout.Facts) error {
	list, err := c.Hub.Hosts(ctx)
	if err != nil || f.Newest == nil {
		return err
	}
	outcomes, err := c.outcomes(ctx, slices.Sorted(maps.Keys(f.Releases)))
	if err != nil {
		return err
	}
	f.Hosts = make(map[string]*rollout.Host, len(list))
	for _, s := range list {
		f.Hosts[s.Host] = &rollout.Host{Status: s}
	}
	for _, o := range outcomes {
		h := f.Hosts[o.Host]
		if h == nil {
			continue // it was forgotten meanwhile
		}
		switch m := f.Releases[o.Release]; {
		case o.has() && m != nil && m.Hosts[o.Host].OutPath != "":
			h.Took = append(h.Took, rollout.Took{Release: o.Release, OutPath: m.Hosts[o.Host].OutPath, At: o.EndedAt})
		case o.failed():
			h.Faults = append(h.Faults, rollout.Fault{Release: o.Release, At: o.EndedAt, Why: whyOf(o)})
		}
	}
	for _, h := range f.Hosts { // what a host has it says before it tells how it came to that
		a := h.Status.Active
		if a == nil || a.Release.Number < 1 || slices.ContainsFunc(h.Took, func(t rollout.Took) bool { return t.Release == a.Release.Number && t.OutPath == a.OutPath }) {
			continue
		}
		h.Took = append(h.Took, rollout.Took{Release: a.Release.Number, OutPath: a.OutPath, At: a.At})
	}
	return nil
}

// outcomes are those of releases, which are given in order, as they ended. A ring that is far behind is no reason to read those of all between.
func (c *Controller) outcomes(ctx context.Context, releases []int) (list []Outcome, err error) {
	for i := 0; i < len(releases); {
		first, last := releases[i], releases[i]
		for i++; i < len(releases) && releases[i] == last+1; i++ {
			last++
		}
		some, err := c.Hub.Store.Outcomes(ctx, time.Time{}, first, last)
		if err != nil {
			return nil, err
		}
		list = append(list, some...)
	}
	slices.SortStableFunc(list, func(a, b Outcome) int { return a.EndedAt.Compare(b.EndedAt) })
	return list, nil
}
