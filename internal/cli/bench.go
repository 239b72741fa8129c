package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
)

func (a *app) bench() *cobra.Command {
	var dir string
	b := drill.BenchOptions{}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure on this machine what bench/README.md says (root, Linux)",
		Long: `Bench starts the demo's machines, pushes changes that were built before, and tells from the
medians how long a push takes to every host, and what an agent costs that has nothing to do.`,
		Args: exactly(),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&dir, "dir", "build/bench", "folder for hosts and logs")
	cmd.Flags().IntVarP(&b.Changes, "changes", "n", 9, "how many changes to push (1 to 1000)")
	cmd.Flags().DurationVar(&b.Idle, "idle", time.Minute, "how long to watch an idle agent")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if b.Changes < 1 || b.Changes > 1000 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 to 1000, not %d", b.Changes))
		}
		o, err := a.drillOptions(dir)
		if err != nil {
			return err
		}
		if *format == "json" {
			o.Out, o.Terminal, o.Colour = a.Err, false, false
		}
		figures, err := drill.Bench(cmd.Context(), o, b)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(figures)
		}
		figures.Tell(o)
		return nil
	}
	return cmd
}
