package cli

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

// imported is what garrison cache import -o json prints.
type imported struct {
	pushed
	From     string   `json:"from"`
	Unsigned []string `json:"unsigned"` // left out: none of the keys signed them
	Broken   []string `json:"broken"`   // left out: they refer to what neither cache has
}

func (a *app) cacheImport() *cobra.Command {
	var keys []string
	var unsigned bool
	var fromToken string
	var jobs int
	cmd := &cobra.Command{
		Use:   "import FROM [PATH…|-]",
		Short: "Copy store paths, and all that they refer to, from another cache",
		Long: `Import copies from another cache (file:///folder, https://host/name of any server that Nix can read, s3://bucket) the PATHs and all that they refer to, or, from
a folder or a bucket, everything that it holds. Each archive is checked on its way. Since this cache signs what it takes, only what
one of the --from-key signed is taken, unless --unsigned says otherwise. It may be run again after anything, and goes on where it was.`,
	}
	format := output(cmd)
	cache := a.pushFlags(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&keys, "from-key", nil, "public key of the other cache, name:base64; may be given several times")
	fl.BoolVar(&unsigned, "unsigned", false, "take what no --from-key signed, too: this cache will sign it")
	fl.StringVar(&fromToken, "from-token-file", "", "file with a token that may read the other cache")
	fl.IntVar(&jobs, "jobs", 4, "uploads at the same time")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(cmd, fmt.Errorf("cache import takes FROM, the URL of the cache to copy from"))
		}
		o := client.ImportOptions{Unsigned: unsigned, PushOptions: client.PushOptions{Parallel: jobs}}
		for _, k := range keys {
			key, err := nar.ParsePublicKey(k)
			if err != nil {
				return usage(cmd, err)
			}
			o.Keys = append(o.Keys, key)
		}
		if len(keys) == 0 && !unsigned {
			return usage(cmd, fmt.Errorf("cache import needs the other cache's key: --from-key, or --unsigned to take what nobody signed"))
		}
		from, err := a.anyCache(args[0], fromToken)
		if err != nil {
			return err
		}
		to, err := cache()
		if err != nil {
			return err
		}
		paths, err := a.storePaths(args[1:])
		if err != nil {
			return err
		}
		progress, end := a.showProgress()
		defer end()
		o.Progress = progress.pushedEach
		start := time.Now()
		stats, err := to.Import(cmd.Context(), from, paths, o)
		if err != nil {
			return err
		}
		sum := imported{pushed: newPushed(to), From: from.URL(), Unsigned: append([]string{}, stats.Unsigned...), Broken: append([]string{}, stats.Broken...)}
		sum.add(stats.Stats)
		sum.Seconds = time.Since(start).Seconds()
		if *format == "json" {
			return a.json(sum)
		}
		fmt.Fprintln(a.Out, sum.pushed)
		for _, path := range sum.Unsigned {
			fmt.Fprintf(a.Out, "left out %s: none of the keys signed it\n", path)
		}
		for _, path := range sum.Broken {
			fmt.Fprintf(a.Out, "left out %s: it refers to what neither cache has\n", path)
		}
		return nil
	}
	return cmd
}
