package cli

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

// initFlags are those of init in a fleet's repository.
type initFlags struct {
	evalFlags
	repo, remote, forge, runner string
	cache, pushToken, identity  string
	tokenFile, moduleURL        string
	setSecrets, dryRun          bool
}

// fleetInit is one run of init in a fleet's repository: what was found out, and what is to be written.
type fleetInit struct {
	*app
	initFlags
	repo    *git.Repo
	nix     *nix.Nix
	top     string // the work tree's folder
	commit  string // the work tree as it stands
	address string // of the remote
	source  string // branch
	forge   forge.Config
	actions string // the folder for workflows; "" for none
	said    *release.Declared
	keys    keysFolder
	editors foundEditors
	hosts   foundHostKeys
	cache   foundCache
	token   func() (string, error) // for the forge; nil without
	differ  []string               // files that are there with another content
	wrote   int
}

func (a *app) initFleet(ctx context.Context, f initFlags) error {
	i := &fleetInit{app: a, initFlags: f, token: tokenFrom(f.tokenFile)}
	if v := os.Getenv("GARRISON_FORGE_TOKEN"); i.token == nil && v != "" {
		i.token = func() (string, error) { return strings.TrimSpace(v), nil }
	}
	if f.setSecrets && i.token == nil {
		return fleet.Errorf("", fleet.CodeUsage, "--set-secrets needs a token for the forge").
			WithHint("give it with --forge-token-file, or in GARRISON_FORGE_TOKEN; it needs the scope write:repository")
	}
	if !slices.Contains([]string{"", "forgejo", "gitea", "github", "none"}, f.forge) {
		return fleet.Errorf("", fleet.CodeUsage, "--forge takes forgejo, gitea, github or none, not %q", f.forge)
	}
	for _, step := range []func(context.Context) error{i.open, i.findForge, i.evaluate, i.findCache, i.findEditors, i.write} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if len(i.differ) > 0 {
		return fleet.Errorf("", fleet.CodeDiffers, "%s: there already, with another content, and left as it is", strings.Join(i.differ, ", ")).
			WithHint("the differences are above: take over what you want, or remove the file and run this again")
	}
	return nil
}

func (i *fleetInit) tell(about, format string, args ...any) {
	fmt.Fprintf(i.Out, "%-11s %s\n", about, fmt.Sprintf(format, args...))
}

// open finds repository, remote and source branch.
func (i *fleetInit) open(ctx context.Context) (err error) {
	if i.repo, err = git.Open(ctx, i.initFlags.repo); err != nil {
		return err
	}
	if i.top, err = git.TopLevel(ctx, i.initFlags.repo); err != nil {
		return err
	}
	if i.commit, _, err = git.WorkTree(ctx, i.top); err != nil {
		return err
	}
	if i.address, err = i.repo.RemoteURL(ctx, i.remote, false); err != nil {
		return err
	}
	if i.address == "" {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "the repository has no remote %s, from which hosts could fetch releases", i.remote).
			WithHint("git remote add %s URL, or name another one with --remote", i.remote)
	}
	if i.keys, err = findKeysFolder(i.address, i.top); err != nil {
		return err
	}
	if i.nix, err = nix.Find(ctx); err != nil {
		return err
	}
	ask, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	i.source, err = i.repo.DefaultBranch(ask, i.remote)
	if err != nil || i.source == "" { // the remote may be new, or away
		if i.source, err = i.repo.Branch(ctx); err != nil {
			return err
		}
	}
	i.source = cmp.Or(i.source, "main")
	i.tell("remote", "%s (%s), source branch %s", git.Redact(i.address), i.remote, i.source)
	return nil
}

// The folders that forges read workflows from.
const (
	forForgejo = ".forgejo/workflows"
	forGitea   = ".gitea/workflows"
	forGitHub  = ".github/workflows"
)

// findForge asks the remote's server which forge it is, unless that was said.
func (i *fleetInit) findForge(ctx context.Context) error {
	var there bool
	i.forge, there = forge.Detect(i.address)
	switch i.initFlags.forge {
	case "forgejo":
		i.forge.Kind, i.actions = forge.Gitea, forForgejo
	case "gitea":
		i.forge.Kind, i.actions = forge.Gitea, forGitea
	case "github":
		i.forge.Kind, i.actions = forge.GitHub, forGitHub
	case "none":
		i.forge.Kind = ""
	case "":
		if !there {
			i.tell("forge", "none: the remote is on no server")
			return nil
		}
		return i.askForge(ctx)
	}
	i.tell("forge", "%s, as you say", i.initFlags.forge)
	return nil
}

func (i *fleetInit) askForge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	found, err := forge.Identify(ctx, i.forge)
	if err != nil {
		i.tell("forge", "not known: %s", strings.ReplaceAll(err.Error(), "\n", " "))
		i.tell("", "→ say which it is, --forge forgejo, gitea, github or none; without, no workflow is written")
		return nil
	}
	i.forge = found
	name := string(found.Kind)
	switch found.Kind {
	case forge.GitHub:
		i.actions = forGitHub
	case forge.Gitea:
		i.actions = forGitea
		if forgejo, err := forge.IsForgejo(ctx, found); err == nil && forgejo {
			name, i.actions = "forgejo", forForgejo
		}
	}
	i.tell("forge", "%s at %s, repository %s", name, found.URL, found.Repo)
	return nil
}

