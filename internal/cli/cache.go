package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
)

func (a *app) cache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Look at a binary cache",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cacheInfo(), a.cachePin(), a.cacheUnpin(), a.cachePins(), a.cacheGC(), a.cacheFsck(), a.cacheDelete(),
		a.cachePush(), a.cacheWatchStore(), a.cachePostBuildHook(), a.cacheImport(), a.cacheUse())
	return cmd
}

// cacheFlags adds what says where caches are; the cache of a name is then what is returned.
func cacheFlags(cmd *cobra.Command) func(name string) (*client.Client, error) {
	url := cmd.Flags().String("url", "http://127.0.0.1:8420", "the hub, or whatever serves the cache")
	tokenFile := cmd.Flags().String("token-file", "", "file with a token, where one is needed")
	return func(name string) (*client.Client, error) {
		return client.New(client.Config{URL: strings.TrimSuffix(*url, "/") + "/" + name, Token: tokenFrom(*tokenFile)})
	}
}

func (a *app) cacheInfo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info NAME",
		Short: "Say how much a cache holds, and its public key",
		Args:  exactly("the cache's NAME"),
	}
	format := output(cmd)
	cache := cacheFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		info, err := c.Info(cmd.Context())
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(info)
		}
		w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "name\t%s\nsubstituter\t%s\npublic key\t%s\nupstreams\t%s\npaths\t%d\nNAR bytes\t%d\nstored bytes\t%d\n",
			info.Name, c.URL(), info.PublicKey, strings.Join(info.Upstreams, " "), info.Paths, info.NarBytes, info.StoredBytes)
		return w.Flush()
	}
	return cmd
}
