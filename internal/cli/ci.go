package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

type ciFlags struct {
	evalFlags
	repo, remote       string
	event, ref, commit string
	pull               int
	files              map[string]*string // of ciInputs
	cacheURL, hubURL   string
}

func (a *app) ci() *cobra.Command {
	f := ciFlags{files: map[string]*string{}}
	cmd := &cobra.Command{
		Use:   "ci",
		Short: "Do what a push, a pull request or a schedule asks for",
		Long: `Ci is what a CI job calls, whatever it was started for. It finds out from the job's environment (Actions of
Forgejo, Gitea and GitHub; GitLab CI) what happened, or from git outside of any CI:

  push to the source branch   check it, then release it, unless something newer is pushed meanwhile
  push to HOST-test           make a test release for that host; when the branch is deleted, take it away
  pull request                check it, and write the plan in a comment, without reading any secret
  schedule                    propose newer inputs of the flake in a pull request with its plan
  anything else               nothing

Keys and tokens come as files (GARRISON_KEY_FILE, or --key) or as they are (GARRISON_KEY), as CI systems hand out
secrets: those are kept in memory, handed to no program that is started, and masked in what is printed.`,
		Args: exactly(),
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine; in CI one is made where there is none")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote to read from and publish to")
	fl.StringVar(&f.event, "event", "", "what happened: push, pull_request, delete, schedule (default: as the CI job says; else push)")
	fl.StringVar(&f.ref, "ref", "", "what it happened to, refs/heads/main (default: as the CI job says; else the branch that is checked out)")
	fl.StringVar(&f.commit, "commit", "", "the commit that --ref points at (default: as the CI job says; else what is checked out)")
	fl.IntVar(&f.pull, "pull", 0, "the number of the pull request")
	for _, in := range ciInputs {
		f.files[in.env] = fl.String(in.flag, "", in.help+" (or "+in.env+", "+in.env+"_FILE)")
	}
	fl.StringVar(&f.cacheURL, "cache", "", "URL of the cache, with its name (default: cache.url in garrison.toml)")
	fl.StringVar(&f.hubURL, "hub", "", "URL of the hub to wake (default: GARRISON_HUB, or hub.url in garrison.toml)")
	f.evalFlags.add(fl)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runCI(cmd.Context(), f, *format == "json")
	}
	cmd.AddCommand(a.ciStatus())
	return cmd
}

// ciJob is one run of garrison ci.
type ciJob struct {
	*app
	flags   ciFlags
	event   ci.Event
	secrets *ciSecrets
	repo    *git.Repo
	remote  string // with what lets us in
	config  release.Config
	tip     string // of the source branch
	nix     *nix.Nix
	live    *live
	forge   ciForge
	time    *proc.Timeline
	out     ciJSON
	asJSON  bool
}

// ciJSON is what ci -o json prints.
type ciJSON struct {
	Schema int      `json:"schema"`
	Event  ci.Event `json:"event"`
	ci.Task
	Result       string               `json:"result"`
	SupersededBy string               `json:"supersededBy,omitempty"`
	Findings     *release.Findings    `json:"findings,omitempty"`
	Changes      *release.Changes     `json:"changes,omitempty"`
	Release      *releaseJSON         `json:"release,omitempty"`
	Update       *release.InputUpdate `json:"update,omitempty"`
	Proposal     string               `json:"proposal,omitempty"` // URL
	Gone         []string             `json:"gone,omitempty"`     // branches of test releases that were taken away
	Warnings     []string             `json:"warnings"`
	Failure      *fleet.Failure       `json:"failure,omitempty"`
	Seconds      float64              `json:"seconds"`
	ToolSeconds  float64              `json:"toolSeconds"` // of which other programs were at work
}

// What a run may come to.
const (
	ciNothing    = "nothing"
	ciReleased   = "released"
	ciUnchanged  = "unchanged" // it was released before; nothing is newer
	ciSuperseded = "superseded"
	ciPlanned    = "planned"
	ciProposed   = "proposed"
	ciTidied     = "tidied"
	ciFailed     = "failed"
)

func (a *app) runCI(ctx context.Context, f ciFlags, asJSON bool) error {
	event, inCI, err := ci.Read(os.Getenv, func(path string) (io.ReadCloser, error) { return os.Open(path) })
	if err == nil {
		event, err = f.overrule(ctx, event, inCI)
	}
	if err != nil && f.event == "" {
		return err
	}
	began := time.Now()
	j := &ciJob{time: &proc.Timeline{}, app: a, flags: f, event: event, asJSON: asJSON, out: ciJSON{Schema: 1, Event: event, Warnings: []string{}}}
	// What a pull request brings must not come near a secret; so none is read, whatever the job was given.
	if j.secrets, err = takeSecrets(f, event.Kind == ci.Pull, event.InActions, a.Err); err != nil {
		return err
	}
	defer j.secrets.close()
	a.Out, a.Err = j.secrets.hide(a.Out), j.secrets.hide(a.Err)
	var end func()
	j.live, end = a.showProgress()
	defer end()
	err = j.work(proc.WithTimeline(ctx, j.time))
	end()
	j.out.Seconds, j.out.ToolSeconds = time.Since(began).Seconds(), j.time.ToolTime().Seconds()
	return j.finish(ctx, err)
}

