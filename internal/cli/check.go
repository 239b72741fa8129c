package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

// bytesFlag is a size on the command line: a number, perhaps with K, M, G or T behind it (powers of 1024).
type bytesFlag int64

func (b *bytesFlag) String() string { return strconv.FormatInt(int64(*b), 10) }
func (b *bytesFlag) Type() string   { return "size" }

func (b *bytesFlag) Set(s string) error {
	unit, digits := int64(1), strings.TrimSuffix(strings.ToUpper(s), "B")
	if i := strings.IndexByte("KMGT", last(digits)); i >= 0 {
		unit, digits = 1<<(10*(i+1)), digits[:len(digits)-1]
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size like 512M or 4G", s)
	}
	*b = bytesFlag(n * unit)
	return nil
}

// last is the last byte of s, 0 if it is empty.
func last(s string) byte {
	if s == "" {
		return 0
	}
	return s[len(s)-1]
}

// evalFlags bound evaluations, in every command that evaluates hosts.
type evalFlags struct {
	jobs   int
	memory bytesFlag
}

func (f *evalFlags) add(fl *pflag.FlagSet) {
	fl.IntVar(&f.jobs, "jobs", 0, "evaluations at a time (default: one a core)")
	fl.Var(&f.memory, "eval-memory", "what all evaluations at a time may take together, like 4G (default: no bound)")
}

type checkFlags struct {
	evalFlags
	repo, remote, commit, junit string
	noBuild                     bool
}

func (a *app) check() *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Evaluate every host, plan the secrets, build the flake's checks, run the fleet's own",
		Long: `Check looks at everything that a release would, and publishes nothing: every host evaluates, the secrets can
be re-keyed as the hosts want them, the flake's checks build, and the commands of garrison.toml succeed.
It looks at the work tree as it stands (files that git tracks), or at --commit. In an Actions job it
writes a group for each part as it ends, error annotations and the job's summary.`,
		Args: exactly(),
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote that submodules and git-lfs's contents come from")
	fl.StringVar(&f.commit, "commit", "", "commit to check (default: the work tree)")
	f.evalFlags.add(fl)
	fl.BoolVar(&f.noBuild, "no-build", false, "evaluate the flake's checks, but do not build them")
	fl.StringVar(&f.junit, "junit", "", "write the findings to this file as JUnit's XML")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runCheck(cmd.Context(), f, *format == "json")
	}
	return cmd
}

func (a *app) runCheck(ctx context.Context, f checkFlags, asJSON bool) error {
	n, err := nix.Find(ctx)
	if err != nil {
		return err
	}
	repo, err := git.Open(ctx, f.repo)
	if err != nil {
		return err
	}
	commit := f.commit
	if commit == "" {
		dirty := false
		if commit, dirty, err = git.WorkTree(ctx, f.repo); err != nil {
			return err
		}
		if dirty {
			fmt.Fprintln(a.Err, "checking the work tree with its uncommitted changes")
		}
	} else if id, ok, err := repo.Resolve(ctx, commit+"^{commit}"); err != nil {
		return err
	} else if !ok {
		return fleet.Errorf("", fleet.CodeNotFound, "there is no commit %q in %s", commit, f.repo)
	} else {
		commit = id
	}
	inActions := os.Getenv("GITHUB_ACTIONS") == "true" // the runners of Gitea and Forgejo set it too
	progress, end := a.showProgress()
	defer end()
	a.listen(n, progress)
	var unwritten error
	found, err := release.Check(ctx, release.CheckOptions{Repo: repo, Remote: f.remote, Commit: commit, Jobs: f.jobs, EvalMemory: int64(f.memory), NoBuild: f.noBuild, Nix: n, Evaluated: progress.evaluated,
		Each: func(x release.Finding) { // live: each as it is done
			switch {
			case asJSON:
			case inActions:
				unwritten = errors.Join(unwritten, x.WriteAnnotation(a.Out))
			default:
				tellFinding(a.Out, x)
			}
		}})
	end()
	if found != nil {
		if werr := a.writeFindings(found, f.junit, asJSON, inActions); err == nil {
			err = werr
		}
	}
	if err = cmp.Or(err, unwritten); err != nil {
		return err
	}
	if !found.Passed {
		return fleet.Errorf(fleet.Bad, fleet.CodeCheck, "%d of %d findings are failures", len(found.Failed()), len(found.List))
	}
	return nil
}

func tellFinding(to io.Writer, x release.Finding) {
	mark := "ok  "
	if !x.Passed {
		mark = "FAIL"
	}
	name := x.Name
	if x.Flake != "" {
		name += " (" + x.Flake + ")"
	}
	fmt.Fprintf(to, "%s %-8s %-24s %6.2f s\n", mark, x.Kind, name, x.Seconds)
	if !x.Passed {
		fmt.Fprintf(to, "       %s\n", strings.ReplaceAll(x.Detail, "\n", "\n       "))
	}
}

// writeFindings writes all that was asked for.
func (a *app) writeFindings(found *release.Findings, junit string, asJSON, inActions bool) error {
	if asJSON {
		if err := a.json(found); err != nil {
			return err
		}
	}
	if file := os.Getenv("GITHUB_STEP_SUMMARY"); file != "" && inActions {
		if err := writeTo(file, os.O_APPEND, found.WriteMarkdown); err != nil {
			return err
		}
	}
	if junit == "" {
		return nil
	}
	return writeTo(junit, os.O_TRUNC, found.WriteJUnit)
}

// writeTo has write write to a file.
func writeTo(file string, flag int, write func(io.Writer) error) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|flag, 0o644)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write %s", file).WithCause(err)
	}
	if err := write(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