// evaluate asks the flake for its hosts, and what they declare.
func (i *fleetInit) evaluate(ctx context.Context) (err error) {
	progress, end := i.showProgress()
	defer end()
	i.listen(i.nix, progress)
	i.said, err = release.DeclaredSecrets(ctx, release.Options{Repo: i.repo, Remote: i.remote, Source: i.commit, Nix: i.nix, Jobs: i.jobs, EvalMemory: int64(i.memory), Evaluated: progress.evaluated})
	if err != nil {
		return err
	}
	end()
	i.tell("hosts", "%s", strings.Join(i.said.Names, ", "))
	return nil
}

// workflow is where the workflow stands, and its text.
func (i *fleetInit) workflow() (file, text string) {
	source := i.source
	if source == "main" {
		source = ""
	}
	return path.Join(i.actions, "garrison.yml"), ci.Workflow(ci.WorkflowOptions{Source: source, Runner: i.runner})
}

// write writes what is missing, says what is to be done next, and leaves what is there as it is. Each file is written whole or not at all, so that a run
// that was cut off is taken up by the next.
func (i *fleetInit) write(ctx context.Context) error {
	public, err := i.releaseKey(ctx)
	if err != nil {
		return err
	}
	if err := i.cacheKey(); err != nil {
		return err
	}
	if err := i.config(ctx); err != nil {
		return err
	}
	if i.actions != "" {
		file, text := i.workflow()
		if err := i.place(ctx, file, text); err != nil {
			return err
		}
	}
	patch, err := i.wire(ctx, public)
	if err != nil {
		return err
	}
	if err := i.giveSecrets(ctx); err != nil {
		return err
	}
	if i.wrote == 0 {
		i.tell("unchanged", "everything is there already; nothing was written")
	}
	i.next(patch)
	return nil
}

// place writes a file of the work tree unless it is there.
func (i *fleetInit) place(ctx context.Context, file, text string) error {
	there, err := readConf(filepath.Join(i.top, file))
	switch {
	case err != nil:
		return err
	case there == text:
		i.tell("unchanged", "%s", file)
		return nil
	case there != "":
		return i.differs(ctx, file, there, text)
	case i.dryRun:
		i.wrote++
		i.tell("would write", "%s", file)
		fmt.Fprintf(i.Out, "%s\n", indented(text))
		return nil
	}
	return i.put(filepath.Join(i.top, file), file, text, 0o644)
}

// differs shows what a file would be changed to.
func (i *fleetInit) differs(ctx context.Context, file, there, text string) error {
	patch, err := i.repo.Diff(ctx, i.commit, map[string]string{file: there}, map[string]string{file: text})
	if err != nil {
		return err
	}
	i.differ = append(i.differ, file)
	i.tell("differs", "%s", file)
	fmt.Fprintf(i.Out, "%s\n", indented(patch))
	return nil
}

// put writes a file and tells of it by its name.
func (i *fleetInit) put(file, name, text string, perm os.FileMode) error {
	folder := os.FileMode(0o755)
	if perm&0o077 == 0 {
		folder = 0o700
	}
	err := os.MkdirAll(filepath.Dir(file), folder)
	if err == nil {
		err = durable.Sweep(filepath.Dir(file)) // what a run that was killed has left
	}
	if err == nil {
		err = durable.WriteFile(file, []byte(text), perm)
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write %s", file).WithHint("check the folder's owner, and the free space").WithCause(err)
	}
	i.wrote++
	i.tell("wrote", "%s", name)
	return nil
}

func indented(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n    ")
}

// giveSecrets sets the forge's Actions secrets, where that was asked for.
func (i *fleetInit) giveSecrets(ctx context.Context) error {
	if !i.setSecrets {
		return nil
	}
	c := i.forge
	c.Token = i.token
	if i.dryRun {
		for _, s := range i.secrets() {
			i.tell("would set", "%s from %s, at %s", s.name, s.file, i.forge.URL)
		}
		return nil
	}
	f, err := forge.Open(c)
	if err != nil {
		return err
	}
	keeper, can := f.(forge.Secrets)
	if !can {
		return fleet.Errorf("", fleet.CodeUsage, "%s takes no secrets by --set-secrets", i.forge.URL).WithHint("set them as shown without it")
	}
	for _, s := range i.secrets() {
		if s.file == "" {
			continue
		}
		value, err := readSmall(s.file)
		if err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read %s", s.file).WithCause(err)
		}
		if err := keeper.SetSecret(ctx, s.name, string(value)); err != nil {
			return err
		}
		i.tell("set", "%s, from %s", s.name, s.file)
	}
	return nil
}
