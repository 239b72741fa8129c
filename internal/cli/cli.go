// Package cli is the command line: one file for each command, and the wiring of
// the parts, which know nothing of each other. Start at Main.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	_ "time/tzdata" // rings name time zones, and not every machine that releases has them

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Stdio is what a command reads from and writes to.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// app is what all commands share.
type app struct {
	Stdio
	verbose bool
}

// Main runs the command line args (without the program's name) and returns the exit code.
// SIGINT and SIGTERM end the command's context; a second one ends the process.
func Main(args []string, stdio Stdio) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	return Run(ctx, args, stdio)
}

// Run is Main under a context of the caller's.
func Run(ctx context.Context, args []string, stdio Stdio) int {
	a := &app{Stdio: stdio}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdio.In)
	root.SetOut(stdio.Out)
	root.SetErr(stdio.Err)
	if err := root.ExecuteContext(ctx); err != nil {
		var code exitCode
		if errors.As(err, &code) {
			return int(code)
		}
		a.complain(err)
		return ExitCode(err)
	}
	return 0
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "garrison",
		Short: "GitOps for NixOS fleets",
		Long: `Garrison is GitOps for NixOS fleets: a push to main is evaluated, its secrets are re-keyed, it is
built, cached and published as a signed release, which every host pulls, activates, checks, and
keeps or rolls back. To see all of that on this machine: garrison demo

Exit codes: 0 ok, 1 error, 2 usage, 3 not converged, 4 drift, 5 timed out, 6 demo failed.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "show the causes of errors, and debug messages")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(cmd, err) })
	for _, g := range []struct {
		title    string
		commands []*cobra.Command
	}{
		{"In CI, and for those who change the fleet:", []*cobra.Command{a.initialize(), a.doctor(), a.check(), a.plan(), a.release(), a.promote(), a.rollout(), a.ci(), a.secrets()}},
		{"On a host:", append([]*cobra.Command{a.agent(), a.status(), a.explain(), a.history(), a.events(), a.watch(), a.logs(), a.diff()}, a.orders()...)},
		{"On a server:", []*cobra.Command{a.hub(), a.alerts(), a.notify(), a.cache()}},
		{"To try and to measure it:", []*cobra.Command{a.demo(), a.drill(), a.bench()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.title, Title: g.title})
		for _, cmd := range g.commands {
			cmd.GroupID = g.title
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(a.version(), a.activate(), a.sandboxInit())
	return root
}

// noCommand refuses what is not a command; cobra has a suggestion for it.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	err := fleet.Errorf("", fleet.CodeUsage, "there is no command %q", cmd.CommandPath()+" "+args[0])
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return err.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return err.WithHint("see %s --help", cmd.CommandPath())
}

func usage(cmd *cobra.Command, err error) error {
	return fleet.Errorf("", fleet.CodeUsage, "%s", err).WithHint("see %s --help", cmd.CommandPath())
}

// exactly wants n arguments; names say which.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		want := "no arguments"
		if len(names) > 0 {
			want = strings.Join(names, " ")
		}
		return usage(cmd, fmt.Errorf("%s takes %s, %d given", strings.TrimPrefix(cmd.CommandPath(), "garrison "), want, len(args)))
	}
}

// exitCode is an error that was told already and only sets the exit code.
type exitCode int

func (exitCode) Error() string { return "" }

// ExitCode is the one place where errors become exit codes.
func ExitCode(err error) int {
	switch fleet.CodeOf(err) {
	case "":
		return 0
	case fleet.CodeUsage:
		return 2
	case fleet.CodeNotConverged:
		return 3
	case fleet.CodeDiffers:
		return 4
	case fleet.CodeTimeout:
		return 5
	case fleet.CodeDrillFailed:
		return 6
	}
	return 1
}

// complain tells a person what failed and what to do; with -v also why.
func (a *app) complain(err error) {
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.Err, "garrison: stopped")
		return
	}
	var e *fleet.Error
	if !errors.As(err, &e) {
		fmt.Fprintln(a.Err, "garrison:", err)
		return
	}
	what := e.What
	if e.Err != nil && (a.verbose || e.Hint == "") {
		what += ": " + e.Err.Error()
	}
	fmt.Fprintln(a.Err, "garrison:", what)
	if e.Hint != "" {
		fmt.Fprintln(a.Err, "  →", e.Hint)
	}
	if a.verbose {
		fmt.Fprintf(a.Err, "  (code %s, class %s)\n", e.Code, fleet.ClassOf(err))
	}
}

// output adds -o to a command.
func output(cmd *cobra.Command) *string {
	format := cmd.Flags().StringP("output", "o", "text", "text or json")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"text", "json"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *format != "text" && *format != "json" {
			return usage(cmd, fmt.Errorf("-o takes text or json, not %q", *format))
		}
		return nil
	}
	return format
}

func (a *app) json(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.Out, "garrison", Version())
			return err
		},
	}
}

// linkedVersion is set by the linker where there is no repository to record a version of: by nix/package.nix.
var linkedVersion string

// Version is what the linker was told, else what the Go toolchain recorded of this build.
func Version() string {
	if linkedVersion != "" {
		return linkedVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
