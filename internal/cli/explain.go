package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) explain() *cobra.Command {
	var socket string
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "Say why this host is where it is, since when, and what would change that",
		Args:  exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&socket, "socket", defaultSocket, "the agent's socket")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var s fleet.Status
		if err := (&from{socket: socket}).ask(cmd.Context(), askTime, "status", &s); err != nil {
			return err
		}
		e := fleet.Explain(s)
		if *format == "json" {
			return a.json(e)
		}
		a.tellExplanation(e)
		return nil
	}
	return cmd
}

func (a *app) tellExplanation(e fleet.Explanation) {
	for _, w := range e.Why {
		fmt.Fprintln(a.Out, w.Said)
		for _, c := range w.Commands {
			fmt.Fprintln(a.Out, "  →", c)
		}
	}
}
