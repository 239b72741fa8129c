package agent

import (
	"context"
	"errors"
	"slices"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Where the agent's repository keeps what it fetched.
const (
	headsRef = "refs/garrison/heads/"
	tagsRef  = "refs/garrison/tags/"
)

// looker looks at the remote: stages fetch and verify.
type looker struct {
	repo    *git.Repo
	host    string
	remote  string
	branch  string
	signers string
}

// look fetches the release branch and verifies what it points at. known is the newest release verified so far. It returns
// Nothing, Found, also of what is known, or Refused; an error when the remote could not be asked or the tip not be verified yet.
func (l *looker) look(ctx context.Context, known *fleet.ReleaseRef) (deploy.Event, error) {
	err := proc.Stage(ctx, fleet.Fetch, func() error {
		return l.repo.Fetch(ctx, l.remote, "+refs/heads/"+l.branch+"*:"+headsRef+l.branch+"*", "+refs/tags/"+fleet.TagPrefix+"*:"+tagsRef+fleet.TagPrefix+"*")
	})
	if err != nil {
		return nil, err
	}
	heads, err := l.repo.Refs(ctx, headsRef)
	if err != nil {
		return nil, err
	}
	tip, there := heads[l.branch]
	switch {
	case !there && known == nil:
		return deploy.Nothing{}, nil // yet
	case !there:
		return l.refused("", known, fleet.Errorf(fleet.Bad, fleet.CodeForcePushed, "the branch %s is gone from the remote", l.branch).
			WithHint("put it back: git push origin %s:refs/heads/%s", known.Commit, l.branch)), nil
	}
	var found deploy.Found
	err = proc.Stage(ctx, fleet.Verify, func() (err error) {
		found, err = l.verify(ctx, tip.ID, known)
		return err
	})
	if err == nil {
		return found, nil
	}
	var e *fleet.Error
	if ctx.Err() == nil && errors.As(err, &e) && e.Class == fleet.Bad {
		return l.refused(tip.ID, known, err), nil
	}
	return nil, err
}

// refused says why tip is not accepted, and what to do about it.
func (l *looker) refused(tip string, known *fleet.ReleaseRef, err error) deploy.Event {
	f := fleet.FailureOf(fleet.Verify, err)
	if f.Hint == "" {
		f.Hint = "find out who made it, and publish a release that is in order"
		if known != nil {
			f.Hint += ", or put the branch back: git push --force-with-lease origin " + known.Commit + ":refs/heads/" + l.branch
		}
	}
	return deploy.Refused{Tip: tip, Failure: *f}
}

// verify accepts tip as a release, or says why not (class Bad). Nothing of what was fetched is used before its signature was checked.
func (l *looker) verify(ctx context.Context, tip string, known *fleet.ReleaseRef) (deploy.Found, error) {
	var found deploy.Found
	tags, err := l.repo.Refs(ctx, tagsRef)
	if err != nil {
		return found, err
	}
	if known != nil {
		if moved := tags[fleet.TagName(known.Number)].ID; moved != "" && moved != known.Tag {
			return found, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "the tag %s was moved: it is %.12s now and was %.12s", fleet.TagName(known.Number), moved, known.Tag).
				WithHint("find out who moved it, and put it back")
		}
		if tip == known.Commit {
			found.Release = *known
			return found, nil // verified before, and deploy knows what it says
		}
		// One that is not even there (the repository was made anew) was not fetched with the tip's ancestors.
		_, ok, err := l.repo.Resolve(ctx, known.Commit+"^{commit}")
		if ok && err == nil {
			ok, err = l.repo.IsAncestor(ctx, known.Commit, tip)
		}
		if err != nil {
			return found, err
		}
		if !ok {
			return found, fleet.Errorf(fleet.Bad, fleet.CodeForcePushed, "the branch %s was force-pushed: %.12s does not descend from %s (%.12s)", l.branch, tip, fleet.TagName(known.Number), known.Commit).
				WithHint("find out who did it, then put the branch back: git push --force-with-lease origin %s:refs/heads/%s", known.Commit, l.branch)
		}
	}
	tag, manifest, err := l.verifiedTag(ctx, tip, tags)
	if err != nil {
		return found, err
	}
	if known != nil && manifest.Number <= known.Number {
		return found, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "%s comes after %s: the number must go up", tag.Name, fleet.TagName(known.Number)).
			WithHint("publish a new release")
	}
	found.Release = fleet.ReleaseRef{Number: manifest.Number, Commit: tip, Tag: tag.ID, Source: manifest.Source}
	if e, ok := manifest.Hosts[l.host]; ok {
		found.Entry = &e
	}
	for _, m := range manifest.Manual {
		found.Manual = found.Manual || m == l.host
	}
	return found, nil
}

// verifiedTag finds the newest release tag of tip that one of ours signed. Others are passed over: whoever may push can make
// them, and they must not stop a host. If all are such, the error is that of the newest.
func (l *looker) verifiedTag(ctx context.Context, tip string, tags map[string]git.Ref) (git.Tag, *fleet.Manifest, error) {
	var numbers []int
	for name, ref := range tags {
		if n, ok := fleet.TagNumber(name); ok && ref.Commit == tip {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	newest := error(fleet.Errorf(fleet.Bad, fleet.CodeSignature, "no release tag points at the branch's tip %.12s", tip).
		WithHint("only garrison release may move the branch %s; find out who pushed to it, and put it back", l.branch))
	for i, n := range slices.Backward(numbers) {
		tag, m, err := l.readTag(ctx, n, tip, tags[fleet.TagName(n)])
		if err == nil || fleet.ClassOf(err) != fleet.Bad {
			return tag, m, err
		}
		if i == len(numbers)-1 {
			newest = err
		}
	}
	return git.Tag{}, nil, newest
}

// readTag checks the signature of tag n and only then reads it.
func (l *looker) readTag(ctx context.Context, n int, tip string, ref git.Ref) (git.Tag, *fleet.Manifest, error) {
	name := fleet.TagName(n)
	if ref.ID == tip {
		return git.Tag{}, nil, fleet.Errorf(fleet.Bad, fleet.CodeSignature, "the tag %s is not a signed one", name).
			WithHint("find out who made it, and delete it")
	}
	if err := l.repo.VerifyTag(ctx, ref.ID, l.signers); err != nil {
		return git.Tag{}, nil, err
	}
	tag, err := l.repo.ReadTag(ctx, ref.ID)
	if err != nil {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s cannot be read", name).WithCause(err)
	}
	m, err := fleet.ParseTagMessage(tag.Message)
	if err != nil {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeManifest, "the tag %s says nothing that can be used", name).WithCause(err)
	}
	if tag.Name != name || m.Number != n || tag.Commit != tip {
		return tag, nil, fleet.Errorf(fleet.Bad, fleet.CodeReplayed, "the tag %s was signed as %s with number %d: somebody renamed it", name, tag.Name, m.Number).
			WithHint("find out who did it, and delete the false tag")
	}
	return tag, m, nil
}
