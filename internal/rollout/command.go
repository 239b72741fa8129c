package rollout

import (
	"fmt"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Standing is what is known of a roll-out where its refs are, whatever hosts report.
type Standing struct {
	Branch   string // of all releases
	Newest   *fleet.Manifest
	Releases map[int]bool       // those that there are, signed by one of ours
	Tips     map[fleet.Step]int // what rings' branches point at
	Ledger   fleet.Ledger
	Now      time.Time
}

// Act is what an order comes to: one commit of the ledger, and the moves that go with it. It is nothing when all is as it was ordered already.
type Act struct {
	Summary string // the commit's first line; "" when nothing is to be done
	Order   fleet.RolloutOrder
	Ledger  fleet.Ledger
	Moves   []Move
}

// Carry says what an order comes to. by is whose it is. Promote without Force is a person's word, which a ring with promote = "manual" waits for, and moves nothing: the
// gates are looked at by whoever knows what hosts report. Errors: CodeUsage, CodeNotFound when there is no such ring or release, CodeNotNow.
func Carry(c fleet.RolloutCommand, by string, s Standing) (Act, error) {
	if s.Newest == nil || len(s.Newest.Rings) == 0 {
		return Act{}, fleet.Errorf("", fleet.CodeNotNow, "the fleet has no rings: every host has a release at once, so there is no roll-out to order anything about").
			WithHint("declare one in garrison.toml: [[rings]] with a name (docs/ROLLOUT.md)")
	}
	o := fleet.RolloutOrder{By: by, At: s.Now.UTC().Truncate(time.Second), Reason: strings.TrimSpace(c.Reason), Release: c.Release}
	if o.Release == 0 {
		o.Release = s.Newest.Number
	}
	if o.Release > s.Newest.Number || o.Release < 1 {
		return Act{}, fleet.Errorf("", fleet.CodeNotFound, "there is no %s: the newest release is %s", fleet.TagName(o.Release), s.Newest.Name())
	}
	a := Act{}
	switch c.Act {
	case fleet.RolloutPromote:
		return s.promote(c, o)
	case fleet.RolloutPause:
		a.Summary = fmt.Sprintf("pause at %s", fleet.TagName(o.Release))
	case fleet.RolloutResume:
		a.Summary = fmt.Sprintf("resume with %s", fleet.TagName(o.Release))
	case fleet.RolloutFreeze:
		o.Release, o.Until = 0, c.Until
		if c.Until != nil {
			until := c.Until.UTC().Truncate(time.Second)
			o.Until, a.Summary = &until, "freeze until "+until.Format("2006-01-02 15:04 MST")
		}
	case fleet.RolloutUnfreeze:
		o.Release = 0
		a.Summary = "unfreeze"
	case fleet.RolloutAbort:
		if o.To, o.AtOnce = c.To, c.AtOnce; o.To == 0 {
			o.To = LastGood(s.Newest, s.Ledger, s.Branch)
		}
		if o.To == 0 {
			return Act{}, fleet.Errorf("", fleet.CodeNotFound, "no release before %s went through all rings, so it is not known which one was good", s.Newest.Name()).
				WithHint("name the release to go back to")
		}
		if !s.Releases[o.To] {
			return Act{}, fleet.Errorf("", fleet.CodeNotFound, "there is no %s that one of ours signed, to go back to", fleet.TagName(o.To))
		}
		a.Summary = fmt.Sprintf("abort %s: back to %s", fleet.TagName(o.Release), fleet.TagName(o.To))
		if o.AtOnce {
			a.Summary += " at once"
		}
	default:
		return Act{}, fleet.Errorf("", fleet.CodeUsage, "there is no order %q: it is one of %s", c.Act, strings.Join(fleet.RolloutActs(), ", "))
	}
	var err error
	a.Order = o
	a.Ledger, err = Ordered(s.Ledger, c.Act, o)
	return a, err
}

// promote gives a ring a release, or lets it be given one.
func (s Standing) promote(c fleet.RolloutCommand, o fleet.RolloutOrder) (Act, error) {
	at := -1
	var names []string
	for i, r := range s.Newest.Rings {
		names = append(names, r.Name)
		if r.Name == c.Ring {
			at = i
		}
	}
	if at < 0 {
		return Act{}, fleet.Errorf("", fleet.CodeNotFound, "there is no ring %q in %s", c.Ring, s.Newest.Name()).WithHint("its rings are: %s", strings.Join(names, ", "))
	}
	ring := s.Newest.Rings[at]
	if o.Ring = ring.Name; c.Release == 0 {
		o.Release = s.next(at)
	}
	if !s.Releases[o.Release] {
		return Act{}, fleet.Errorf("", fleet.CodeNotFound, "there is no %s that one of ours signed", fleet.TagName(o.Release)).WithHint("git ls-remote --tags shows which there are")
	}
	var moves []Move
	for b := range ring.Batches {
		step := fleet.Step{Ring: ring.Name, Batch: b + 1}
		has := s.Tips[step]
		if has > o.Release {
			return Act{}, fleet.Errorf("", fleet.CodeNotNow, "ring %s has %s already, and never goes back", ring.Name, fleet.TagName(has)).
				WithHint("to go back to older content: garrison rollout abort --to %d, which releases it again", o.Release)
		}
		if has < o.Release {
			moves = append(moves, Move{Step: step, From: has, To: o.Release, Reason: o.Reason})
		}
	}
	a := Act{Order: o, Ledger: s.Ledger}
	if len(moves) == 0 {
		return a, nil
	}
	if !c.Force && Approved(s.Ledger, ring.Name, o.Release) {
		return a, nil
	}
	if !c.Force {
		if l := s.Ledger; Aborted(l, o.Release) {
			return Act{}, fleet.Errorf("", fleet.CodeNotNow, "%s was aborted by %s: %s", fleet.TagName(o.Release), l.Aborted.By, l.Aborted.Reason).WithHint("--force gives it to the ring all the same")
		}
		moves = nil
	}
	var err error
	if a.Ledger, err = Ordered(s.Ledger, fleet.RolloutPromote, o); err != nil {
		return Act{}, err
	}
	if a.Summary = fmt.Sprintf("%s may go to ring %s", fleet.TagName(o.Release), ring.Name); c.Force {
		a.Summary = fmt.Sprintf("%s goes to ring %s, whatever its gates say", fleet.TagName(o.Release), ring.Name)
	}
	for _, m := range moves {
		a.Ledger.Promoted(fleet.RingBranch(s.Branch, m.Ring, m.Batch), fleet.Promotion{Release: m.To, At: o.At, By: o.By, Reason: o.Reason})
	}
	a.Moves = moves
	return a, nil
}

// next is what a ring is to be given when nobody names a release: what all of the ring before it has, if this one has it not yet; else the newest.
func (s Standing) next(ring int) int {
	if ring > 0 {
		before := s.Newest.Rings[ring-1]
		if n := s.Tips[fleet.Step{Ring: before.Name, Batch: before.Batches}]; n > s.Tips[fleet.Step{Ring: s.Newest.Rings[ring].Name, Batch: s.Newest.Rings[ring].Batches}] {
			return n
		}
	}
	return s.Newest.Number
}

// Kept are gates that keep a ring from a release now, as far as they can be seen without what hosts report: a line for each.
func (s Standing) Kept(ring string, release int) (why []string) {
	before := fleet.Step{}
	for _, r := range s.Newest.Rings {
		if r.Name != ring {
			before = fleet.Step{Ring: r.Name, Batch: r.Batches}
			continue
		}
		if before.Ring != "" && s.Tips[before] < release {
			why = append(why, fmt.Sprintf("ring %s, before it, does not have %s", before.Ring, fleet.TagName(release)))
		}
		if kept := First(&fleet.Manifest{Number: release, Rings: []fleet.Ring{r}}, s.Ledger, s.Now); kept != "" {
			why = append(why, strings.TrimPrefix(kept, "ring "+ring+": "))
		}
		break
	}
	return why
}
