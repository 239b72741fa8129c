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
	fl.StringVar(&d.dir, "dir", "build/drill", "folder for hosts and logs of a sandbox")
	fl.StringArrayVar(&d.reports, "report", nil, "write the report: FORMAT=FILE, with one of "+strings.Join(drill.Formats, ", ")+"; may be repeated")
	fl.BoolVar(&d.save, "save", false, "keep the report, for garrison drill history")
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
	if len(report.Scenarios) == 0 {
		return err
	}
	for _, r := range d.reports {
		format, file, _ := strings.Cut(r, "=")
		err = errors.Join(err, writeReport(file, format, report))
	}
	if d.save {
		dir, dirErr := drillsDir()
		if dirErr == nil {
			dirErr = os.MkdirAll(dir, 0o700)
		}
		if dirErr == nil {
			dirErr = writeReport(filepath.Join(dir, report.StartedAt.Format("20060102T150405Z")+"-"+report.ID[:8]+".json"), "json", report)
		}
		err = errors.Join(err, dirErr)
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

// drillsDir is where drills are kept.
func drillsDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "garrison", "drills"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeState, "there is no place to keep drills").WithCause(err).WithHint("set XDG_STATE_HOME")
	}
	return filepath.Join(home, ".local", "state", "garrison", "drills"), nil
}

const maxDrillReport = 16 << 20 // bytes

func (a *app) drillHistory() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the drills that were kept by --save, newest first, and how their figures went",
		Args:  exactly(),
	}
	format := output(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		all, err := keptDrills()
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(all)
		}
		a.tellDrills(all)
		return nil
	}
	return cmd
}

// keptDrills are newest first.
func keptDrills() ([]fleet.DrillReport, error) {
	dir, err := drillsDir()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	all := []fleet.DrillReport{}
	for _, file := range slices.Backward(files) {
		var r fleet.DrillReport
		if _, err := durable.ReadJSON(file, maxDrillReport, &r); err != nil {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeState, "%s is no report of a drill", file).WithCause(err).WithHint("remove it")
		}
		all = append(all, r)
	}
	return all, nil
}

func (a *app) tellDrills(all []fleet.DrillReport) {
	if len(all) == 0 {
		fmt.Fprintln(a.Out, "no drill was kept yet: garrison drill --save")
		return
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tWHERE\tHOST\tRESULT\tPUSH→HEALTHY (MEDIAN, P95)\tFAILED")
	for _, r := range all {
		passed, failed := 0, []string{}
		for _, s := range r.Scenarios {
			switch s.Result {
			case fleet.DrillPass:
				passed++
			case fleet.DrillFail:
				failed = append(failed, s.Name)
			}
		}
		result, figures := "FAILED", ""
		if r.Passed {
			result = "passed"
		}
		if t := r.Timing; t != nil {
			figures = fmt.Sprintf("%.2f s, %.2f s", t.PushToHealthy.Median, t.PushToHealthy.P95)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s (%d of %d)\t%s\t%s\n", r.StartedAt.Local().Format(time.DateTime), r.Where, r.Host, result, passed, passed+len(failed), figures, strings.Join(failed, " "))
	}
	_ = w.Flush()
}
