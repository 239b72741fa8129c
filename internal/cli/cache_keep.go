package cli

import (
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

func (a *app) cachePin() *cobra.Command {
	var expires time.Duration
	var keep int
	cmd := &cobra.Command{
		Use:   "pin CACHE PIN STOREPATH",
		Short: "Keep a path, and all that it refers to, whatever the cache's retention",
		Args:  exactly("the CACHE", "a name for the PIN", "a STOREPATH"),
	}
	cache := a.placeFlags(cmd).cache
	cmd.Flags().DurationVar(&expires, "expires", 0, "let it end by itself after this time")
	cmd.Flags().IntVar(&keep, "keep-last", 0, "of the pins whose names are the same up to the last slash, keep so many, and remove the oldest")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if expires < 0 || keep < 0 {
			return usage(cmd, fmt.Errorf("--expires and --keep-last cannot be negative"))
		}
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		pin := client.Pin{Name: args[1], StorePath: args[2], KeepLast: keep}
		if expires > 0 {
			pin.ExpiresAt = time.Now().Add(expires).UTC().Truncate(time.Second)
		}
		return c.Pin(cmd.Context(), pin)
	}
	return cmd
}

func (a *app) cacheUnpin() *cobra.Command {
	cmd := &cobra.Command{Use: "unpin CACHE PIN", Short: "Remove a pin", Args: exactly("the CACHE", "the PIN's name")}
	cache := a.placeFlags(cmd).cache
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		return c.Unpin(cmd.Context(), args[1])
	}
	return cmd
}

func (a *app) cachePins() *cobra.Command {
	cmd := &cobra.Command{Use: "pins CACHE", Short: "List the pins of a cache", Args: exactly("the CACHE")}
	format := output(cmd)
	cache := a.placeFlags(cmd).cache
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		pins, err := c.Pins(cmd.Context())
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(struct {
				Schema int          `json:"schema"`
				Pins   []client.Pin `json:"pins"`
			}{1, pins})
		}
		w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
		for _, p := range pins {
			ends := ""
			if !p.ExpiresAt.IsZero() {
				ends = "until " + p.ExpiresAt.Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", p.Name, p.StorePath, ends)
		}
		return w.Flush()
	}
	return cmd
}

func (a *app) cacheGC() *cobra.Command {
	var unused, most string
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc CACHE",
		Short: "Delete from a cache what its retention does not keep",
		Long: `Delete from a cache what its retention does not keep. Pins, the systems that hosts report, and what was used in the
last day stay in any case, with all that they refer to. The archives of what is deleted are served for a day more. The hub does this by itself; the command is for now.`,
		Args: exactly("the CACHE"),
	}
	format := output(cmd)
	cache := a.placeFlags(cmd).cache
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would be deleted")
	cmd.Flags().StringVar(&unused, "unused", "", `delete what nothing has used for this long, "30d" or "720h", in place of what is configured; "0" for no such rule`)
	cmd.Flags().StringVar(&most, "max-size", "", `then delete what was used longest ago until the archives are this large, "500G"; "0" for no such rule`)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		r, err := retentionOf(unused, most)
		if err != nil {
			return usage(cmd, err)
		}
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		p, err := c.Collect(cmd.Context(), r, !dry)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(p)
		}
		return a.printCollection(p)
	}
	return cmd
}

func retentionOf(unused, most string) (r client.Retention, err error) {
	if unused != "" {
		d, err := tomlfile.ParseDays(unused)
		if err != nil {
			return r, fmt.Errorf("--unused: %w", err)
		}
		r.Unused = &d
	}
	if most != "" {
		n, err := parseSize(most)
		if err != nil {
			return r, fmt.Errorf("--max-size: %w", err)
		}
		r.MaxBytes = &n
	}
	return r, nil
}

// sizeUnits are powers of 1024.
const sizeUnits = "KMGTP"

// parseSize reads a number of bytes, with one of sizeUnits behind it or none.
func parseSize(s string) (int64, error) {
	number, shift := s, 0
	if i := strings.IndexByte(sizeUnits, s[len(s)-1]); i >= 0 {
		number, shift = s[:len(s)-1], 10*(i+1)
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > 1<<62>>shift {
		return 0, fmt.Errorf(`%q is not a size like "500G"`, s)
	}
	return n << shift, nil
}

// size writes bytes for people.
func size(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprint(bytes, " B")
	}
	f, i := float64(bytes)/1024, 0
	for ; f >= 1024 && i < len(sizeUnits)-1; i++ {
		f /= 1024
	}
	return fmt.Sprintf("%.1f %ciB", f, sizeUnits[i])
}

