package release

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/secret"
)

// CheckOptions say what to check.
type CheckOptions struct {
	Repo       *git.Repo
	Remote     string // where submodules and git-lfs's contents come from
	Commit     string // in Repo
	Jobs       int    // evaluations at a time; 0 means one a core
	EvalMemory int64  // as in Options
	NoBuild    bool   // evaluate the flake's checks, but do not build them
	Nix        *nix.Nix
	// Each is told of every finding when it is made; may be nil.
	Each func(Finding)
	// Evaluated is told how many hosts have been evaluated, of how many; may be nil.
	Evaluated func(done, total int)
}

// checkRef keeps the commit that is being checked.
const checkRef = "refs/garrison/check"

// Check evaluates every host of a commit, plans its secrets without reading any, builds the flake's checks and runs the commands
// of garrison.toml. What does not pass is a finding, and all of it is looked at; an error means that it could not be looked at.
func Check(ctx context.Context, o CheckOptions) (*Findings, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	info, err := o.Repo.CommitInfo(ctx, o.Commit)
	if err != nil {
		return nil, err
	}
	c := &checking{CheckOptions: o, found: &Findings{Schema: FindingsSchema, Commit: o.Commit, Subject: info.Subject, Passed: true, List: []Finding{}}}
	if err := o.Repo.UpdateRef(ctx, checkRef, o.Commit); err != nil {
		return nil, err
	}
	if c.blobs, err = o.Repo.Blobs(ctx, o.Commit); err != nil {
		return nil, err
	}
	data, _, err := o.Repo.ReadFile(ctx, o.Commit, ConfigPath)
	if err != nil {
		return nil, err
	}
	if c.config, err = ParseConfig(ConfigPath, data); err != nil {
		return nil, err
	}
	c.system = nix.Native()
	if err := c.evaluate(ctx); err != nil {
		return c.found, err
	}
	err = c.commands(ctx)
	slices.SortStableFunc(c.found.List, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Kind), slices.Index(kinds, b.Kind)), cmp.Compare(a.Name, b.Name))
	})
	return c.found, err
}

// kinds of findings, in the order in which they are listed.
var kinds = []string{FoundHost, FoundRings, FoundSecrets, FoundCheck, FoundCommand}

// checking is one run of Check.
type checking struct {
	CheckOptions
	config Config
	blobs  map[string]string
	system string
	found  *Findings
}

func (c *checking) add(f Finding) {
	c.found.add(f)
	if c.Each != nil {
		c.Each(f)
	}
}

// finding says how something went that began at a time.
func finding(kind, name string, began time.Time, err error) Finding {
	f := Finding{Kind: kind, Name: name, Passed: err == nil, Seconds: time.Since(began).Seconds()}
	if err != nil {
		f.Detail = err.Error()
		var e *fleet.Error
		if errors.As(err, &e) {
			f.Detail = e.What
			if e.Hint != "" {
				f.Detail += "\n→ " + e.Hint
			}
		}
	}
	return f
}

// evaluate looks at hosts, secrets and the flake's checks.
func (c *checking) evaluate(ctx context.Context) error {
	src, err := openSource(ctx, c.Repo, c.Remote, checkRef, c.Commit, c.blobs, c.config)
	if err != nil {
		return err
	}
	defer src.Close()
	flakes, err := flakesIn(c.blobs, c.config.Flakes, src.at)
	if err != nil {
		return err
	}
	began := time.Now()
	v := newEvaluator(c.Nix, src, c.Jobs, c.EvalMemory)
	v.system, v.told = c.system, c.Evaluated
	failed := false
	v.each = func(h nix.Host, err error) {
		f := finding(FoundHost, h.Name, time.Now().Add(-h.Took), err)
		f.Flake = h.Flake.Dir
		if err == nil {
			f.Detail = h.OutPath
		}
		failed = failed || err != nil
		c.add(f)
	}
	e, err := v.all(ctx, flakes)
	if err != nil && !failed {
		return err // not a host's: the flake itself
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		c.rings(e, began)
		c.secrets(ctx, e, src, flakes, began)
	} else {
		c.add(Finding{Kind: FoundSecrets, Name: "re-key plan", Detail: "not looked at: which secrets a host wants is only known when all hosts evaluate"})
	}
	return c.flakeChecks(ctx, v, e)
}

