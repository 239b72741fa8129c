package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/release"
)

// liveFlags are of a drill of somebody's fleet.
type liveFlags struct {
	host, repo, remote, hub, tokenFile string
	revert                             bool
}

func (f *liveFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.host, "live", "", "drill this host of the fleet whose repository is --repo, instead of a sandbox")
	fl.StringVar(&f.repo, "repo", ".", "with --live: a clone of the fleet's repository; its files are left alone")
	fl.StringVar(&f.remote, "remote", "origin", "with --live: name or URL of the remote that is pushed to")
	fl.StringVar(&f.hub, "hub", "", "with --live: URL of the hub (default: $GARRISON_HUB, else hub.url in garrison.toml; with none of them the forge says what CI does)")
	fl.StringVar(&f.tokenFile, "token-file", "", "with --live: file with a token of the scopes read, and ci for the hub to be told how it ended (default: $GARRISON_HUB_TOKEN_FILE, or the token in $GARRISON_HUB_TOKEN)")
	fl.BoolVar(&f.revert, "revert", false, "with --live: put drill.json back as it was before a drill that was killed, and drill nothing")
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
	if l.HubToken = tokenFrom(f.tokenFile); l.HubToken == nil {
		l.HubToken = hubTokenHere()
	}
	add := func(host string, p release.Probe) {
		l.Probes[host] = drill.Probe{Via: p.Via, System: p.System, Marker: p.Marker, Log: p.Log}
	}
	add(f.host, release.DefaultProbe(f.host))
	for host, p := range c.Drill.Hosts {
		add(host, p)
	}
	if f.revert {
		return fleet.DrillReport{}, drill.Revert(ctx, l)
	}
	report, err := drill.Live(ctx, l)
	drilled := slices.ContainsFunc(report.Scenarios, func(s fleet.DrillScenario) bool { return s.Result != fleet.DrillSkip })
	if drilled && ctx.Err() == nil && l.Hub != "" { // one that somebody stopped has not failed
		a.tellDrill(ctx, l.Hub, l.HubToken, report)
	}
	return report, err
}

const (
	drillTellTime  = 20 * time.Second // for each attempt
	drillTellTries = 3
)

// tellDrill tells a hub how a drill ended. That it cannot is said in a line, and is no failure of the drill.
func (a *app) tellDrill(ctx context.Context, hub string, token func() (string, error), r fleet.DrillReport) {
	if token == nil {
		token = func() (string, error) { return "", nil }
	}
	body, err := json.Marshal(r)
	for try := 1; err == nil; try++ {
		once, cancel := context.WithTimeout(ctx, drillTellTime)
		err = postHub(once, hub, token, "/api/v1/drills", body)
		cancel()
		if err == nil {
			fmt.Fprintf(a.Out, "The hub has the report: %s/-/drills\n", strings.TrimSuffix(hub, "/"))
			return
		}
		if fleet.ClassOf(err) != fleet.Transient || try == drillTellTries || ctx.Err() != nil {
			break
		}
		err = nil
		select {
		case <-ctx.Done():
		case <-time.After(tellPause):
		}
	}
	hint := ""
	if e := new(fleet.Error); errors.As(err, &e) && e.Hint != "" {
		hint = ": " + e.Hint
	}
	fmt.Fprintf(a.Err, "garrison: the hub does not know how this drill ended: %v%s\n", err, hint)
}