func (a *app) printCollection(p client.Collection) error {
	w := tabwriter.NewWriter(a.Out, 0, 0, 2, ' ', 0)
	for _, d := range p.Delete {
		fmt.Fprintf(w, "%s\t%s\tused %s\t%s\n", d.StorePath, size(d.FileSize), d.UsedAt.Format(time.DateOnly), d.Why)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	verb := "would be deleted, which would free"
	if p.Executed {
		verb = "deleted, which frees"
	}
	fmt.Fprintf(a.Out, "%d of %d paths %s %s of %s after a day\n", len(p.Delete)-p.UsedSince, p.Paths, verb, size(p.FreedBytes), size(p.StoredBytes))
	if p.UsedSince > 0 {
		fmt.Fprintf(a.Out, "%d more came into use meanwhile, and stay\n", p.UsedSince)
	}
	if p.Archives+p.Orphans > 0 {
		fmt.Fprintf(a.Out, "%d archives deleted earlier, and %d left by uploads that broke off, are gone for good\n", p.Archives, p.Orphans)
	}
	if p.OverBytes > 0 {
		fmt.Fprintf(a.Err, "garrison: what must be kept is %s larger than the cache may be\n  → remove pins (garrison cache pins), or allow more\n", size(p.OverBytes))
	}
	return nil
}

func (a *app) cacheFsck() *cobra.Command {
	var content, repair bool
	cmd := &cobra.Command{
		Use:   "fsck CACHE",
		Short: "Check that a cache has all that it promises",
		Long: `Check that every path of a cache has its archive, and all that it refers to. What is broken is listed; the exit code is then 4.
With --repair it counts as missing from then on, with all that refers to it, and whoever has it can push it again.`,
		Args: exactly("the CACHE"),
	}
	format := output(cmd)
	cache := a.placeFlags(cmd).cache
	cmd.Flags().BoolVar(&content, "content", false, "read every archive, and compare its hash")
	cmd.Flags().BoolVar(&repair, "repair", false, "mark what is broken as missing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		l, end := a.showProgress()
		out, err := c.Fsck(cmd.Context(), content, repair, func(archives, of, bytes int64) {
			l.set(fmt.Sprintf("%d of %d archives checked, %s read", archives, of, size(bytes)))
		})
		end()
		if err != nil {
			return err
		}
		if *format == "json" {
			if err := a.json(out); err != nil {
				return err
			}
		} else {
			a.printCheck(out)
		}
		if len(out.Findings) > out.Repaired {
			return exitCode(ExitCode(&fleet.Error{Code: fleet.CodeDiffers}))
		}
		return nil
	}
	return cmd
}

func (a *app) printCheck(c client.Check) {
	for _, f := range c.Findings {
		what := map[string]string{
			"missing": "its archive is not there", "size": "its archive has the wrong size", "content": "its archive is damaged",
			"narinfo": "its description is damaged", "reference": "something that it refers to is not there", "closure": "something that it needs is broken",
		}[f.Problem]
		if f.Detail != "" {
			what += ": " + f.Detail
		}
		fmt.Fprintf(a.Out, "%s: %s\n", f.StorePath, what)
	}
	fmt.Fprintf(a.Out, "%d paths, %d archives checked (%s read), %d problems\n", c.Paths, c.Archives, size(c.Bytes), len(c.Findings))
	switch {
	case c.Repaired > 0:
		fmt.Fprintf(a.Out, "%d paths count as missing now: push them again from where they are, or release again\n", c.Repaired)
	case len(c.Findings) > 0:
		fmt.Fprintf(a.Err, "  → garrison cache fsck --repair has them pushed again\n")
	}
	if c.UsedSince > 0 {
		fmt.Fprintf(a.Err, "garrison: %d of them came into use meanwhile; repair again\n", c.UsedSince)
	}
}

func (a *app) cacheDelete() *cobra.Command {
	var referrers bool
	cmd := &cobra.Command{
		Use:   "delete CACHE STOREPATH",
		Short: "Delete a path from a cache",
		Args:  exactly("the CACHE", "a STOREPATH"),
	}
	cache := a.placeFlags(cmd).cache
	cmd.Flags().BoolVar(&referrers, "referrers", false, "delete all that refers to it, too")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := cache(args[0])
		if err != nil {
			return err
		}
		deleted, needed, err := c.Delete(cmd.Context(), args[1], referrers)
		if err != nil {
			return err
		}
		if !deleted {
			return fleet.Errorf(fleet.Local, fleet.CodeCache, "%s is not deleted: %d paths refer to it:\n  %s", args[1], len(needed), strings.Join(needed, "\n  ")).
				WithHint("--referrers deletes them, too")
		}
		for _, p := range append([]string{args[1]}, needed...) {
			fmt.Fprintln(a.Out, "deleted", p)
		}
		return nil
	}
	return cmd
}
