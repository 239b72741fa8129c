package release

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
)

// source is a commit as Nix is to see it.
type source struct {
	at    nix.Flake
	env   []string // for nix
	close func()   // when nix is done with it; never nil
	hint  string   // for a flake that does not evaluate
}

// openSource makes ready what Nix needs of a commit besides its own objects: submodules and what git-lfs keeps, if garrison.toml wants them.
// files are the commit's. That git-lfs keeps something is an error as long as garrison.toml does not say what is to become of it: a host must
// not get a pointer for a file's content without anybody's knowledge.
func openSource(ctx context.Context, repo *git.Repo, remote, ref, commit string, files map[string]string, config Config) (*source, error) {
	s := &source{at: nix.Flake{GitDir: repo.Dir, Ref: ref, Commit: commit}, close: func() {}}
	if _, there := files[".gitmodules"]; there && !config.Submodules {
		s.hint = "the repository has submodules, whose files are not seen: if hosts need them, say submodules = true in " + ConfigPath
	}
	lfs := false
	if config.LFS == nil || *config.LFS {
		pointers, err := repo.Pointers(ctx, commit, files)
		if err != nil {
			return nil, err
		}
		lfs = len(pointers) > 0
		if lfs && config.LFS == nil {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "git-lfs keeps the contents of %s: hosts would get pointers in their place", some(slices.Sorted(maps.Keys(pointers)))).
				WithHint("say in %s: lfs = true, if hosts need them (Nix 2.27 or newer), or lfs = false, if none does", ConfigPath)
		}
		if lfs {
			if err := repo.FetchContents(ctx, remote, commit, slices.Collect(maps.Values(pointers))); err != nil {
				return nil, err
			}
			first := slices.Min(slices.Collect(maps.Keys(pointers)))
			s.at.LFS, s.at.LFSHash = first, pointers[first]
		}
	}
	if !config.Submodules && !lfs {
		return s, nil
	}
	origin := "https://fleet.invalid"
	if lfs {
		url, stop, err := serveContents(repo)
		if err != nil {
			return nil, err
		}
		origin, s.close, s.env = url, stop, noProxy()
	}
	checkout, err := repo.Checkout(ctx, remote, ref, commit, origin, config.Submodules)
	if err != nil {
		s.close()
		return nil, err
	}
	s.at.GitDir, s.at.Submodules, s.env = checkout.Dir, config.Submodules, append(s.env, checkout.Env...)
	return s, nil
}

// some names the first few of a list.
func some(list []string) string {
	const most = 3
	if len(list) > most {
		return strings.Join(list[:most], ", ") + " and others"
	}
	return strings.Join(list, ", ")
}
