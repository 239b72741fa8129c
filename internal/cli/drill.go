package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
)

func (a *app) drill() *cobra.Command {
	var o drill.DrillOptions
	var dir string
	cmd := &cobra.Command{
		Use:   "drill",
		Short: "Prove the whole way, from push to host, and that what breaks does no harm",
		Long: `Drill makes a visible change and follows it to the host, then breaks one thing after the other and looks at what comes of it: what must
stay as it was, who is told, how a person recovers. Everything is looked at from outside; what it changes is put back, also after Ctrl-C.
Exit codes: 0 all passed, 6 something failed.`,
		Args: exactly(),
	}
	fl := cmd.Flags()
	fl.StringVar(&dir, "dir", "build/drill", "folder for hosts and logs of a sandbox")
	fl.StringSliceVar(&o.Only, "only", nil, "names of scenarios (default: all that can be drilled)")
	fl.StringSliceVar(&o.Allow, "allow", nil, "scenarios that may disturb a live host, and shall be drilled")
	fl.IntVar(&o.Repeat, "repeat", 3, "how often the visible change travels, for its figures")
	fl.DurationVar(&o.Limit, "limit", 10*time.Minute, "from push to healthy, each time")
	fl.StringVar(&o.HostBase, "host-base", "", "base of hosts with a systemd, made by scripts/host-base (default: the one in the cache; none: hosts are plain namespaces)")
	for _, flag := range []string{"only", "allow"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(drill.Names(), cobra.ShellCompDirectiveNoFileComp))
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return a.runDrill(cmd.Context(), dir, o) }
	return cmd
}

func (a *app) runDrill(ctx context.Context, dir string, o drill.DrillOptions) (err error) {
	if o.Options, err = a.drillOptions(dir); err != nil {
		return err
	}
	o.Version = Version()
	if o.HostBase == "" {
		o.HostBase = cachedHostBase()
	}
	_, err = drill.Sandbox(ctx, o)
	return err
}

// cachedHostBase is the newest base of systemd hosts that scripts/host-base made here; "" where there is none, or nothing to start it with.
func cachedHostBase() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	if _, err := exec.LookPath("systemd-nspawn"); err != nil {
		return ""
	}
	all, _ := filepath.Glob(filepath.Join(cache, "garrison/host-base/*"))
	all = slices.DeleteFunc(all, func(dir string) bool {
		_, err := os.Stat(filepath.Join(dir, "usr/lib/systemd/systemd"))
		return err != nil
	})
	if len(all) == 0 {
		return ""
	}
	return slices.Max(all)
}
