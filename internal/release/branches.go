package release

import (
	"cmp"
	"context"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// Branches are what there is to release on a remote.
type Branches struct {
	Source fleet.Source            // the source branch; its Commit is "" when there is none yet
	Tests  map[string]fleet.Source // the test branches, by host
	Left   bool                    // there are test releases whose test branches are gone: Tidy takes them away
}

// Look fetches, and says what there is to release. What is wrong with the source branch's garrison.toml is for Run to say.
func Look(ctx context.Context, repo *git.Repo, remote string) (Branches, error) {
	b := Branches{Tests: map[string]fleet.Source{}}
	if err := fetch(ctx, repo, remote); err != nil {
		return b, err
	}
	s := &state{Options: Options{Repo: repo, Remote: remote}}
	err := s.findSource(ctx)
	switch {
	case fleet.CodeOf(err) == fleet.CodeNotFound:
		return b, nil
	case err != nil && (s.source == "" || fleet.ClassOf(err) != fleet.Bad):
		return b, err
	}
	b.Source = fleet.Source{Commit: s.source, Branch: cmp.Or(s.config.Branches.Source, defaultSource), Subject: s.info.Subject, Author: s.info.Author}
	heads, err := repo.Refs(ctx, headsRef)
	if err != nil {
		return b, err
	}
	for name, ref := range heads {
		host, ok := strings.CutSuffix(name, testSuffix)
		if !ok || !fleet.ValidHostName(host) || testedHost(name) != "" || name == b.Source.Branch {
			continue
		}
		info, err := repo.CommitInfo(ctx, ref.Commit)
		if err != nil {
			return b, err
		}
		b.Tests[host] = fleet.Source{Commit: ref.Commit, Branch: name, Subject: info.Subject, Author: info.Author}
	}
	left, err := s.leftOver(ctx, heads)
	b.Left = len(left) > 0
	return b, err
}

// leftOver are the branches of test releases whose test branches are gone, with where they are. What no tag of a release points at is
// somebody else's.
func (s *state) leftOver(ctx context.Context, heads map[string]git.Ref) (map[string]string, error) {
	left := map[string]string{}
	for name, ref := range heads {
		host := testedHost(name)
		if _, there := heads[testSourceBranch(host)]; host != "" && !there {
			left[name] = ref.Commit
		}
	}
	if len(left) == 0 {
		return nil, nil
	}
	_, released, err := s.releaseRefs(ctx)
	for name, commit := range left {
		if !released[commit] {
			delete(left, name)
		}
	}
	return left, err
}
