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

const defaultSocket = "/run/garrison/agent.sock"

func (a *app) status() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what this host runs, and why",
		Long: `Status asks the agent on this host. Exit codes: 0 all is as the newest release says,
3 it is not (yet), 4 somebody switched the host by hand.`,
		Args: exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s fleet.Status
		if err := askAgent(cmd.Context(), socket, "/v1/status", &s); err != nil {
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
	// A tip that cannot be verified, or that we are not let in to see, is a release that is not followed; a remote that is away
	// may come back.
	f := s.Remote.Failure
	unverified := f != nil && (f.Stage == fleet.Verify || f.Code == fleet.CodeKey || f.Code == fleet.CodeUnauthorized)
	switch {
	case s.Refused != nil, s.Failure != nil, unverified, !slices.Contains([]fleet.Phase{fleet.PhaseIdle, fleet.PhaseManual, fleet.PhaseOverruled}, s.Phase), s.Reboot != nil && s.Reboot.Failure != nil:
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeNotConverged}))
	case s.Drift, s.Phase == fleet.PhaseOverruled:
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeDiffers}))
	}
	return nil
}

// meaning says in words what a phase is.
func meaning(s fleet.Status) string {
	release := "a release"
	if s.Target != nil {
		release = s.Target.Release.Name()
	}
	switch s.Phase {
	case fleet.PhaseNew:
		return "has not seen a release yet"
	case fleet.PhaseIdle:
		return "runs what the newest release says"
	case fleet.PhaseManual:
		if s.Failure != nil {
			return "is not in the newest release"
		}
		return "is left to be deployed by hand"
	case fleet.PhaseReboot:
		return "must be rebooted to run the newest release"
	case fleet.PhaseHeld:
		return release + " is bad for this host; one with another system ends this"
	case fleet.PhaseWaiting:
		return release + " is fetched, and waits " + waitsFor(s)
	case fleet.PhaseOverruled:
		if s.Choice != nil {
			return fmt.Sprintf("runs what %s chose (%s)", s.Choice.By, s.Choice.Act)
		}
		return "runs what somebody switched to by hand"
	case fleet.PhaseStaging:
		return "fetches " + release
	case fleet.PhaseActivating:
		return "activates " + release
	case fleet.PhaseRetrying:
		when := "soon"
		if s.RetryAt != nil {
			when = "at " + s.RetryAt.Local().Format(time.TimeOnly)
		}
		times := "once"
		if s.Attempt > 1 {
			times = fmt.Sprintf("%d times", s.Attempt)
		}
		return fmt.Sprintf("%s failed %s, and is tried again %s", release, times, when)
	}
	return "is in a phase that this garrison does not know"
}

// waitsFor says what a staged system waits for.
func waitsFor(s fleet.Status) string {
	if s.Wait == nil {
		return "for nothing"
	}
	until := "later"
	if s.Wait.Until != nil {
		until = moment(*s.Wait.Until)
	}
	switch s.Wait.For {
	case fleet.ForConfirm:
		return "for somebody to say: garrison confirm " + s.Target.Release.Name()
	case fleet.ForWindow:
		return "for its window, which opens " + until
	case fleet.ForResume:
		return "for the end of the suspension, " + until
	case fleet.ForGrace:
		return "until " + until + ", so that whoever switched this host by hand can end"
	}
	return "for " + string(s.Wait.For)
}

// moment is a time as people near the host say it.
func moment(t time.Time) string { return t.Local().Format("Mon 2006-01-02 15:04") }

func (a *app) tellStatus(s fleet.Status) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("host", "%s", s.Host)
	line("phase", "%s: %s (since %s)", s.Phase, meaning(s), ago(s.Since))
	if s.Newest != nil {
		line("newest release", "%s  %s  %s", fleet.TagName(s.Newest.Number), short(s.Newest.Source.Commit), s.Newest.Source.Subject)
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
		line("SUSPENDED", "by %s until %s%s", p.By, moment(p.Until), reason(p.Reason))
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
	tellFailure("FAILED", s.Failure, time.Time{})
	if b := s.Reboot; b != nil {
		if b.Needed {
			line("REBOOT", "%s", rebootMeaning(*b))
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
