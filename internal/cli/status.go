package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
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
	switch {
	case !s.Converged():
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeNotConverged}))
	case s.Drift:
		return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeDiffers}))
	}
	return nil
}

func (a *app) tellStatus(s fleet.Status) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	line("host", "%s", s.Host)
	line("phase", "%s: %s (since %s)", s.Phase, s.Meaning(), ago(s.Since))
	if s.Newest != nil {
		line("newest release", "%s  %s  %s", fleet.TagName(s.Newest.Number), short(s.Newest.Source.Commit), s.Newest.Source.Subject)
	}
	if s.Active != nil {
		line("active release", "%s, confirmed %s", fleet.TagName(s.Active.Release.Number), ago(s.Active.At))
	}
	if s.Target != nil {
		line("wanted", "%s  %s", fleet.TagName(s.Target.Release.Number), s.Target.OutPath)
	}
	line("current system", "%s", orNone(s.Systems.Current))
	if s.Systems.Profile != s.Systems.Current {
		line("profile", "%s", orNone(s.Systems.Profile))
	}
	if s.Drift {
		line("DRIFT", "somebody switched this host by hand; the next release that changes it ends that")
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
	if s.Refused != nil {
		tellFailure("REFUSED", &s.Refused.Failure, s.Refused.Since)
	}
	tellFailure("GIT", s.Remote.Failure, s.Remote.Since)
	tellFailure("HUB", s.Hub.Failure, s.Hub.Since)
	if !s.Remote.LastOK.IsZero() {
		line("looked at git", "%s", ago(s.Remote.LastOK))
	}
	_ = w.Flush()
}

func (a *app) history() *cobra.Command {
	var socket string
	var n int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List the deployments of this host, newest first",
		Args:  exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many (1 to 1000)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if n < 1 || n > 1000 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 1000, not %d", n))
		}
		past := []fleet.Deployment{}
		if err := askAgent(cmd.Context(), socket, fmt.Sprintf("/v1/history?n=%d", n), &past); err != nil {
			return err
		}
		slices.Reverse(past)
		if *format == "json" {
			return a.json(past)
		}
		a.tellHistory(past)
		return nil
	}
	return cmd
}

func (a *app) tellHistory(past []fleet.Deployment) {
	if len(past) == 0 {
		fmt.Fprintln(a.Out, "nothing was deployed yet")
		return
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHEN\tRELEASE\tRESULT\tSECONDS\tCHANGE")
	for _, d := range past {
		seconds := 0.0
		for _, s := range d.Stages {
			seconds += s.Seconds
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f\t%s %s\n", d.EndedAt.Local().Format(time.DateTime), fleet.TagName(d.Release.Number), d.Result, seconds, short(d.Release.Source.Commit), d.Release.Source.Subject)
		if d.Failure != nil {
			fmt.Fprintf(w, "\t\t\t\t  %s\n", firstLine(d.Failure.Message))
		}
	}
	_ = w.Flush()
}

const maxAgentAnswer = 64 << 20 // bytes

// askAgent asks the agent on its socket.
func askAgent(ctx context.Context, socket, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "no agent answers on %s", socket).
			WithHint("is it running, and may you (root, or the group garrison) ask it? systemctl status garrison-agent").WithCause(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fleet.Errorf(fleet.Local, fleet.CodeRemote, "the agent answers %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAgentAnswer)).Decode(into); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the agent's answer cannot be read").WithCause(err)
	}
	return nil
}

func short(commit string) string { return commit[:min(len(commit), 12)] }

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
