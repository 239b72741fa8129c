package release

import (
	"context"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// newest gives up when the source branch has something else than what is being released: that is released instead, by whoever was told of
// it. It is asked before each stage that takes long; publishing itself moves nothing when the branch has moved.
func (s *state) newest(ctx context.Context) error {
	if !s.OnlyNewest || s.back != nil {
		return nil
	}
	source, _ := s.branches()
	tip, err := s.Repo.RemoteRef(ctx, s.Remote, "refs/heads/"+source)
	if err != nil {
		return ctx.Err() // that the remote does not answer now is for publishing to say
	}
	return s.supersededBy(tip)
}

// supersededBy is an error if the source branch is at another commit than ours.
func (s *state) supersededBy(tip string) error {
	source, _ := s.branches()
	switch tip {
	case s.source:
		return nil
	case "":
		return fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded: %s was deleted", source)
	}
	return fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded by %.12s", tip).
		WithHint("nothing to do: %s is what %s leads to now, and is released instead", tip, source)
}

// Ready is what is known before anything is evaluated.
type Ready struct {
	Commit   string
	Subject  string
	Released bool // it was released before; Run has nothing to do
}

// Prepare does what Run does before anything is evaluated: it fetches, finds commit and previous release, and makes sure that one
// descends from the other and that it was signed as it must be. Its errors are those that Run would end with.
func Prepare(ctx context.Context, o Options) (Ready, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return Ready{}, err
	}
	defer unlock()
	s := &state{Options: o.withLog()}
	released, err := s.prepare(ctx)
	return Ready{Commit: s.source, Subject: s.info.Subject, Released: released}, err
}

// Settings fetches, and reads garrison.toml at the tip of the source branch; without one they are the defaults, and tip is "".
func Settings(ctx context.Context, repo *git.Repo, remote string) (config Config, tip string, err error) {
	if err := fetch(ctx, repo, remote); err != nil {
		return Config{}, "", err
	}
	s := &state{Options: Options{Repo: repo, Remote: remote}}
	err = s.findSource(ctx)
	if fleet.CodeOf(err) == fleet.CodeNotFound {
		s.config, err = ParseConfig(ConfigPath, nil)
		return s.config, "", err
	}
	return s.config, s.source, err
}
