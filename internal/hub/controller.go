package hub

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// ControllerOptions are what a Controller needs.
type ControllerOptions struct {
	Hub    *Hub
	Repo   *git.Repo
	Remote func() (git.Remote, error) // where the rings' branches are, with what lets us in, read anew each time
	Branch string                     // of releases
	// Moves says that this hub moves them; else it only shows how the roll-out stands.
	Moves   bool
	Signers string // file with the keys that may sign releases
	Silent  time.Duration
	Moved   func(tips map[string]string) // is told of what was moved from here that agents are to hear of; may be nil
	// Abort is told that a release is to be made for an abort, of which source, until it is there; nil: whoever releases looks for it.
	Abort func(o fleet.RolloutOrder, of fleet.Source)
	Log   *slog.Logger
}

// Controller is the fleet's roll-out: it gives each ring the releases that rollout.Decide says, and takes people's orders. All that it knows is in git or reported
// again: whoever takes over, at whatever moment this one dies, decides the same. Two at once do no harm: each act is one push with a lease on what was
// read, so of two the later one fails, reads again and finds it done.
type Controller struct {
	ControllerOptions
	look   chan struct{}
	view   atomic.Pointer[fleet.Rollout]
	events actsNoted

	mu       sync.Mutex // held while something is read, decided or written
	page     ledger.Page
	known    bool // page was read
	stale    bool // what is there may be another by now
	releases map[string]*fleet.Manifest
	broken   error  // why the ledger cannot be gone by
	misled   error  // why a ring's branch cannot
	said     string // code of the trouble that was logged last

	heard sync.Mutex
	tips  map[string]string // of the branches, as the follower saw them last
	moved bool              // they are others than those of the page
	words map[string]word   // what hosts said last
	eager bool              // whatever hosts say may matter
}

// word is what of a report matters, as a hash, and when it came.
type word struct {
	sum uint64
	at  time.Time
}

// NewController makes a Controller; its Seen, Reported and Changed may be called before Run.
func NewController(o ControllerOptions) *Controller {
	return &Controller{ControllerOptions: o, look: make(chan struct{}, 1), releases: map[string]*fleet.Manifest{}, words: map[string]word{}, stale: true}
}

const (
	idleDecide  = 30 * time.Second // after which it decides again whatever is said
	leastDecide = 50 * time.Millisecond
	mostDecide  = 400 * time.Millisecond // rest between two decisions
	decideTries = 4
	firstRetry  = time.Second
	mostRetry   = time.Minute
)

// Changed has it decide again.
func (c *Controller) Changed() {
	select {
	case c.look <- struct{}{}:
	default: // it is going to
	}
}

// Seen tells where the remote's branches are: those of releases, of rings, and the ledger's. It is asked for more only when one of them has moved.
func (c *Controller) Seen(tips map[string]string) {
	of := map[string]string{}
	for branch, tip := range tips {
		if branch == c.Branch || ofRollout(c.Branch, branch) {
			of[branch] = tip
		}
	}
	c.heard.Lock()
	moved := c.tips == nil || !maps.Equal(c.tips, of)
	c.tips, c.moved = of, c.moved || moved
	c.heard.Unlock()
	if moved {
		c.Changed()
	}
}

// Reported takes in what a host says. Most of it changes nothing: then nothing is decided anew.
func (c *Controller) Reported(s fleet.Status) {
	host, now := s.Host, time.Now()
	s.At, s.NextPoll, s.Remote, s.Remotes, s.Hub, s.Push, s.Pushing, s.Disks, s.Credentials, s.Ahead, s.Attempt, s.RetryAt = time.Time{}, time.Time{}, fleet.Contact{}, nil, fleet.Contact{}, fleet.Contact{}, 0, nil, nil, nil, 0, nil
	if s.Seen != nil {
		s.Seen = &fleet.Seen{Silent: s.Seen.Silent, Gone: s.Seen.Gone}
	}
	doc, err := json.Marshal(s)
	if err != nil {
		return
	}
	sum := fnv.New64a()
	_, _ = sum.Write(doc)
	c.heard.Lock()
	was := c.words[host]
	c.words[host] = word{sum.Sum64(), now}
	eager := c.eager
	c.heard.Unlock()
	if eager || was.sum != sum.Sum64() || now.Sub(was.at) > c.Silent/2 { // it may have been taken for silent
		c.Changed()
	}
}

