package cli

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	cachesqlite "github.com/garrison-nix/garrison/internal/cache/sqlite"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func (a *app) cacheBackup() *cobra.Command {
	var config string
	var isHub bool
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Copy the index of a cache that serves, keys and all, to a file",
		Long: `Copy the index (SQLite) of a cache to a file, as it is at one moment, while the cache serves. Copy the content after it: docs/OPERATIONS.md says how.
The file holds the caches' private keys.`,
		Args: exactly("the FILE"),
	}
	cmd.Flags().StringVar(&config, "config", "/etc/garrison/cache.toml", "the cache's configuration file")
	cmd.Flags().BoolVar(&isHub, "hub", false, "it is a hub's configuration file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		index, err := indexFile(config, isHub)
		if err != nil {
			return err
		}
		to, err := filepath.Abs(args[0])
		if err != nil {
			return err
		}
		if _, err := os.Lstat(to); err == nil {
			return fleet.Errorf("", fleet.CodeUsage, "%s is there already", args[0]).WithHint("name a file that is not")
		}
		if err := cachesqlite.Backup(cmd.Context(), index, to); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Out, "%s\n", to)
		return err
	}
	return cmd
}

func indexFile(config string, isHub bool) (string, error) {
	table, dir := CacheTable{}, ""
	if isHub {
		c, err := ReadHubFile(config)
		if err != nil {
			return "", err
		}
		table, dir = c.Cache, c.DataDir
	} else {
		c, err := ReadCacheFile(config)
		if err != nil {
			return "", err
		}
		table, dir = c.Cache, c.DataDir
	}
	return orElse(table.Index, filepath.Join(dir, "cache.db")), nil
}
