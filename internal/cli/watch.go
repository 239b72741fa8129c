package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) watch() *cobra.Command {
	var f from
	var until string
	var release int
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "watch [RELEASE]",
		Short: "Show what a host or a release is doing, as it changes; wait until it is where it should be",
		Long: `Watch prints a line whenever the status of this host changes, or of another one that a hub is asked about (--host).
With --until it ends: "converged" waits until the host runs what the newest release says, "healthy" until it
runs a confirmed system and nothing is being done to it, be that the release before a bad one.

Of a hub without --host it follows a RELEASE over all its hosts: a number, "newest" (the default), or the beginning of a source commit, also of one that
is not released yet: then CI's stages come first. "converged" waits until all of them run it, "healthy" also ends when some wait for
a person or for their window, and nothing else is left. It says where the release failed when all others have come to an end.
Where the release goes through rings, it says how that goes, with a countdown on a terminal; all its hosts are those of all rings. "ring:NAME" waits until all
hosts of that ring have it, or a newer one, and are well. It ends with 3 when the roll-out is paused, or, with "converged", waits for a person.

Exit codes: 0 it came to that, 3 it does not without somebody's help (or CI failed, or a newer release came first), 5 the time ran out.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("watch takes one RELEASE at most, %d given", len(args)))
			}
			return nil
		},
	}
	format := output(cmd)
	f.flags(cmd)
	cmd.Flags().StringVar(&until, "until", "", "converged, healthy or, of a release, ring:NAME (default: watch on)")
	cmd.Flags().IntVar(&release, "release", 0, "with --until and a host: not before it has seen release N")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "give up after this time, such as 10m (default: never)")
	_ = cmd.RegisterFlagCompletionFunc("until", cobra.FixedCompletions([]string{"converged", "healthy"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.ValidArgsFunction = onlyFirst(f.releases)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ring, ofRing := strings.CutPrefix(until, untilRing)
		if until != "" && until != "converged" && until != "healthy" && !(ofRing && fleet.ValidRingName(ring)) {
			return usage(cmd, fmt.Errorf("--until takes converged, healthy or ring:NAME, not %q", until))
		}
		if err := f.resolve(cmd, true); err != nil {
			return err
		}
		named, err := parseWanted(strings.Join(args, ""))
		switch ofFleet := f.hub != "" && f.host == ""; {
		case err != nil:
			return usage(cmd, err)
		case len(args) > 0 && !ofFleet:
			return usage(cmd, errors.New("a RELEASE is followed over all its hosts: give --hub, and no --host; of one host, --release N waits for it"))
		case ofRing && !ofFleet:
			return usage(cmd, errors.New("--until ring:NAME is about a release: give --hub, and no --host"))
		case release > 0 && ofFleet:
			return usage(cmd, fmt.Errorf("--release is for one host: give --host, or watch %d", release))
		}
		ctx := cmd.Context()
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		said := ""
		if f.hub != "" && f.host == "" {
			w := fleetWatcher{app: a, from: &f, until: until, json: *format == "json", wanted: named}
			err = w.watch(ctx)
			said = orElse(w.state, "nothing was heard of "+named.String())
		} else {
			w := watcher{app: a, json: *format == "json", until: until, release: release}
			err = f.watch(ctx, w.see)
			said = orElse(w.line, "nothing was heard of the host")
		}
		if ctx.Err() != nil && cmd.Context().Err() == nil {
			return fleet.Errorf(fleet.Transient, fleet.CodeTimeout, "not %s within %s: %s", orElse(until, "ended"), timeout, said)
		}
		return err
	}
	return cmd
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// watcher prints what is seen, and says when it is enough.
type watcher struct {
	*app
	json    bool
	until   string
	release int
	line    string // told last
}

func (w *watcher) see(s fleet.Status) (done bool, err error) {
	if w.json {
		if err := json.NewEncoder(w.Out).Encode(s); err != nil {
			return true, err
		}
		w.line = s.Summary()
	} else if line := s.Summary(); line != w.line {
		w.line = line
		if _, err := fmt.Fprintf(w.Out, "%s  %s: %s\n", s.At.Local().Format(time.TimeOnly), s.Host, line); err != nil {
			return true, err
		}
	}
	if s.Newest == nil && w.release > 0 || s.Newest != nil && s.Newest.Number < w.release {
		return false, nil
	}
	switch w.until {
	case "converged":
		if s.Converged() && !s.Drift {
			return true, nil
		}
		if s.Stuck() || s.Drift && s.Phase == fleet.PhaseIdle {
			return true, fleet.Errorf(fleet.Bad, fleet.CodeNotConverged, "%s does not converge by itself: %s", s.Host, w.line).WithHint("see garrison status")
		}
	case "healthy":
		if s.Healthy() {
			return true, nil
		}
		if s.Stuck() {
			return true, fleet.Errorf(fleet.Bad, fleet.CodeNotConverged, "%s does not become healthy by itself: %s", s.Host, w.line).WithHint("see garrison status")
		}
	}
	return false, nil
}

func (a *app) logs() *cobra.Command {
	var f from
	var follow bool
	cmd := &cobra.Command{
		Use:   "logs [RELEASE]",
		Short: "Print what was said while a release was activated",
		Long: `Logs prints what switch-to-configuration and the activation said: of the deployment that is under way or was
last, or of the last one of RELEASE, a number. The logs of the last 20 are kept on the host, of the last 10 at a hub. Hosts tell
a hub what is said while it is said; -f shows it a second or two later there.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("logs takes one RELEASE at most, %d given", len(args)))
			}
			return nil
		},
	}
	f.flags(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is said from now on")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := f.resolve(cmd, false); err != nil {
			return err
		}
		what := "logs"
		if len(args) == 1 {
			n, ok := fleet.TagNumber(fleet.TagPrefix + strings.TrimPrefix(args[0], fleet.TagPrefix))
			if !ok {
				return usage(cmd, fmt.Errorf("%q is not the number of a release", args[0]))
			}
			what += fmt.Sprintf("?deployment=%d", n)
		}
		switch {
		case !follow:
			return a.printLog(cmd.Context(), &f, what)
		case len(args) == 1:
			return usage(cmd, fmt.Errorf("-f follows what is said now, not what was said of a release"))
		}
		return a.printLog(cmd.Context(), &f, "logs?follow=1")
	}
	return cmd
}

