package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) history() *cobra.Command {
	var f from
	var n, days int
	var stats bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the deployments of a host and what operators did, or a fleet's releases, newest first",
		Long: `History lists the deployments of this host, or of another by a hub (--host), and what operators did. Of a hub without --host it lists
the fleet's releases: how far each came, how long that took since the push, who wrote it, and when which ring was given it. --stats shows the fleet's figures over the last days instead: lead time,
change failure rate, time to restore (what they mean: OPERATIONS.md, Figures).`,
		Args: exactly(),
	}
	format := output(cmd)
	f.flags(cmd)
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many (1 to 1000; of a host by a hub, to 100)")
	cmd.Flags().BoolVar(&stats, "stats", false, "show the fleet's figures (by a hub)")
	cmd.Flags().IntVar(&days, "days", 30, "with --stats: of how many days (1 to 3660)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if n < 1 || n > 1000 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 1000, not %d", n))
		}
		if days < 1 || days > 3660 {
			return usage(cmd, fmt.Errorf("--days takes a number from 1 to 3660, not %d", days))
		}
		if err := f.resolve(cmd, true); err != nil {
			return err
		}
		switch {
		case stats && (f.hub == "" || f.host != ""):
			return usage(cmd, errors.New("--stats are a fleet's figures: give --hub, and no --host"))
		case stats:
			return a.stats(cmd.Context(), &f, days, *format == "json")
		case f.hub != "" && f.host == "":
			return a.timeline(cmd.Context(), &f, n, *format == "json")
		}
		past, err := historyOf(cmd.Context(), &f, n)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(past)
		}
		a.tellHistory(past)
		return nil
	}
	return cmd
}

// past is one line of a host's history: a deployment, or an act.
type past struct {
	*fleet.Deployment
	act *fleet.Act
	at  time.Time
}

// MarshalJSON writes it as what it is.
func (p past) MarshalJSON() ([]byte, error) {
	if p.act != nil {
		return json.Marshal(p.act)
	}
	return json.Marshal(p.Deployment)
}

// historyOf asks for the newest n of both, newest first.
func historyOf(ctx context.Context, f *from, n int) ([]past, error) {
	var deployments []fleet.Deployment
	var acts []fleet.Act
	if f.hub != "" {
		n = min(n, 100)
	}
	if err := f.ask(ctx, askTime, fmt.Sprintf("history?n=%d", n), &deployments); err != nil {
		return nil, err
	}
	if err := f.ask(ctx, askTime, fmt.Sprintf("acts?n=%d", n), &acts); err != nil {
		return nil, err
	}
	all := make([]past, 0, len(deployments)+len(acts))
	for i := range deployments {
		all = append(all, past{Deployment: &deployments[i], at: deployments[i].EndedAt})
	}
	for i := range acts {
		all = append(all, past{act: &acts[i], at: acts[i].At})
	}
	slices.SortStableFunc(all, func(a, b past) int { return b.at.Compare(a.at) })
	return all[:min(n, len(all))], nil
}

func (a *app) tellHistory(all []past) {
	if len(all) == 0 {
		fmt.Fprintln(a.Out, "nothing was deployed yet")
		return
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tRELEASE\tRESULT\tSECONDS\tCHANGE")
	for _, p := range all {
		fmt.Fprintf(w, "%s\t", p.at.Local().Format(time.DateTime))
		if p.act != nil {
			tellAct(w, *p.act)
			continue
		}
		d := *p.Deployment
		seconds := 0.0
		for _, s := range d.Stages {
			seconds += s.Seconds
		}
		fmt.Fprintf(w, "%s\t%s\t%.2f\t%s %s\n", d.Release.Name(), d.Result, seconds, short(d.Release.Source.Commit), d.Release.Source.Subject)
		if d.Failure != nil {
			fmt.Fprintf(w, "\t\t\t\t  %s\n", firstLine(d.Failure.Message))
		}
	}
	_ = w.Flush()
}

func tellAct(w io.Writer, act fleet.Act) {
	release, what := "", act.OutPath
	if act.Release != nil {
		release = act.Release.Name()
	}
	by := ""
	if act.By != nil {
		by = " by " + act.By.String()
	}
	if act.Until != nil {
		what = "until " + fleet.Moment(*act.Until)
	}
	fmt.Fprintf(w, "%s\t%s%s\t\t%s%s\n", release, act.Act, by, what, reason(act.Reason))
}