// rings looks at who is in which, where there are any.
func (c *checking) rings(e *evaluation, began time.Time) {
	if len(c.config.Rings) == 0 {
		return
	}
	followed, byHand := e.split(c.config.Hosts.Manual)
	rings, places, idle, err := c.config.placed(followed, byHand, false)
	if old := withoutRings(followed); err == nil && len(idle)+len(old) > 0 {
		err = fleet.Errorf(fleet.Bad, fleet.CodeConfig, "%s", strings.Join(append(idle, old...), "\n"))
	}
	f := finding(FoundRings, "hosts of the rings", began, err)
	if err == nil {
		members := map[string]int{}
		for _, p := range places {
			members[p.ring]++
		}
		for _, r := range rings {
			f.Detail += fmt.Sprintf("%s: %d hosts in %d batches\n", r.Name, members[r.Name], r.Batches)
		}
		f.Detail = strings.TrimSpace(f.Detail)
	}
	c.add(f)
}

// secrets plans the re-keying, as a release of this commit would.
func (c *checking) secrets(ctx context.Context, e *evaluation, src *source, flakes []nix.Flake, began time.Time) {
	err := c.config.check(e.names())
	n := 0
	s := &state{Options: Options{Nix: c.Nix}, config: c.config, blobs: c.blobs}
	if err == nil {
		err = s.readRules(ctx, src, flakes)
	}
	if err == nil {
		in, werr := wanted(e, c.config, s.rules)
		n, err = len(in.Files), werr
		if err == nil {
			in.Blobs = c.blobs
			_, err = secret.MakePlan(in)
		}
	}
	f := finding(FoundSecrets, "re-key plan", began, err)
	if err == nil {
		f.Detail = fmt.Sprintf("%d files", n)
	}
	c.add(f)
}

// flakeChecks evaluates and builds the checks of all flakes.
func (c *checking) flakeChecks(ctx context.Context, v *evaluator, e *evaluation) error {
	type check struct {
		flake nix.Flake
		name  string
		drv   string
		began time.Time
		err   error
	}
	var checks []*check
	if e == nil {
		return nil
	}
	for i, contents := range e.contents {
		for _, name := range contents.Checks {
			checks = append(checks, &check{flake: e.flakes[i], name: name})
		}
	}
	v.parallel(len(checks), func(i int) {
		k := checks[i]
		k.began = time.Now()
		k.drv, k.err = v.nix.Check(ctx, k.flake, c.system, k.name)
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var drvs []string
	for _, k := range checks {
		if k.err == nil {
			drvs = append(drvs, k.drv)
		}
	}
	if !c.NoBuild && len(drvs) > 0 {
		why := c.Nix.Build(ctx, slices.Compact(slices.Sorted(slices.Values(drvs))), "")
		if ctx.Err() != nil {
			return why
		}
		unbuilt := map[string]bool{}
		if why != nil {
			var err error
			if unbuilt, err = c.Nix.Unbuilt(ctx, drvs); err != nil {
				return err
			}
		}
		for _, k := range checks {
			if k.err == nil && unbuilt[k.drv] {
				k.err = fleet.Errorf(fleet.ClassOf(why), fleet.CodeBuild, "check %s does not build:\n%s", k.name, why)
			}
		}
	}
	for _, k := range checks {
		f := finding(FoundCheck, k.name, k.began, k.err)
		f.Flake = k.flake.Dir
		c.add(f)
	}
	return nil
}

// commandTime bounds one of garrison.toml's commands.
const commandTime = 30 * time.Minute

// commands runs what garrison.toml declares, in a copy of the commit's files.
func (c *checking) commands(ctx context.Context) error {
	if len(c.config.Check.Commands) == 0 {
		return nil
	}
	dir, err := os.MkdirTemp("", "garrison-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := c.Repo.Export(ctx, c.Commit, dir); err != nil {
		return err
	}
	for _, k := range c.config.Check.Commands {
		began := time.Now()
		log, err := os.Create(filepath.Join(dir, ".garrison-check.log"))
		if err != nil {
			return err
		}
		limited, cancel := context.WithTimeoutCause(ctx, commandTime, fleet.Errorf(fleet.Bad, fleet.CodeTimeout, "it took longer than %s", commandTime))
		err = proc.RunTo(limited, log, proc.Cmd{Program: "sh", Args: []string{"-c", k.Run}, Dir: dir})
		cancel()
		said, _ := os.ReadFile(log.Name())
		log.Close()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			err = fleet.Errorf(fleet.Bad, fleet.CodeCheck, "command %s fails (%s): %v\n%s", k.Name, k.Run, err, tail(said))
		}
		c.add(finding(FoundCommand, k.Name, began, err))
	}
	return nil
}

// tail is the end of what a program said.
func tail(b []byte) string {
	const most = 8 << 10
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "\uFFFD")
}
