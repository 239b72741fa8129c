package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

func (a *app) drill() *cobra.Command {
	var o drill.DrillOptions
	var d drillFlags
	var live liveFlags
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Prove the whole way, from push to host, and that what breaks does no harm",
		Long: `Drill makes a visible change and follows it to the host, then breaks one thing after the other and looks at what comes of it: what must
stay as it was, who is told, how a person recovers. Everything is looked at from outside; what it changes is put back, also after Ctrl-C.

It drills a fleet that it makes for that in a sandbox; with --live HOST the fleet whose repository is --repo: one that must be well, and of
which only harmless things are drilled unless --allow names others (docs/DRILL.md).

Exit codes: 0 all passed, 6 something failed.`,
		Args: exactly(),
	}
	fl := cmd.Flags()
	live.add(cmd)
	fl.StringVar(&d.dir, "dir", "build/drill", "folder for hosts and logs of a sandbox")
	fl.StringArrayVar(&d.reports, "report", nil, "write the report: FORMAT=FILE, with one of "+strings.Join(drill.Formats, ", ")+"; may be repeated")
	fl.BoolVar(&d.save, "save", false, fmt.Sprintf("keep the report, for garrison drill history: of all, the newest %d", drillsKept))
	fl.StringVar(&d.kept, "kept", "", "with --save: folder to keep it in (default: $XDG_STATE_HOME/garrison/drills)")
	fl.StringSliceVar(&o.Only, "only", nil, "names of scenarios (default: all that can be drilled)")
	fl.StringSliceVar(&o.Allow, "allow", nil, "scenarios that may disturb a live host, and shall be drilled")
	fl.IntVar(&o.Repeat, "repeat", 3, "how often the visible change travels, for its figures")
	fl.DurationVar(&o.Limit, "limit", 10*time.Minute, "from push to healthy, each time")
	fl.StringVar(&o.HostBase, "host-base", "", "base of hosts with a systemd, made by scripts/host-base (default: the one in the cache; none: hosts are plain namespaces)")
	for _, flag := range []string{"only", "allow"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(drill.Names(), cobra.ShellCompDirectiveNoFileComp))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, r := range d.reports {
			if format, file, ok := strings.Cut(r, "="); !ok || file == "" || !slices.Contains(drill.Formats, format) {
				return usage(cmd, fmt.Errorf("--report takes FORMAT=FILE, with one of %s, not %q", strings.Join(drill.Formats, " "), r))
			}
		}
		if o.Repeat < 1 || o.Repeat > 100 {
			return usage(cmd, fmt.Errorf("--repeat takes a number from 1 to 100, not %d", o.Repeat))
		}
		if live.revert && live.host == "" {
			return usage(cmd, errors.New("--revert needs --live HOST"))
		}
		return a.runDrill(cmd.Context(), d, live, o)
	}
	cmd.AddCommand(a.drillHistory(), a.drillList())
	return cmd
}

// drillFlags are what is done with a drill's report, and where.
type drillFlags struct {
	dir     string
	reports []string // FORMAT=FILE
	save    bool
	kept    string // folder; "": the default
}

func (a *app) drillList() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List what can be drilled",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
			for _, s := range drill.Catalogue() {
				fmt.Fprintf(w, "%s\t%s\n", s[0], s[1])
			}
			return w.Flush()
		},
	}
}

func (a *app) runDrill(ctx context.Context, d drillFlags, live liveFlags, o drill.DrillOptions) (err error) {
	if o.Options, err = a.drillOptions(d.dir); err != nil {
		return err
	}
	if o.HostBase == "" {
		o.HostBase = sandbox.CachedBase()
	}
	var report fleet.DrillReport
	if live.host != "" {
		report, err = a.liveDrill(ctx, live, o)
	} else {
		report, err = drill.Sandbox(ctx, o)
	}
	if report.Where == "" { // it did not come so far that there is something to tell
		return err
	}
	for _, r := range d.reports {
		format, file, _ := strings.Cut(r, "=")
		err = errors.Join(err, writeReport(file, format, report))
	}
	if d.save {
		err = errors.Join(err, keepDrill(d.kept, report))
	}
	return err
}

func writeReport(file, format string, r fleet.DrillReport) error {
	var b bytes.Buffer
	if err := drill.Write(&b, r, format); err != nil {
		return err
	}
	if err := durable.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "the drill's report cannot be written to %s", file).WithCause(err)
	}
	return nil
}