// overrule takes what the command line says in place of what the job's environment does, and outside of any CI what is checked out.
func (f ciFlags) overrule(ctx context.Context, e ci.Event, inCI bool) (ci.Event, error) {
	if f.event != "" || f.ref != "" {
		e.Kind, e.Ref, e.Commit = ci.Kind(cmp.Or(f.event, string(ci.Push))), f.ref, f.commit
	}
	if f.pull != 0 {
		e.Pull = f.pull
	}
	if f.commit != "" {
		e.Commit, e.Head = f.commit, f.commit
	}
	if inCI || e.Ref != "" || e.Kind == ci.Schedule {
		return e, nil
	}
	e.Kind = cmp.Or(e.Kind, ci.Push)
	branch, commit, err := git.Head(ctx, f.repo)
	if err != nil {
		return e, err
	}
	if branch == "" {
		return e, fleet.Errorf("", fleet.CodeUsage, "no branch is checked out in %s", f.repo).WithHint("say what happened to what: --event push --ref refs/heads/main")
	}
	e.Ref, e.Commit = branch, cmp.Or(e.Commit, commit)
	if e.Kind == ci.Pull {
		e.Head = cmp.Or(e.Head, e.Commit)
	}
	return e, nil
}

// work finds out what there is to do, and does it.
func (j *ciJob) work(ctx context.Context) (err error) {
	if j.nix, err = nix.Find(ctx); err != nil {
		return err
	}
	j.listen(j.nix, j.live)
	if err := j.open(ctx); err != nil {
		return err
	}
	j.openForge(ctx)
	if j.config, j.tip, err = release.Settings(ctx, j.repo, j.remote); err != nil {
		if j.event.Kind == ci.Push {
			j.tell(ctx, j.event.Commit, "check", err)
		}
		return err
	}
	j.out.Task = ci.Decide(j.event, j.config.Branches.Source, j.config.Branches.Release)
	j.say("%s", describe(j.event, j.out.Task))
	switch j.out.Work {
	case ci.Release:
		return j.release(ctx)
	case ci.Test:
		return j.makeRelease(ctx, j.out.Host, j.event.Commit)
	case ci.Tidy:
		return j.tidy(ctx)
	case ci.Plan:
		return j.planPull(ctx)
	case ci.Update:
		return j.update(ctx)
	}
	j.out.Result = ciNothing
	return nil
}

// describe says what happened and what follows.
func describe(e ci.Event, t ci.Task) string {
	what := string(e.Kind)
	if e.Ref != "" {
		what += " of " + strings.TrimPrefix(e.Ref, "refs/heads/")
	}
	if e.Commit != "" {
		what += " at " + short(e.Commit)
	}
	switch t.Work {
	case ci.Nothing:
		return what + ": nothing to do: " + t.Why
	case ci.Test:
		return what + ": a test release for " + t.Host
	}
	return what + ": " + string(t.Work)
}

// open finds the repository; in CI it makes one where there is none, which then gets what it needs by git alone.
func (j *ciJob) open(ctx context.Context) (err error) {
	j.remote = j.flags.remote
	j.repo, err = git.Open(ctx, j.flags.repo)
	if fleet.CodeOf(err) == fleet.CodeGit && j.event.Forge.Repo != "" {
		j.repo, err = git.Init(ctx, filepath.Join(j.flags.repo, "garrison.git"))
		if j.remote == "origin" {
			j.remote = j.event.Forge.CloneURL()
		}
	}
	if err != nil {
		return err
	}
	address, err := j.repo.Address(ctx, j.remote)
	if err != nil {
		return err
	}
	j.remote = j.secrets.letIn(address, j.event.Forge.Kind, j.event.Forge.URL)
	return nil
}

// say tells a person how far it is.
func (j *ciJob) say(format string, args ...any) {
	to := j.Out
	if j.asJSON {
		to = j.Err
	}
	fmt.Fprintf(to, format+"\n", args...)
}

// finish tells what the run came to, and what went wrong beside it.
func (j *ciJob) finish(ctx context.Context, err error) error {
	if fleet.CodeOf(err) == fleet.CodeSuperseded {
		j.out.Result, j.out.SupersededBy = ciSuperseded, strings.TrimPrefix(err.Error(), "superseded by ")
		j.say("%s: nothing was published", err)
		err = nil
	}
	if err != nil {
		j.out.Result, j.out.Failure = ciFailed, fleet.FailureOf("", err)
	}
	j.out.Warnings = append(j.out.Warnings, j.forge.warned()...)
	for _, w := range j.out.Warnings {
		if j.event.InActions {
			_ = release.Annotate(j.Err, "warning", "garrison", w) // that it cannot be printed is seen
		} else {
			fmt.Fprintln(j.Err, "garrison: warning:", w)
		}
	}
	if err != nil && j.event.InActions && ctx.Err() == nil {
		_ = release.Annotate(j.Err, "error", "garrison", err.Error())
	}
	if j.asJSON {
		return cmp.Or(err, j.json(j.out))
	}
	return err
}

// warn notes what went wrong without being a reason to fail.
func (j *ciJob) warn(what string, err error) {
	text := what
	if f := fleet.FailureOf("", err); f != nil {
		text += ": " + f.Message
		if f.Hint != "" {
			text += " → " + f.Hint
		}
	}
	j.out.Warnings = append(j.out.Warnings, j.secrets.redact(text))
}
