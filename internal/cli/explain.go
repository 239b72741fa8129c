package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) explain() *cobra.Command {
	var f from
	cmd := &cobra.Command{
		Use:   "explain [HOST]",
		Short: "Say why a host is where it is, since when, and what would change that",
		Long: `Explain asks the agent on this host, or a hub about HOST (or --host). A hub also knows since when a host is silent, whether the newest change made a release
at all, and which alerts are open.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("explain takes one HOST at most, %d given", len(args)))
			}
			return nil
		},
	}
	format := output(cmd)
	f.flags(cmd)
	cmd.ValidArgsFunction = onlyFirst(f.hosts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 {
			if f.host != "" && f.host != args[0] {
				return usage(cmd, fmt.Errorf("explain is about one host, not %s and %s", args[0], f.host))
			}
			f.host = args[0]
		}
		if err := f.resolve(cmd, false); err != nil {
			return err
		}
		var s fleet.Status
		if err := f.ask(cmd.Context(), askTime, "status", &s); err != nil {
			return err
		}
		e := fleet.Explain(s)
		if f.hub != "" {
			if err := f.explainBeyond(cmd.Context(), s, &e); err != nil {
				return err
			}
		}
		if *format == "json" {
			return a.json(e)
		}
		a.tellExplanation(e)
		return nil
	}
	return cmd
}

// explainBeyond adds what a hub knows besides the host's own word.
func (f *from) explainBeyond(ctx context.Context, s fleet.Status, e *fleet.Explanation) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	var releases []fleet.ReleaseView
	var runs []fleet.Run
	var alerts []fleet.Alert
	for path, into := range map[string]any{"/api/v1/releases?n=1": &releases, "/api/v1/runs?n=20": &runs, "/api/v1/alerts": &alerts} {
		if _, err := f.get(ctx, path, into); err != nil {
			return err
		}
	}
	add := func(about, said string, commands ...string) {
		if commands == nil {
			commands = []string{}
		}
		e.Why = append(e.Why, fleet.Reason{About: about, Said: said, Commands: commands})
	}
	newest := fleet.Published{}
	if len(releases) > 0 {
		r := releases[0]
		newest = r.Published
		by := ""
		if r.Release.Source.Author != "" {
			by = " by " + r.Release.Source.Author
		}
		add("release", fmt.Sprintf("The newest release is %s of %s, from %s%s (%s): %s.", r.Release.Name(), fleet.Moment(r.CreatedAt), short(r.Release.Source.Commit), by, r.Release.Source.Subject, r.Text))
		ahead := s.Ahead != nil && s.Ahead.Release.Number >= r.Release.Number
		if s.Newest != nil && s.Newest.Number < r.Release.Number && !ahead && s.Phase != fleet.PhaseUnheard {
			add("release", "This host has not said that it knows that release; it knows "+s.Newest.Name()+".")
		}
	}
	for _, r := range runs { // the newest of the source branch that says something
		if r.Failure != nil && r.Failure.Code == fleet.CodeSuperseded || newest.Release.Number > 0 && r.Source.Branch != newest.Release.Source.Branch {
			continue
		}
		log := fmt.Sprintf("garrison hub log %d", r.ID)
		switch {
		case r.State == fleet.RunRunning:
			add("run", fmt.Sprintf("CI is at work on %s since %s (%s): run %d.", short(r.Source.Commit), fleet.Moment(r.StartedAt), orElse(string(r.Stage), "it just began"), r.ID), log+" -f")
		case r.State == fleet.RunFailed && r.StartedAt.After(newest.CreatedAt):
			add("run", fmt.Sprintf("What was pushed after that, %s (%s), made no release: run %d of CI %s.", short(r.Source.Commit), r.Source.Subject, r.ID, resultOf(r)), log)
		}
		break
	}
	if v, err := f.rollout(ctx); err != nil {
		return err
	} else if v != nil {
		if said := v.Awaits(s.Ring, s.Batch, v.Release); said != "" {
			add("ring", said, append(v.Commands(), "garrison watch --until ring:"+s.Ring)...)
		}
		for _, note := range v.Notes() {
			add("rollout", "The roll-out: "+note+".")
		}
	}
	for _, al := range alerts {
		if al.Host == s.Host {
			add("alert", fmt.Sprintf("There is an alert (%s) since %s: %s.", al.Severity, fleet.Moment(al.Since), al.What), al.Commands...)
		}
	}
	return nil
}

func (a *app) tellExplanation(e fleet.Explanation) {
	for _, w := range e.Why {
		fmt.Fprintln(a.Out, visible(w.Said))
		for _, c := range w.Commands {
			fmt.Fprintln(a.Out, "  →", visible(c))
		}
	}
}
