package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// Begun is how the roll-out of a release began, when it was published.
type Begun struct {
	Ring    string `json:"ring"`           // the first
	Batches int    `json:"batches"`        // of all rings, that got it
	Kept    string `json:"kept,omitempty"` // why none got it yet
}

// place puts the hosts into the rings. A release of older content goes through those that the newest commit declares: what a ring is, is not undone with it.
func (s *state) place(ctx context.Context) (err error) {
	if s.Test != "" {
		return nil
	}
	c := s.config
	if s.back != nil {
		if c, err = s.readConfig(ctx, s.prev.manifest.NewestSource()); err != nil {
			return err
		}
	}
	var idle []string
	s.rings, s.places, idle, err = c.placed(s.hosts, s.manual, s.back != nil)
	if len(s.rings) > 0 {
		idle = append(idle, withoutRings(s.hosts)...)
	}
	for _, what := range idle {
		s.Log.Warn(what)
	}
	return err
}

// book is the roll-out's, as the release branch has it.
func (s *state) book() ledger.Book {
	return ledger.Book{Repo: s.Repo, Remote: git.Remote{URL: s.Remote}, Release: s.config.Branches.Release}
}

// ciActor is who begins a roll-out, in the ledger.
const ciActor = "ci"

// begin is the act that publishing is: release branch and tag (moves), and with them the first step's branch if nothing keeps it, or all of them for an abort
// that is to be at once.
func (s *state) begin(p ledger.Page, m *fleet.Manifest, commit string, moves []git.Move, now time.Time) (*ledger.Entry, *Begun) {
	e := &ledger.Entry{By: "Garrison <" + git.Address + ">", Summary: m.Name() + " is published", Ledger: p.Ledger, With: moves}
	begun := &Begun{Ring: m.Rings[0].Name, Kept: rollout.First(m, p.Ledger, now)}
	steps, reason := m.Steps()[:1], "published"
	if a := rollout.ToMake(p.Ledger); a != nil && m.RollbackTo == a.To {
		made := *a
		made.Made = m.Number
		e.Ledger.Aborted = &made
		e.Summary, e.Reason = fmt.Sprintf("%s is published: back to %s", m.Name(), fleet.TagName(a.To)), a.Reason
		if a.AtOnce {
			steps, reason = m.Steps(), "abort at once, by "+a.By
		}
	}
	if begun.Kept != "" {
		return e, begun
	}
	begun.Batches = len(steps)
	for _, step := range steps {
		branch := fleet.RingBranch(s.config.Branches.Release, step.Ring, step.Batch)
		e.Advances = append(e.Advances, ledger.Advance{Branch: branch, From: p.Rings[branch], To: commit})
		e.Ledger.Promoted(branch, fleet.Promotion{Release: m.Number, At: now, By: ciActor, Reason: reason})
	}
	return e, begun
}

// move moves the refs that publishing moves, with the begin of the roll-out where there are rings. Somebody who orders something about the roll-out at the same time
// makes it look again; nothing about the roll-out keeps a release from being published.
func (s *state) move(ctx context.Context, m *fleet.Manifest, moves []git.Move) error {
	if len(m.Rings) == 0 {
		return s.Repo.Push(ctx, s.Remote, moves...)
	}
	seen := 0
	after, err := s.book().Change(ctx, func(p ledger.Page) (*ledger.Entry, error) {
		if seen++; p.Newest != s.branchTip {
			return nil, fleet.Errorf(fleet.Transient, fleet.CodeRace, "%s was moved by somebody else while this ran", s.config.Branches.Release).
				WithHint("run it again: it starts from what is there now")
		}
		if seen > 1 { // then it may be the source branch that was moved
			if err := s.newest(ctx); err != nil {
				return nil, err
			}
		}
		e, begun := s.begin(p, m, s.commit, moves, time.Now().UTC().Truncate(time.Second))
		s.outcome.Rings = begun
		return e, nil
	})
	if err == nil { // as a fetch would
		refs := map[string]string{headsRef + fleet.RolloutBranch(s.config.Branches.Release): after.Tip}
		for branch, commit := range after.Rings {
			refs[headsRef+branch] = commit
		}
		return s.Repo.UpdateRefs(ctx, refs)
	}
	if code := fleet.CodeOf(err); code != fleet.CodeInvalid && code != fleet.CodeForcePushed {
		return err
	}
	s.Log.Error("the roll-out does not begin: its branches are not in order", "err", err)
	s.outcome.Rings = &Begun{Ring: m.Rings[0].Name, Kept: err.Error()}
	return s.Repo.Push(ctx, s.Remote, moves...)
}

// foresee says what a dry run would begin.
func (s *state) foresee(ctx context.Context, m *fleet.Manifest) error {
	if len(m.Rings) == 0 {
		return nil
	}
	p, err := s.book().Read(ctx)
	if fleet.CodeOf(err) == fleet.CodeInvalid {
		s.outcome.Rings = &Begun{Ring: m.Rings[0].Name, Kept: err.Error()}
		return nil
	}
	if err != nil {
		return err
	}
	_, s.outcome.Rings = s.begin(p, m, s.commit, nil, time.Now().UTC())
	return nil
}

// ToAbort is the release that somebody ordered to go back to and that is still to be made; 0 for none, also when a newer one than the aborted was published
// since. A ledger that cannot be read orders nothing.
func ToAbort(ctx context.Context, o Options) (int, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return 0, err
	}
	defer unlock()
	s := &state{Options: o.withLog()}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return 0, err
	}
	if err := s.findSource(ctx); err != nil {
		return 0, err
	}
	p, err := s.book().Read(ctx)
	if fleet.CodeOf(err) == fleet.CodeInvalid {
		s.Log.Error("the ledger of the roll-out is not in order", "err", err)
		return 0, nil
	}
	a := rollout.ToMake(p.Ledger)
	if err != nil || a == nil || slices.Max(append(ledger.Numbers(p.Tags, p.Newest), 0)) > a.Release {
		return 0, err
	}
	return a.To, nil
}

// madeBefore notes that an abort which is ordered needs no release, because the newest one is what it asks for.
func (s *state) madeBefore(ctx context.Context) error {
	_, err := s.book().Change(ctx, func(p ledger.Page) (*ledger.Entry, error) {
		a := rollout.ToMake(p.Ledger)
		if a == nil || a.To != s.RollbackTo || s.outcome.Release == nil {
			return nil, nil
		}
		made := *a
		made.Made = s.outcome.Release.Number
		e := &ledger.Entry{By: "Garrison <" + git.Address + ">", Summary: fmt.Sprintf("%s has what %s has", s.outcome.Release.Name(), fleet.TagName(a.To)), Reason: a.Reason, Ledger: p.Ledger}
		e.Ledger.Aborted = &made
		return e, nil
	})
	var known *fleet.Error
	if errors.As(err, &known) && known.Code == fleet.CodeInvalid {
		s.Log.Error("the ledger of the roll-out is not in order", "err", err)
		return nil
	}
	return err
}