// printLog copies a log as it comes.
func (a *app) printLog(ctx context.Context, f *from, what string) error {
	body, err := f.open(ctx, what)
	if err != nil {
		return err
	}
	defer body.Close()
	if _, err = io.Copy(printable{a.Out}, body); err != nil && ctx.Err() == nil {
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the log ended in the middle").WithCause(err)
	}
	return nil
}

// printable keeps back what would do something to a terminal: what hosts say is theirs.
type printable struct{ to io.Writer }

func (p printable) Write(b []byte) (int, error) {
	kept := make([]byte, 0, len(b))
	for i, c := range b {
		second := i > 0 && b[i-1] == 0xc2 && c >= 0x80 && c < 0xa0 // of U+0080 to U+009F
		if (c >= ' ' && c != 0x7f || c == '\n' || c == '\t') && !second {
			kept = append(kept, c)
		}
	}
	if _, err := p.to.Write(kept); err != nil {
		return 0, err
	}
	return len(b), nil
}

const diffTime = 3 * time.Minute // the caches are asked, and somebody else's diff may come first

func (a *app) diff() *cobra.Command {
	var f from
	cmd := &cobra.Command{
		Use:   "diff",
		Short: "Say what would change on a host: packages that come, go, or change their version",
		Long: `Diff compares what a host runs with what it is to run. Where nothing waits to be changed, it says
what the last deployment changed. Sizes are those of the closures.`,
		Args: exactly(),
	}
	format := output(cmd)
	f.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.resolve(cmd, false); err != nil {
			return err
		}
		var d fleet.HostDiff
		if err := f.ask(cmd.Context(), diffTime, "diff", &d); err != nil {
			return err
		}
		if *format == "json" {
			return a.json(d)
		}
		return a.tellDiff(d)
	}
	return cmd
}

func (a *app) tellDiff(d fleet.HostDiff) error {
	var b bytes.Buffer
	switch {
	case d.Release == nil:
		fmt.Fprintf(&b, "%s has not seen a release yet\n", d.Host)
	case d.Pending:
		fmt.Fprintf(&b, "%s would change to %s (%s)\n", d.Host, d.Release.Name(), d.After)
	default:
		fmt.Fprintf(&b, "nothing waits to be changed on %s; %s changed (%s)\n", d.Host, d.Release.Name(), ago(d.At))
	}
	switch {
	case d.Unknown != "":
		fmt.Fprintf(&b, "what changes is not known: %s\n", d.Unknown)
	case d.Diff != nil && d.Release != nil:
		var c closure.Diff
		if err := json.Unmarshal(d.Diff, &c); err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "the answer cannot be read").WithCause(err)
		}
		fmt.Fprintln(&b, c.Summary())
		for _, line := range c.Lines() {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	_, err := a.Out.Write(b.Bytes())
	return err
}
