package cli

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/release"
)

// liveFlags are of a drill of somebody's fleet.
type liveFlags struct{ host, repo, remote, hub, tokenFile string }

func (f *liveFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.host, "live", "", "drill this host of the fleet whose repository is --repo, instead of a sandbox")
	fl.StringVar(&f.repo, "repo", ".", "with --live: a clone of the fleet's repository; its files are left alone")
	fl.StringVar(&f.remote, "remote", "origin", "with --live: name or URL of the remote that is pushed to")
	fl.StringVar(&f.hub, "hub", "", "with --live: URL of the hub (default: $GARRISON_HUB, else hub.url in garrison.toml; with none of them the forge says what CI does)")
	fl.StringVar(&f.tokenFile, "token-file", "", "with --live: file with a token of scope read (default: $GARRISON_HUB_TOKEN_FILE)")
	_ = cmd.MarkFlagFilename("token-file")
}

// liveDrill drills a host of somebody's fleet.
func (a *app) liveDrill(ctx context.Context, f liveFlags, o drill.DrillOptions) (fleet.DrillReport, error) {
	repo, err := git.Open(ctx, f.repo)
	if err != nil {
		return fleet.DrillReport{}, err
	}
	c, tip, err := release.Settings(ctx, repo, f.remote)
	if err != nil {
		return fleet.DrillReport{}, err
	}
	if tip == "" {
		return fleet.DrillReport{}, fleet.Errorf("", fleet.CodeNotFound, "%s has no branch %s", f.remote, c.Branches.Source).WithHint("--repo is a clone of the fleet's repository")
	}
	l := drill.LiveOptions{DrillOptions: o, Host: f.host, Repo: f.repo, Remote: f.remote, Source: c.Branches.Source, Release: c.Branches.Release,
		Hub: orElse(orElse(f.hub, os.Getenv("GARRISON_HUB")), c.Hub.URL), Cache: c.Cache.URL, CacheKey: c.Drill.CacheKey, Probes: map[string]drill.Probe{}}
	l.HubToken = tokenFrom(orElse(f.tokenFile, os.Getenv("GARRISON_HUB_TOKEN_FILE")))
	add := func(host string, p release.Probe) {
		l.Probes[host] = drill.Probe{Via: p.Via, System: p.System, Marker: p.Marker, Log: p.Log}
	}
	add(f.host, release.DefaultProbe(f.host))
	for host, p := range c.Drill.Hosts {
		add(host, p)
	}
	return drill.Live(ctx, l)
}
