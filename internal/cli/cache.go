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
	cmd.AddCommand(a.cacheServe(), a.cacheInfo())
	return cmd
}

func (a *app) cacheInfo() *cobra.Command {
	var url, tokenFile string
	cmd := &cobra.Command{
		Use:   "info NAME",
		Short: "Say how much a cache holds, and its public key",
		Args:  exactly("the cache's NAME"),
	}
	format := output(cmd)
	cmd.Flags().StringVar(&url, "url", "http://127.0.0.1:8420", "the hub, or whatever serves the cache")
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "file with a token, for a private cache")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := client.New(client.Config{URL: strings.TrimSuffix(url, "/") + "/" + args[0], Token: tokenFrom(tokenFile)})
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
