package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// orders are what an operator tells the agent of this host to do.
func (a *app) orders() []*cobra.Command {
	return []*cobra.Command{a.retry(), a.rollback(), a.deploy(), a.confirm(), a.suspend(), a.resume()}
}

// ordering is a command that gives an order; make fills it in from the arguments.
func (a *app) ordering(cmd *cobra.Command, fill func(cmd *cobra.Command, args []string, socket string, o *fleet.Order) error) *cobra.Command {
	var socket, why string
	format := output(cmd)
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.Flags().StringVar(&why, "reason", "", "why, for the history and for whoever looks at the host next")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := fleet.Order{Act: cmd.Name(), Reason: why}
		if err := fill(cmd, args, socket, &o); err != nil {
			return err
		}
		answer, err := orderAgent(cmd.Context(), socket, o)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(answer)
		}
		fmt.Fprintln(a.Out, answer.Said)
		fmt.Fprintf(a.Out, "%s: %s\n", answer.Status.Phase, answer.Status.Meaning())
		return nil
	}
	return cmd
}

func nothingMore(*cobra.Command, []string, string, *fleet.Order) error { return nil }

func (a *app) retry() *cobra.Command {
	return a.ordering(&cobra.Command{
		Use:   "retry",
		Short: "Try a held or retrying release again, now",
		Args:  exactly(),
	}, nothingMore)
}

func (a *app) rollback() *cobra.Command {
	return a.ordering(&cobra.Command{
		Use:   "rollback [N]",
		Short: "Go back to the previous confirmed system, or the Nth before this one",
		Long: `Rollback activates an earlier confirmed system of this host, windows or not, and leaves it there
until a newer release brings this host another system than the one it ran away from.
A second rollback goes further back. To follow the newest release again: garrison deploy release-N.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("rollback takes at most one number, %d given", len(args)))
			}
			return nil
		},
	}, func(cmd *cobra.Command, args []string, _ string, o *fleet.Order) error {
		o.Back = 1
		if len(args) == 0 {
			return nil
		}
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 1 || n > 1000 {
			return usage(cmd, fmt.Errorf("rollback takes how many systems to go back, from 1 to 1000, not %q", args[0]))
		}
		o.Back = n
		return nil
	})
}

func (a *app) deploy() *cobra.Command {
	var now bool
	cmd := a.ordering(&cobra.Command{
		Use:   "deploy RELEASE|STOREPATH",
		Short: "Deploy a release or a system of your choice on this host",
		Long: `Deploy activates this host's system in a verified release (release-411, or 411), or a system
by its store path, with all checks. An older one than the newest release says is left alone until a newer release
brings this host another system. Naming the newest release follows it again.`,
		Args: exactly("RELEASE|STOREPATH"),
	}, func(cmd *cobra.Command, args []string, _ string, o *fleet.Order) (err error) {
		o.Now = now
		if strings.HasPrefix(args[0], "/") {
			o.StorePath = args[0]
			return nil
		}
		o.Release, err = releaseArg(cmd, args[0])
		return err
	})
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for a window")
	return cmd
}

func (a *app) confirm() *cobra.Command {
	var now bool
	cmd := a.ordering(&cobra.Command{
		Use:   "confirm RELEASE",
		Short: "Let the release that waits on this host be activated",
		Args:  exactly("RELEASE"),
	}, func(cmd *cobra.Command, args []string, socket string, o *fleet.Order) (err error) {
		o.Now = now
		// The word is for the release as it is now: the agent refuses it if another tag has come to bear the name meanwhile.
		var s fleet.Status
		if err := (&from{socket: socket}).ask(cmd.Context(), askTime, "status", &s); err != nil {
			return err
		}
		if s.Target != nil && s.Target.Release.Test == args[0] {
			o.Tag = s.Target.Release.Tag
			return nil
		}
		if o.Release, err = releaseArg(cmd, args[0]); err != nil {
			return err
		}
		if s.Target != nil && s.Target.Release.Number == o.Release {
			o.Tag = s.Target.Release.Tag
		}
		return nil
	})
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for a window")
	return cmd
}

// releaseArg reads release-411 or 411.
func releaseArg(cmd *cobra.Command, arg string) (int, error) {
	n, ok := fleet.TagNumber(fleet.TagPrefix + strings.TrimPrefix(arg, fleet.TagPrefix))
	if !ok {
		return 0, usage(cmd, fmt.Errorf("a release is named like release-411, not %q", arg))
	}
	return n, nil
}

func (a *app) suspend() *cobra.Command {
	var length time.Duration
	cmd := a.ordering(&cobra.Command{
		Use:   "suspend --reason WHY --for DURATION",
		Short: "Let no activation start on this host for a while",
		Long: `Suspend keeps activations and reboots from starting, for the time given or until garrison resume.
Releases are seen and fetched meanwhile. An activation that is under way is not stopped.`,
		Args: exactly(),
	}, func(cmd *cobra.Command, _ []string, _ string, o *fleet.Order) error {
		switch {
		case o.Reason == "":
			return usage(cmd, fmt.Errorf("suspend needs --reason: somebody will ask why"))
		case length <= 0:
			return usage(cmd, fmt.Errorf("suspend needs --for, a duration like 2h"))
		}
		o.Seconds = length.Seconds()
		return nil
	})
	cmd.Flags().DurationVar(&length, "for", 0, "for how long, like 90m or 48h")
	return cmd
}

// accept is the way out of a refusal for the sake of history: a command of garrison agent.
func (a *app) accept() *cobra.Command {
	return a.ordering(&cobra.Command{
		Use:   "accept COMMIT",
		Short: "Have this host follow a refused release branch from here on",
		Long: `Accept is an operator's word that a release branch that was force-pushed, an older release on it, or a release
tag that was made again is meant. It is for the one commit that garrison status shows as refused, once, and only
about the history: its tag must be signed like any other.`,
		Args: exactly("COMMIT"),
	}, func(_ *cobra.Command, args []string, _ string, o *fleet.Order) error {
		o.Commit = args[0]
		return nil
	})
}

func (a *app) resume() *cobra.Command {
	return a.ordering(&cobra.Command{
		Use:   "resume",
		Short: "End a suspension",
		Args:  exactly(),
	}, nothingMore)
}
