package release

import (
	"context"
	"slices"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/secret"
)

// testSource reads the tip of the host's test branch, with the configuration that stands there.
func (s *state) testSource(ctx context.Context) error {
	if !fleet.ValidHostName(s.Test) {
		return fleet.Errorf("", fleet.CodeNoSuchHost, "%q cannot be a host's name", s.Test)
	}
	if s.Source != "" || s.RollbackTo != 0 {
		return fleet.Errorf("", fleet.CodeUsage, "a test release is of its host's test branch, and of nothing else")
	}
	s.KeepGoing = false // there would be nothing to try
	branch := testSourceBranch(s.Test)
	return s.readSource(ctx, "a branch "+branch, headsRef+branch)
}

// testSuffix ends the names of test branches, and those of their releases.
const testSuffix = "-test"

func testSourceBranch(host string) string { return host + testSuffix }

// Tidy takes away the branches of test releases whose test branches are gone, here and at the mirrors, and names them. What no tag of a
// test release points at is left alone.
func Tidy(ctx context.Context, o Options) (gone []string, mirrors []Mirrored, err error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s := &state{Options: o.withLog()}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return nil, nil, err
	}
	if err := s.findSource(ctx); err != nil {
		return nil, nil, err
	}
	heads, err := s.Repo.Refs(ctx, headsRef)
	if err != nil {
		return nil, nil, err
	}
	left, err := s.leftOver(ctx, heads)
	if err != nil {
		return nil, nil, err
	}
	var moves []git.Move
	local := map[string]string{}
	for name, commit := range left {
		gone = append(gone, name)
		moves = append(moves, git.Move{Ref: "refs/heads/" + name, From: commit})
		local[headsRef+name] = ""
	}
	slices.Sort(gone)
	if len(moves) > 0 {
		if err := s.Repo.Push(ctx, s.Remote, moves...); err != nil {
			return nil, nil, err
		}
		if err := s.Repo.UpdateRefs(ctx, local); err != nil {
			return gone, nil, err
		}
	}
	mirrors, err = s.mirror(ctx)
	return gone, mirrors, err
}

// prepareTest makes sure that the source is built on the newest release's and counts the number. It is true when this very
// source was made a test release on that before.
func (s *state) prepareTest(ctx context.Context) (made bool, err error) {
	if s.prev == nil {
		return false, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "there is no release that a test could be built on").WithHint("make one first: garrison release")
	}
	if err := s.checkDescends(ctx); err != nil {
		return false, err
	}
	tags, err := s.Repo.Refs(ctx, tagsRef)
	if err != nil {
		return false, err
	}
	if s.branchTip, _, err = s.Repo.Resolve(ctx, headsRef+fleet.TestBranch(s.Test)); err != nil {
		return false, err
	}
	var own []int
	s.number = 1
	for name, ref := range tags {
		if n, ok := fleet.TestTagNumber(s.Test, name); ok {
			s.number = max(s.number, n+1)
			if ref.Commit == s.branchTip {
				own = append(own, n)
			}
		}
	}
	slices.Sort(own)
	for _, n := range slices.Backward(own) {
		name := fleet.TestTagName(s.Test, n)
		last, err := s.readRelease(ctx, name, tags[name])
		if err != nil {
			if fleet.ClassOf(err) != fleet.Bad || ctx.Err() != nil {
				return false, err
			}
			continue // not one of ours
		}
		s.last = last
		made = last.manifest.Source.Commit == s.source && last.manifest.Base == s.prev.manifest.Number
		if made {
			s.outcome.Release, s.outcome.Manifest = last.ref(), last.manifest
		}
		break
	}
	return made, nil
}

// name is that of the release's tag.
func (s *state) name() string {
	if s.Test != "" {
		return fleet.TestTagName(s.Test, s.number)
	}
	return fleet.TagName(s.number)
}

// branches are the one that the source is on, and the one that is published.
func (s *state) branches() (source, release string) {
	if s.Test != "" {
		return testSourceBranch(s.Test), fleet.TestBranch(s.Test)
	}
	return s.config.Branches.Source, s.config.Branches.Release
}

// only leaves out the private keys of hosts that a test release has nothing for.
func (s *state) only(keys []HostKey, in secret.Input) []HostKey {
	if s.Test == "" {
		return keys
	}
	return slices.DeleteFunc(slices.Clone(keys), func(k HostKey) bool {
		return k.Host != s.Test && (k.Host != "" || secret.OwnersOf(k.Identities, in.HostKeys) == nil)
	})
}
