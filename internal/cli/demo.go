package cli

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/examples"
	"github.com/garrison-nix/garrison/internal/drill"
)

func (a *app) demo() *cobra.Command {
	var dir string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the whole way on this machine: a push reaches three hosts (root, Linux)",
		Long: `Demo starts a forge with repository, cache and CI, a developer's machine and four hosts, each
in namespaces of its own, pushes a change and watches it travel, then looks at what came of
it, and pushes two changes that must not arrive. Nothing of it outlives the command.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runDemo(cmd.Context(), dir, keep) },
	}
	cmd.Flags().StringVar(&dir, "dir", "build/demo", "folder for hosts, logs and report.json")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave it running at the end, until Ctrl-C, and say how to look around")
	return cmd
}

func (a *app) runDemo(ctx context.Context, dir string, keep bool) error {
	o, err := a.drillOptions(dir)
	if err != nil {
		return err
	}
	o.Keep = keep
	return drill.Demo(ctx, o)
}

func (a *app) drillOptions(dir string) (drill.Options, error) {
	o := drill.Options{Out: a.Out, Log: slog.New(slog.DiscardHandler), Terminal: isTerminal(a.Out), Version: Version()}
	o.Colour = o.Terminal && os.Getenv("NO_COLOR") == ""
	if a.verbose {
		o.Log = a.logger()
	}
	var err error
	if o.Self, err = os.Executable(); err != nil {
		return o, err
	}
	if o.Dir, err = filepath.Abs(dir); err != nil {
		return o, err
	}
	o.Fleet, err = fs.Sub(examples.Fleet, "fleet")
	return o, err
}

// isTerminal says whether w is a terminal that can be drawn over.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
