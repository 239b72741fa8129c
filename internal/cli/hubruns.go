package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// aHub is a hub that a command asks about itself.
type aHub struct{ url, tokenFile string }

func (h *aHub) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.url, "hub", "", "URL of the hub (default: $GARRISON_HUB, else http://127.0.0.1:8420)")
	cmd.Flags().StringVar(&h.tokenFile, "token-file", "", "file with a token of scope read (default: $GARRISON_HUB_TOKEN_FILE)")
}

func (h *aHub) open(ctx context.Context, path string) (io.ReadCloser, error) {
	url := orElse(orElse(h.url, os.Getenv("GARRISON_HUB")), "http://127.0.0.1:8420")
	resp, err := openHub(ctx, url, orElse(h.tokenFile, os.Getenv("GARRISON_HUB_TOKEN_FILE")), http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

func (h *aHub) runs(ctx context.Context, n int) (runs []fleet.Run, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	body, err := h.open(ctx, fmt.Sprintf("/api/v1/runs?n=%d", n))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return runs, readAnswer(body, &runs)
}

func (a *app) hubRuns() *cobra.Command {
	var h aHub
	var n int
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List the runs of a hub's CI, newest first",
		Args:  exactly(),
	}
	format := output(cmd)
	h.flags(cmd)
	cmd.Flags().IntVarP(&n, "number", "n", 20, "how many (1 to 100)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if n < 1 || n > 100 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 100, not %d", n))
		}
		runs, err := h.runs(cmd.Context(), n)
		if err != nil {
			return err
		}
		if *format == "json" {
			if runs == nil {
				runs = []fleet.Run{}
			}
			return a.json(runs)
		}
		return a.tellRuns(runs)
	}
	return cmd
}

func (a *app) tellRuns(runs []fleet.Run) error {
	if len(runs) == 0 {
		_, err := fmt.Fprintln(a.Out, "the hub has not run CI yet")
		return err
	}
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "RUN\tBEGAN\tTOOK\tBRANCH\tCOMMIT\tRESULT")
	for _, r := range runs {
		took := "…"
		if r.EndedAt != nil {
			took = r.EndedAt.Sub(r.StartedAt).Round(100 * time.Millisecond).String()
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", r.ID, ago(r.StartedAt), took, r.Source.Branch, short(r.Source.Commit), resultOf(r))
	}
	return w.Flush()
}

// resultOf says what a run came to.
func resultOf(r fleet.Run) string {
	switch {
	case r.State == fleet.RunRunning && r.Stage != "":
		return "running: " + string(r.Stage)
	case r.Failure != nil:
		why, _, _ := strings.Cut(r.Failure.Message, "\n")
		return fmt.Sprintf("%s in %s (%s): %s", r.State, orElse(string(r.Failure.Stage), "the beginning"), r.Failure.Code, why)
	case r.Release != nil:
		return fmt.Sprintf("%s: %s", r.State, r.Release.Name())
	}
	return string(r.State)
}

func (a *app) hubLog() *cobra.Command {
	var h aHub
	var follow bool
	cmd := &cobra.Command{
		Use:   "log [RUN]",
		Short: "Print what was said in a run of a hub's CI: the last one, or the one with that number",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("log takes one RUN at most, %d given", len(args)))
			}
			return nil
		},
	}
	h.flags(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var id int64
		if len(args) == 1 {
			var err error
			if id, err = strconv.ParseInt(args[0], 10, 64); err != nil || id < 1 {
				return usage(cmd, fmt.Errorf("%q is not the number of a run", args[0]))
			}
		} else {
			runs, err := h.runs(cmd.Context(), 1)
			if err != nil {
				return err
			}
			if len(runs) == 0 {
				return fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub has not run CI yet")
			}
			id = runs[0].ID
		}
		path := fmt.Sprintf("/api/v1/runs/%d/log", id)
		if follow {
			path += "?follow=1"
		}
		body, err := h.open(cmd.Context(), path)
		if err != nil {
			return err
		}
		defer body.Close()
		if _, err = io.Copy(printable{a.Out}, body); err != nil && !errors.Is(err, context.Canceled) {
			return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the log ended in the middle").WithCause(err)
		}
		return nil
	}
	return cmd
}
