package agent

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/proc"
)

// looker looks at remotes: stages fetch and verify. Several looks may run at once, but one for each remote.
type looker struct {
	repo    *git.Repo
	host    string
	branch  string
	signers string
	several bool          // there are other remotes
	permits bool          // the host's ring says when it may reboot
	runs    func() string // the system that runs
	log     *slog.Logger
	rest    rest
	heals   heals
}

// anchor is a release that was accepted.
type anchor struct {
	number      int // 0: none ever was
	commit, tag string
	whole       bool // the record also has what the release says of this host
}

// known is what a look is held against. Values are compared: what was found by an older one is looked at again.
type known struct {
	anchor              // the newest release that the release branch led to
	given  anchor       // the one that this host was given by its ring; without rings the same
	head   *deploy.Head // the former, where it is another than the latter
	step   fleet.Step   // the host's part of the roll-out by the newest release; without rings empty
	test   testRef      // the test release in force, or left
	tested testRef      // the newest test release that was ever accepted
	accept string       // the commit that an operator accepted, whatever the history says
}

// testRef is a test release as far as looks need it.
type testRef struct{ Test, Commit, Tag string }

func testRefOf(r fleet.ReleaseRef) testRef { return testRef{r.Test, r.Commit, r.Tag} }

// seen is what a look at one remote came to.
type seen struct {
	event  deploy.Event // Nothing, Found, also of what is known, or Refused; nil when there is an error, or it is behind and has nothing new
	behind bool         // an older release than what is known, on a remote that never showed that
	tip    string
	trial  trial
	permit string      // the boot that the ledger lets this host end
	err    error       // the remote could not be asked, or the tip not be verified yet
	stage  fleet.Stage // in which err was
}

// Where the agent's repository keeps what a remote showed, below the remote's own prefix.
const (
	headsRef = "heads/"
	tagsRef  = "tags/"
	goodRef  = "good" // the newest tip of it that was accepted
)

// look fetches the release branch of a remote and verifies what it points at. What only fails because our repository
// is damaged is tried again when that is mended.
func (l *looker) look(ctx context.Context, m *remote, k known) seen {
	s := l.lookOnce(ctx, m, k)
	if s.err != nil {
		healed, err := l.heal(ctx, m, s.err)
		if s.err = err; healed {
			s = l.lookOnce(ctx, m, k)
		}
	}
	if s.err == nil {
		l.heals.over()
	}
	return s
}

func (l *looker) lookOnce(ctx context.Context, m *remote, k known) seen {
	s := seen{stage: fleet.Fetch}
	var refs map[string]git.Ref
	s.err = proc.Stage(ctx, fleet.Fetch, func() (err error) {
		refs, err = l.fetch(ctx, m, k)
		return err
	})
	if s.err != nil {
		return s
	}
	s.permit = l.permit(ctx, m, refs)
	tip, there := refs[headsRef+l.branch]
	s.tip = tip.ID
	switch {
	case !there && k.number == 0:
		s.event = deploy.Nothing{} // yet
		return s
	case !there:
		s.event = l.refused("", l.branch, k.commit, k, fleet.Errorf(fleet.Bad, fleet.CodeBranchGone, "the branch %s is gone from the remote", l.branch).
			WithHint("put it back: git push origin %s:refs/heads/%s", k.commit, l.branch))
		return s
	}
	defer l.rest.disturb()()
	s.stage = fleet.Verify
	branch, back := l.branch, k.commit
	err := proc.Stage(ctx, fleet.Verify, func() error {
		newest, step, err := l.verify(ctx, m, tip.ID, k, refs)
		if s.behind = errors.Is(err, errBehind); s.behind {
			newest, step, err = k.newest(), k.step, nil // its ring's branch may be ahead of what is known all the same
		} else if err != nil {
			return err
		}
		if step.Ring != "" {
			tip.ID, branch, back = refs[headsRef+l.ring(step)].ID, l.ring(step), k.given.commit
			s.event, err = l.follow(ctx, m, newest, step, k, refs)
		} else {
			s.event = newest
		}
		if found, ok := s.event.(deploy.Found); s.behind && (step.Ring == "" || !ok || found.Release.Tag == k.given.tag) {
			s.event = nil
		} else if ok && !s.behind {
			s.trial = l.lookAtTest(ctx, found.Release.Number, newest.Release.Number, k, refs)
		}
		return err
	})
	var e *fleet.Error
	switch {
	case err == nil:
	case ctx.Err() == nil && errors.As(err, &e) && e.Class == fleet.Bad:
		s.event = l.refused(tip.ID, branch, back, k, err)
	default:
		s.event, s.err = nil, err
	}
	return s
}

