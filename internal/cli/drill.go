package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	fl.BoolVar(&d.sandbox, "sandbox", false, "drill a fleet that is made for that: the default, without --live")
	fl.StringVar(&d.dir, "dir", "build/drill", "folder for hosts and logs of a sandbox")
	fl.StringArrayVar(&d.reports, "report", nil, "write the report: FORMAT=FILE, with one of "+strings.Join(drill.Formats, ", ")+"; may be repeated")
	fl.BoolVar(&d.save, "save", false, fmt.Sprintf("keep the report, for garrison drill history: of all, the newest %d", drillsKept))
	fl.StringVar(&d.kept, "kept", "", "with --save: folder to keep it in (default: $XDG_STATE_HOME/garrison/drills)")
	fl.StringSliceVar(&o.Only, "only", nil, "names of scenarios (default: all that can be drilled)")
	fl.StringSliceVar(&o.Allow, "allow", nil, "with --live: scenarios that may disturb the host, and shall be drilled")
	fl.IntVar(&o.Repeat, "repeat", 3, "how often the visible change travels, for its figures")
	fl.DurationVar(&o.Limit, "limit", 10*time.Minute, "from push to healthy, each time")
	fl.StringVar(&o.HostBase, "host-base", "", "base of hosts with a systemd, made by scripts/host-base (default: the one in the cache; none: hosts are plain namespaces)")
	for _, flag := range []string{"only", "allow"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(drill.Names(), cobra.ShellCompDirectiveNoFileComp))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := drillUsage(cmd, d, live, o); err != nil {
			return err
		}
		return a.runDrill(cmd.Context(), d, live, o)
	}
	cmd.AddCommand(a.drillHistory(), a.drillList())
	return cmd
}

// drillUsage says what is wrong with the flags, before anything is started: a drill takes minutes.
func drillUsage(cmd *cobra.Command, d drillFlags, live liveFlags, o drill.DrillOptions) error {
	for _, r := range d.reports {
		format, file, ok := strings.Cut(r, "=")
		if !ok || file == "" || !slices.Contains(drill.Formats, format) {
			return usage(cmd, fmt.Errorf("--report takes FORMAT=FILE, with one of %s, not %q", strings.Join(drill.Formats, " "), r))
		}
		if info, err := os.Stat(filepath.Dir(file)); err != nil || !info.IsDir() {
			return usage(cmd, fmt.Errorf("--report %s cannot be written: there is no folder %s", r, filepath.Dir(file)))
		}
	}
	if live.host == "" { // who gives one of these means somebody's fleet
		for _, flag := range []string{"revert", "allow", "hub", "token-file", "repo", "remote"} {
			if cmd.Flags().Changed(flag) {
				return usage(cmd, fmt.Errorf("--%s needs --live HOST", flag))
			}
		}
	}
	switch {
	case d.sandbox && live.host != "":
		return usage(cmd, errors.New("a drill is of a --sandbox or of a --live fleet, not of both"))
	case d.kept != "" && !d.save:
		return usage(cmd, errors.New("--kept needs --save"))
	case o.Repeat < 1 || o.Repeat > 100:
		return usage(cmd, fmt.Errorf("--repeat takes a number from 1 to 100, not %d", o.Repeat))
	case o.Limit <= 0:
		return usage(cmd, fmt.Errorf("--limit takes a time above 0, not %s", o.Limit))
	}
	if o.HostBase == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(o.HostBase, "usr/lib/systemd/systemd")); err != nil {
		return usage(cmd, fmt.Errorf("--host-base %s is no base of systemd hosts: scripts/host-base makes one, and prints where", o.HostBase))
	}
	return nil
}

// drillFlags are where a drill is, and what is done with its report.
type drillFlags struct {
	sandbox bool // which is the default
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
