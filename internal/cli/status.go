package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) status() *cobra.Command {
	var f from
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what this host runs, and why; or all hosts, by a hub",
		Long: `Status asks the agent on this host, or a hub about another one (--host). Of a hub without --host it shows the fleet: a line that says whether all is
well, the open alerts, how far the roll-out is ring by ring, and all hosts, problems first. What a host that is silent said last is not believed. Exit codes: 0 all is as the newest release says
(of a host: as the one that its ring has; or left to be deployed by hand), 3 it is not (yet), or not known, 4 somebody switched a host by hand. Alerts do not change the exit code.`,
		Args: exactly(),
	}
	format := output(cmd)
	f.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.resolve(cmd, true); err != nil {
			return err
		}
		if f.hub != "" && f.host == "" {
			return a.fleetStatus(cmd.Context(), &f, *format == "json")
		}
		var s fleet.Status
		if err := f.ask(cmd.Context(), askTime, "status", &s); err != nil {
			return err
		}
		if *format == "json" {
			if err := a.json(s); err != nil {
				return err
			}
		} else {
			a.tellStatus(s)
		}
		return statusCode(s)
	}
	return cmd
}

// statusCode is what a script learns from the exit code.
func statusCode(s fleet.Status) error {
	switch {
	case !s.Settled(), s.Seen != nil && s.Seen.Silent != nil:
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeNotConverged}))
	case s.Drift, s.Phase == fleet.PhaseOverruled, s.Phase == fleet.PhaseTesting:
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeDiffers}))
	}
	return nil
}

func (a *app) tellStatus(s fleet.Status) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	tellFailure := func(name string, f *fleet.Failure, since time.Time) {
		if f == nil {
			return
		}
		when := ""
		if !since.IsZero() {
			when = " (since " + ago(since) + ")"
		}
		first, more, _ := strings.Cut(f.Message, "\n")
		line(name, "%s%s", first, when)
		for l := range strings.Lines(more) {
			line("", "%s", strings.TrimRight(l, "\n"))
		}
		if f.Hint != "" {
			line("", "→ %s", f.Hint)
		}
	}
	line("host", "%s", s.Host)
	if s.Phase == fleet.PhaseUnheard {
		line("phase", "%s: %s", s.Phase, whatOf(s))
		_ = w.Flush()
		return
	}
	if h := s.Seen; h != nil && h.Silent != nil { // by a hub, which does not ask
		line("SILENT", "since %s (%s): what follows is what it said last", fleet.Moment(*h.Silent), ago(*h.Silent))
	} else if time.Since(s.At) > time.Minute {
		line("reported", "%s", ago(s.At))
	}
	if s.Seen != nil && s.Seen.Gone {
		line("GONE", "the newest release does not name it")
	}
	line("phase", "%s: %s (since %s)", s.Phase, s.Meaning(), ago(s.Since))
	if s.Newest != nil {
		line("newest release", "%s  %s  %s", fleet.TagName(s.Newest.Number), short(s.Newest.Source.Commit), s.Newest.Source.Subject)
	}
	if s.Ring != "" {
		line("ring", "%s, batch %d", s.Ring, max(1, s.Batch))
	}
	if a := s.Ahead; a != nil {
		line("ahead", "%s  %s  %s%s", a.Release.Name(), short(a.Release.Source.Commit), a.Release.Source.Subject, stagedAhead(*a))
		tellFailure("", a.Failure, time.Time{})
	}
	if s.Active != nil {
		line("active release", "%s, confirmed %s", s.Active.Release.Name(), ago(s.Active.At))
	}
	if s.Target != nil {
		line("wanted", "%s  %s", s.Target.Release.Name(), s.Target.OutPath)
	}
	if c := s.Choice; c != nil {
		line("CHOSEN", "%s by %s%s: %s", c.Release.Name(), c.By, reason(c.Reason), c.OutPath)
	}
	if p := s.Suspended; p != nil {
		line("SUSPENDED", "by %s until %s%s", p.By, fleet.Moment(p.Until), reason(p.Reason))
	}
	line("current system", "%s", orNone(s.Systems.Current))
	if s.Systems.Profile != s.Systems.Current {
		line("profile", "%s", orNone(s.Systems.Profile))
	}
	if s.Drift {
		since := ""
		if s.Drifted != nil {
			since = " (since " + ago(s.Drifted.Since) + ")"
		}
		line("DRIFT", "somebody switched this host by hand%s; the next release that changes it ends that", since)
	}
	tellFailure("FAILED", s.Failure, time.Time{})
	if b := s.Reboot; b != nil {
		if b.Needed {
			line("REBOOT", "%s", b.Meaning())
		}
		tellFailure("REBOOT", b.Failure, time.Time{})
	}
	if s.Refused != nil {
		tellFailure("REFUSED", &s.Refused.Failure, s.Refused.Since)
	}
	if len(s.Remotes) < 2 {
		tellFailure("GIT", s.Remote.Failure, s.Remote.Since)
	} else {
		for _, r := range s.Remotes {
			line("remote "+r.Name, "%s", remoteState(r))
			tellFailure("", r.Failure, r.Since)
			if r.Refused != nil && s.Refused == nil {
				tellFailure("", &r.Refused.Failure, r.Refused.Since)
			}
		}
	}
	tellFailure("HUB", s.Hub.Failure, s.Hub.Since)
	if s.Pushing > 0 {
		line("to be pushed", "%d systems that were built here", s.Pushing)
	}
	tellFailure("PUSH", s.Push.Failure, s.Push.Since)
	if !s.Remote.LastOK.IsZero() {
		line("looked at git", "%s", ago(s.Remote.LastOK))
	}
	_ = w.Flush()
}

// stagedAhead says how far a release is on a host whose ring is not given it yet, to follow its name.
func stagedAhead(a fleet.Ahead) string {
	switch {
	case a.StagedAt != nil:
		return " (staged " + ago(*a.StagedAt) + ")"
	case a.Failure != nil:
		return " (could not be staged)"
	}
	return " (not staged yet)"
}

// remoteState says in words how a git remote is.
func remoteState(r fleet.Remote) string {
	switch {
	case r.Failure != nil && r.Failure.Stage == fleet.Verify:
		return "CANNOT BE VERIFIED, answered " + ago(r.LastOK)
	case r.Failure != nil:
		return "UNREACHABLE, answered " + ago(r.LastOK)
	case r.LastOK.IsZero():
		return "not asked yet"
	case r.Refused != nil:
		return "REFUSED, at " + short(r.Tip)
	case r.Behind:
		return "behind, at " + short(r.Tip)
	case r.Tip == "":
		return "has no release, answered " + ago(r.LastOK)
	}
	return "in order, at " + short(r.Tip) + ", answered " + ago(r.LastOK)
}

func short(commit string) string { return commit[:min(len(commit), 12)] }

// reason is a reason as the end of a line.
func reason(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// ago is how long ago t was, in one unit.
func ago(t time.Time) string {
	switch d := time.Since(t); {
	case t.IsZero():
		return "never"
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d.Hours()))
	default:
		return t.Local().Format(time.DateOnly)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