// Noted says that there are new events: what deployments and drills came to is a fact.
func (c *Controller) Noted(events []fleet.Event) {
	for _, e := range events {
		if e.Type == fleet.EventDeployment || e.Type == fleet.EventDrill {
			c.Changed()
			return
		}
	}
}

// Run gives rings their releases until ctx ends.
func (c *Controller) Run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		began := time.Now()
		c.mu.Lock()
		again, err := c.step(ctx)
		c.mu.Unlock()
		pause := idleDecide
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			failures++
			pause = jittered(min(mostRetry, firstRetry<<min(failures-1, 10)))
		default:
			failures = 0
			if !again.IsZero() {
				pause = min(pause, max(0, time.Until(again)))
			}
		}
		// However much is reported, most of the time is left to others; a failure is not retried for a report.
		rest := min(max(leastDecide, 2*time.Since(began)), mostDecide)
		if err != nil {
			rest = pause
		}
		sleep(ctx, rest)
		timer := time.NewTimer(max(0, pause-rest))
		select {
		case <-ctx.Done():
		case <-c.look:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step decides, and does what is decided until nothing is left to do. c.mu is held.
func (c *Controller) step(ctx context.Context) (again time.Time, err error) {
	if !c.concerned() {
		c.page, c.known, c.stale = ledger.Page{}, false, true
		c.show(c.ringless(), nil)
		return time.Time{}, nil
	}
	var lost error
	for range decideTries {
		if err := c.read(ctx); err != nil {
			c.show(c.last(), err)
			return time.Time{}, err
		}
		f, err := c.facts(ctx)
		if err != nil {
			return time.Time{}, err
		}
		why := c.hinders()
		if why != nil {
			f.Held = why.Error()
		}
		d := rollout.Decide(f)
		entry := c.entry(d, f)
		if entry == nil || why != nil {
			c.show(d.View, why)
			c.await(d.View)
			return d.Again, errors.Join(c.note(ctx, d.View), c.abort(ctx, f))
		}
		switch err = c.write(ctx, *entry); {
		case err == nil: // and what came of it is looked at
		case fleet.CodeOf(err) == fleet.CodeRace:
			lost = err
		default:
			f.Held = err.Error()
			c.show(rollout.Decide(f).View, err)
			return time.Time{}, err
		}
	}
	c.show(c.last(), lost)
	return time.Time{}, lost
}

// await notes whether it is waited for any word of hosts: that they are well still, after a soak time.
func (c *Controller) await(v fleet.Rollout) {
	c.heard.Lock()
	defer c.heard.Unlock()
	c.eager = slices.ContainsFunc(v.Rings, func(r fleet.RolloutRing) bool { return r.State == fleet.RolloutSoaking && r.SoakUntil == nil })
}

// concerned says whether the fleet has rings. One without costs no talk with git.
func (c *Controller) concerned() bool {
	if m := c.Hub.Newest(); m != nil && len(m.Rings) > 0 {
		return true
	}
	c.heard.Lock()
	defer c.heard.Unlock()
	for branch := range c.tips {
		if ofRollout(c.Branch, branch) {
			return true
		}
	}
	return false
}

// ofRollout says whether the branch is one of a ring or the ledger's.
func ofRollout(release, branch string) bool {
	return branch == fleet.RolloutBranch(release) || fleet.IsRingBranch(release, branch)
}

// ringless is the view of a fleet without rings.
func (c *Controller) ringless() fleet.Rollout {
	return rollout.Decide(rollout.Facts{Now: time.Now().UTC(), Branch: c.Branch, Newest: c.Hub.Newest()}).View
}

// last is the view as it was shown last.
func (c *Controller) last() fleet.Rollout {
	if v := c.view.Load(); v != nil {
		return *v
	}
	return c.ringless()
}

// book is the roll-out's, with what lets us in now.
func (c *Controller) book() (ledger.Book, error) {
	remote, err := c.Remote()
	return ledger.Book{Repo: c.Repo, Remote: remote, Release: c.Branch}, err
}

// read looks at git where that may tell something new.
func (c *Controller) read(ctx context.Context) error {
	c.heard.Lock()
	if c.moved && c.known && maps.Equal(c.tips, tipsOf(c.Branch, c.page)) { // by this hub
		c.moved = false
	}
	anew := c.moved
	c.moved = false // what moves from now on is told again
	c.heard.Unlock()
	if c.known && !c.stale && !anew {
		return nil
	}
	c.stale = true
	b, err := c.book()
	if err != nil {
		return err
	}
	p, err := b.Read(ctx)
	if err != nil && fleet.CodeOf(err) != fleet.CodeInvalid {
		return err
	}
	c.broken = err // the ledger cannot be used: how the rings stand is shown all the same
	c.turn(p)
	if err == nil {
		c.broken, err = c.trusted(ctx, p)
		if err != nil {
			return err
		}
	}
	return nil
}

// turn takes p for what is there.
func (c *Controller) turn(p ledger.Page) {
	c.page, c.known, c.stale = p, true, false
	maps.DeleteFunc(c.releases, func(_ string, m *fleet.Manifest) bool { return m == nil })
}

// tipsOf are the branches of a page.
func tipsOf(release string, p ledger.Page) map[string]string {
	of := map[string]string{}
	maps.Copy(of, p.Rings)
	for branch, commit := range map[string]string{release: p.Newest, fleet.RolloutBranch(release): p.Tip} {
		if commit != "" {
			of[branch] = commit
		}
	}
	return of
}

// write makes an act of e, and tells of it.
func (c *Controller) write(ctx context.Context, e ledger.Entry) error {
	b, err := c.book()
	if err != nil {
		return err
	}
	was := c.page.Ledger.Reboots
	p, err := b.Write(ctx, c.page, e)
	if err != nil {
		c.stale = true
		return err
	}
	c.turn(p)
	c.Log.Info("the roll-out goes on", "act", e.Summary, "reason", e.Reason)
	c.tell(e, was)
	return c.keepAccepted(ctx)
}

// tell has agents hear of an act from here that concerns them.
func (c *Controller) tell(e ledger.Entry, reboots map[string]fleet.RebootPermit) {
	if c.Moved != nil && (len(e.Advances) > 0 || !maps.Equal(reboots, e.Ledger.Reboots)) {
		c.Moved(tipsOf(c.Branch, c.page))
	}
}

// show makes v what is shown, with what hinders.
func (c *Controller) show(v fleet.Rollout, why error) {
	if v.Trouble = fleet.FailureOf("", why); why != nil && v.State != fleet.RolloutStopped {
		v.Reason = v.Trouble.Message
	}
	c.view.Store(&v)
	said := ""
	if why != nil {
		said = string(fleet.CodeOf(why))
	}
	if said == c.said {
		return
	}
	switch c.said = said; {
	case why == nil:
		c.Log.Info("nothing hinders the roll-out any more")
	case v.Trouble.Hint != "":
		c.Log.Warn("no ring is given a release", "err", why, "hint", v.Trouble.Hint)
	default:
		c.Log.Warn("no ring is given a release", "err", why)
	}
}

// View implements Roller.
func (c *Controller) View(context.Context) (fleet.Rollout, error) {
	v := c.view.Load()
	switch m := c.Hub.Newest(); {
	case v != nil && len(v.Rings) > 0:
		return *v, nil
	case m != nil && len(m.Rings) > 0:
		return fleet.Rollout{}, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the hub does not know yet how the rings stand").WithHint("ask again in a moment")
	}
	return c.ringless(), nil
}

// ringOf is which batch of which ring a branch is of.
func ringOf(release, branch string) fleet.Step {
	ring, batch, more := strings.Cut(strings.TrimPrefix(branch, release+"-ring-"), ".")
	s := fleet.Step{Ring: ring, Batch: 1}
	if n, ok := fleet.TagNumber(fleet.TagPrefix + batch); more && ok {
		s.Batch = n
	}
	return s
}
