package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age/plugin"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

// readers say for whom the files of a work tree are encrypted: for the editors of garrison.toml, else for whom agenix's rules name.
type readers struct {
	names   []string // of the editors, as garrison.toml has them
	editors secret.Editors
	rules   *secret.Rules
	top     string // of the work tree, where there are rules
	ui      *plugin.ClientUI
}

// readersOf reads them. Only without editors in garrison.toml the rules are evaluated.
func (a *app) readersOf(ctx context.Context, repo string, c release.Config) (r readers, err error) {
	r = readers{names: c.Secrets.Editors, ui: a.pluginUI()}
	if len(r.names) > 0 {
		r.editors, err = secret.ParseEditors(r.names, r.ui)
		return r, err
	}
	nobody := fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s names no editors", release.ConfigPath).
		WithHint("list their public keys: [secrets] editors = [\"age1…\", \"ssh-ed25519 …\"]; or have agenix's rules in secrets.nix, in git")
	if r.top, err = git.TopLevel(ctx, repo); err != nil {
		return r, nobody.WithCause(err)
	}
	o, err := a.workTree(ctx, repo)
	if err != nil {
		return r, err
	}
	if r.rules, err = release.Rules(ctx, o); err == nil && r.rules == nil {
		err = nobody
	}
	return r, err
}

// workTree is what evaluates the work tree as it stands.
func (a *app) workTree(ctx context.Context, dir string) (release.Options, error) {
	n, err := nix.Find(ctx)
	if err != nil {
		return release.Options{}, err
	}
	repo, err := git.Open(ctx, dir)
	if err != nil {
		return release.Options{}, err
	}
	commit, _, err := git.WorkTree(ctx, dir)
	return release.Options{Repo: repo, Remote: "origin", Source: commit, Nix: n, Log: a.logger()}, err
}

// of is for whom a file on this machine is.
func (r readers) of(file string) (secret.Editors, error) {
	if r.rules == nil {
		return r.editors, nil
	}
	path, err := inTree(r.top, file)
	if err != nil {
		return secret.Editors{}, err
	}
	return r.rules.Encrypts(path, r.ui)
}

// inTree is the path of a file in the work tree; the file need not be there.
func inTree(top, file string) (string, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(abs))
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeSecret, "the folder of %s cannot be found", file).WithHint("make it first").WithCause(err)
	}
	path, err := filepath.Rel(top, filepath.Join(dir, filepath.Base(abs)))
	if err != nil || path == ".." || strings.HasPrefix(path, ".."+string(os.PathSeparator)) {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s is not in the work tree %s", file, top)
	}
	return filepath.ToSlash(path), nil
}

// forEach says of every file for whom it is to be, or names all those of which nothing says it. files are as shown → on disk.
func (r readers) forEach(sources []secret.SourceFile, files map[string]string) error {
	var unknown []string
	var first error
	for i, s := range sources {
		to, err := r.of(files[s.Path])
		if err != nil {
			unknown = append(unknown, s.Path)
			if first == nil {
				first = err
			}
		}
		sources[i].For = to
	}
	if len(unknown) > 1 {
		return fleet.Errorf(fleet.ClassOf(first), fleet.CodeOf(first), "nothing says for whom these are: %s", strings.Join(unknown, ", ")).
			WithHint("%s", fmt.Sprintf("add rules for them to %s, or name the editors in %s", r.rules.File, release.ConfigPath))
	}
	return first
}

// keyring knows the hosts' keys and those of all who may read.
func (r readers) keyring(hosts map[string][]string) *secret.Keyring {
	return secret.NewKeyring(hosts, append(append([]string{}, r.names...), r.rules.Editors(hosts)...))
}
