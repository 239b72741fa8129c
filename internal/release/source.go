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

// source is a commit as Nix is to see it. It is closed when nix is done with it.
type source struct {
	*git.Checkout
	at   nix.Flake
	hint string // for a flake that does not evaluate
}

// openSource makes ready what Nix needs of a commit besides its own objects: submodules and what git-lfs keeps, if garrison.toml wants them.
// files are the commit's. That git-lfs keeps something is an error as long as garrison.toml does not say what is to become of it: a host must
// not get a pointer for a file's content without anybody's knowledge.
func openSource(ctx context.Context, repo *git.Repo, remote, ref, commit string, files map[string]string, config Config) (s *source, err error) {
	s = &source{}
	if _, there := files[".gitmodules"]; there && !config.Submodules {
		s.hint = "the repository has submodules, whose files are not seen: if hosts need them, say submodules = true in " + ConfigPath
	}
	var pointers map[string]string
	if config.LFS == nil || *config.LFS {
		if pointers, err = repo.Pointers(ctx, commit, files); err != nil {
			return nil, err
		}
		if len(pointers) > 0 && config.LFS == nil {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "git-lfs keeps the contents of %s: hosts would get pointers in their place", some(slices.Sorted(maps.Keys(pointers)))).
				WithHint("say in %s: lfs = true, if hosts need them (Nix 2.27 or newer), or lfs = false, if none does", ConfigPath)
		}
	}
	if s.Checkout, err = repo.Checkout(ctx, git.Remote{URL: remote}, ref, commit, config.Submodules, pointers); err != nil {
		return nil, err
	}
	s.at = nix.Flake{GitDir: s.Dir, Ref: ref, Commit: commit, Submodules: config.Submodules, LFS: s.LFS, LFSHash: s.LFSHash}
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
