package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) alerts() *cobra.Command {
	var h aHub
	var all bool
	var n int
	cmd := &cobra.Command{
		Use:   "alerts",
		Short: "Say what is wrong in the fleet, as a hub knows it, and what to type next",
		Long: `Alerts lists what is wrong now; with --all what was, too, newest first. The exit code is 3 when something critical is, so that
scripts need not read: 0 means that a hub was asked and knows of nothing critical.`,
		Args: exactly(),
	}
	format := output(cmd)
	h.flags(cmd)
	cmd.Flags().BoolVar(&all, "all", false, "those that are over, too")
	cmd.Flags().IntVarP(&n, "number", "n", 50, "how many of all (1 to 1000)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if n < 1 || n > 1000 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 1000, not %d", n))
		}
		path := "/api/v1/alerts"
		if all {
			path += fmt.Sprintf("?all=1&n=%d", n)
		}
		var list []fleet.Alert
		if err := h.ask(cmd.Context(), askTime, path, &list); err != nil {
			return err
		}
		if *format == "json" {
			if err := a.json(list); err != nil {
				return err
			}
		} else {
			a.tellAlerts(list, all)
		}
		if slices.ContainsFunc(list, func(x fleet.Alert) bool { return x.Severity == fleet.Critical && x.ResolvedAt == nil }) {
			return exitCode(ExitCode(fleet.Errorf("", fleet.CodeNotConverged, "something critical is wrong")))
		}
		return nil
	}
	return cmd
}

// ask is open for an answer in JSON, within a time.
func (h *aHub) ask(ctx context.Context, most time.Duration, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	body, err := h.open(ctx, path)
	if err != nil {
		return err
	}
	defer body.Close()
	return readAnswer(body, into)
}

func (a *app) tellAlerts(list []fleet.Alert, all bool) {
	if len(list) == 0 {
		if all {
			fmt.Fprintln(a.Out, "nothing was ever wrong, as far as this hub remembers")
		} else {
			fmt.Fprintln(a.Out, "nothing is wrong")
		}
		return
	}
	for i, x := range list {
		if i > 0 {
			fmt.Fprintln(a.Out)
		}
		a.tellAlert(x)
	}
}

func (a *app) tellAlert(x fleet.Alert) {
	over := ""
	if x.ResolvedAt != nil {
		over = ", over " + fleet.Moment(*x.ResolvedAt)
	}
	fmt.Fprintf(a.Out, "%s: %s\n  since %s%s\n", x.Severity, x.What, fleet.Moment(x.Since), over)
	if x.ResolvedAt != nil {
		return
	}
	if x.Detail != "" {
		fmt.Fprintf(a.Out, "  %s\n", firstLine(x.Detail))
	}
	for _, c := range x.Commands {
		fmt.Fprintf(a.Out, "  → %s\n", c)
	}
}

func (a *app) notify() *cobra.Command {
	var h aHub
	cmd := &cobra.Command{
		Use:   "notify",
		Short: "Say how a hub's senders do, and try them",
		Args:  noCommand,
	}
	format := output(cmd)
	h.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var list []fleet.SenderState
		if err := h.ask(cmd.Context(), askTime, "/api/v1/notify", &list); err != nil {
			return err
		}
		if *format == "json" {
			return a.json(list)
		}
		a.tellSenders(list)
		return nil
	}
	cmd.AddCommand(a.notifyTest())
	return cmd
}

func (a *app) tellSenders(list []fleet.SenderState) {
	if len(list) == 0 {
		fmt.Fprintln(a.Out, "the hub has no senders: nobody is told of alerts (docs/ALERTS.md says how to add some)")
		return
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SENDER\tTYPE\tWAITING\tLAST DELIVERED\tWHAT IS WRONG")
	for _, s := range list {
		last, wrong := "never", s.Error
		if s.Delivered != nil {
			last = fleet.Moment(*s.Delivered)
		}
		if wrong == "" && s.Template != "" {
			wrong = "its template: " + s.Template
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\n", s.Name, s.Type, s.Pending, last, wrong)
	}
	_ = w.Flush()
}

// notifyTime is longer than a hub waits for a sender, unless it is set otherwise there.
const notifyTime = 2 * time.Minute

func (a *app) notifyTest() *cobra.Command {
	var hub, tokenFile string
	cmd := &cobra.Command{
		Use:   "test [SENDER...]",
		Short: "Have a hub send something by its senders, and say what they answer",
		Long: `Test sends a message by the SENDERs, or by all that the hub has, and says of each whether it was taken. The exit code is 1 when one
was not. It needs a token of scope operate.`,
	}
	format := output(cmd)
	cmd.Flags().StringVar(&hub, "hub", "", "URL of the hub (default: $GARRISON_HUB, else http://127.0.0.1:8420)")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token of scope operate (default: $GARRISON_HUB_TOKEN_FILE)")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), notifyTime)
		defer cancel()
		resp, err := openHub(ctx, orElse(orElse(hub, os.Getenv("GARRISON_HUB")), "http://127.0.0.1:8420"), orElse(tokenFile, os.Getenv("GARRISON_HUB_TOKEN_FILE")), http.MethodPost,
			"/api/v1/notify/test?"+url.Values{"sender": names}.Encode())
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var list []fleet.SenderTest
		if err := json.NewDecoder(newPlainJSON(io.LimitReader(resp.Body, maxAgentAnswer))).Decode(&list); err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the answer cannot be read").WithCause(err)
		}
		if *format == "json" {
			err = a.json(list)
		} else {
			a.tellTests(list)
		}
		if err == nil && slices.ContainsFunc(list, func(s fleet.SenderTest) bool { return s.Error != "" }) {
			return exitCode(1)
		}
		return err
	}
	return cmd
}

func (a *app) tellTests(list []fleet.SenderTest) {
	if len(list) == 0 {
		a.tellSenders(nil)
		return
	}
	for _, s := range list {
		if s.Error == "" {
			fmt.Fprintf(a.Out, "%s (%s): taken, in %.1f s\n", s.Name, s.Type, s.Seconds)
		} else {
			fmt.Fprintf(a.Out, "%s (%s): NOT taken: %s\n", s.Name, s.Type, s.Error)
		}
	}
}