// fetch brings the release branches of a remote, and of the tags only those that are needed: in a fleet's thousands of releases
// nearly all that a remote would list or send are manifests of the past. A look that finds nothing new is one talk with the
// remote; one that finds the next release is that, too.
func (l *looker) fetch(ctx context.Context, m *remote, k known) (map[string]git.Ref, error) {
	specs := []string{m.spec("heads", l.branch)}
	var asked []string // for tags whose names begin so
	if k.number > 0 {
		asked = []string{tagsRef + fleet.TagName(k.number), tagsRef + fleet.TagName(k.number+1)}
		specs = append(specs, m.spec("tags", fleet.TagName(k.number)), m.spec("tags", fleet.TagName(k.number+1)))
		specs = append(specs, l.testSpecs(m)...)
	}
	if err := l.repo.FetchFrom(ctx, m.Remote, specs...); err != nil {
		return nil, err
	}
	refs, err := l.repo.Refs(ctx, m.prefix())
	if err != nil {
		return nil, err
	}
	tip, tagged, had := refs[headsRef+l.branch].ID, false, map[string]git.Ref{}
	for name, ref := range refs {
		if _, ok := tagNumber(name); !ok {
			continue
		}
		if slices.ContainsFunc(asked, func(begin string) bool { return strings.HasPrefix(name, begin) }) {
			tagged = tagged || ref.Commit == tip
			continue
		}
		had[name] = ref
		delete(refs, name) // what an earlier look was shown may be gone
	}
	if tip == "" || tip == k.commit || tagged {
		return refs, nil
	}
	return refs, l.fetchTags(ctx, m, tip, k.number == 0, refs, had)
}

// fetchTags fetches what is needed to verify a tip that is not the next release's, of all tags that the remote lists, and adds it to refs;
// with newer, also what is newer (wantedTags).
func (l *looker) fetchTags(ctx context.Context, m *remote, tip string, newer bool, refs, had map[string]git.Ref) error {
	tags, err := git.ListTags(ctx, m.Remote, fleet.TagPrefix)
	if err != nil {
		return err
	}
	var specs []string
	for _, name := range wantedTags(tags, tip, newer) {
		refs[tagsRef+name] = tags[name]
		if had[tagsRef+name].ID != tags[name].ID {
			specs = append(specs, m.exact(name))
		}
	}
	if len(specs) == 0 {
		return nil
	}
	return l.repo.FetchFrom(ctx, m.Remote, specs...)
}

// refused says why the tip of a branch is not accepted, and what to do about it: back is where the branch was in order.
func (l *looker) refused(tip, branch, back string, k known, err error) deploy.Event {
	f := fleet.FailureOf(fleet.Verify, err)
	if f.Hint == "" {
		f.Hint = "find out who made it, and publish a release that is in order"
		if back != "" {
			f.Hint += ", or put the branch back: git push --force-with-lease origin " + back + ":refs/heads/" + branch
		}
	}
	if deploy.Acceptable(f.Code) && tip != "" && tip != k.accept {
		f.Hint += "; or, if it is meant: garrison agent accept " + tip
	}
	return deploy.Refused{Tip: tip, Failure: *f}
}
