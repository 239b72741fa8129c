package cli

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
)

func (a *app) cache() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Serve binary caches, and everything about them",
		Args:  noCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.cacheServe(), a.cacheBackup(), a.cacheLogin(), a.cacheList(), a.cacheCreate(), a.cacheConfigure(), a.cacheDestroy(), a.cacheKey(), a.cacheToken(), a.cacheInfo(), a.cachePin(), a.cacheUnpin(), a.cachePins(), a.cacheGC(), a.cacheFsck(), a.cacheDelete(),
		a.cachePush(), a.cacheWatchStore(), a.cachePostBuildHook(), a.cacheImport(), a.cacheUse())
	return cmd
}

func (a *app) cacheInfo() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info NAME",
		Short: "Say how much a cache holds, and its public key",
		Args:  exactly("the cache's NAME"),
	}
	format := output(cmd)
	cache := a.placeFlags(cmd).cache
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
		a.printInfo(info, c.URL())
		return nil
	}
	return cmd
}

func (a *app) printInfo(i client.Info, url string) {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	line("name", "%s", i.Name)
	line("substituter", "%s", url)
	line("public key", "%s", strings.Join(i.PublicKeys, " "))
	line("public", "%s", yesNo(i.Public))
	line("upstreams", "%s", strings.Join(i.Upstreams, " "))
	line("paths", "%d", i.Paths)
	line("NAR bytes", "%d", i.NarBytes)
	line("stored bytes", "%d%s", i.StoredBytes, ofNar(i))
	if i.MaxBytes > 0 {
		line("quota", "%d (%.0f%% used)", i.MaxBytes, 100*float64(i.StoredBytes)/float64(i.MaxBytes))
	}
	kept := "for ever"
	if i.Retention > 0 {
		kept = fmt.Sprintf("%d days after its last use", i.Retention/(24*3600))
	}
	line("a path is kept", "%s", kept)
	if !i.LastPush.IsZero() {
		line("last push", "%s", i.LastPush.UTC().Format(time.RFC3339))
	}
	if asked := i.Reads.Hits + i.Reads.Misses; asked > 0 {
		line("asked for", "%d paths, of which %.1f%% were here", asked, 100*float64(i.Reads.Hits)/float64(asked))
	}
	line("priority", "%d", i.Priority)
}

func ofNar(i client.Info) string {
	if i.NarBytes == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.0f%%)", 100*float64(i.StoredBytes)/float64(i.NarBytes))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
