package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

type planFlags struct {
	releaseFlags
	noBuild bool
}

func (a *app) plan() *cobra.Command {
	var f planFlags
	cmd := &cobra.Command{
		Use:   "plan [BASE]",
		Short: "Say which hosts and secrets a release would change, and how",
		Long: `Plan compares what stands in the work tree (or --source) with the newest release, or with BASE,
a release's tag or a commit: which hosts change, which packages come, go and change their version, which
secrets are re-keyed for whom. It prints nothing if nothing changes, reads no secret and publishes nothing.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("%s takes one BASE at most, %d given", cmd.CommandPath(), len(args)))
			}
			return nil
		},
	}
	format := cmd.Flags().StringP("output", "o", "text", "text, markdown or json")
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote with the releases")
	fl.StringVar(&f.source, "source", "", "commit to plan for (default: the work tree)")
	fl.StringVar(&f.signer, "allowed-signers", "", "file with the keys that may have signed releases (default: their signatures are not checked)")
	fl.StringVar(&f.cacheURL, "cache", "", "URL of the cache to ask about closures that are not here (default: cache.url in garrison.toml)")
	fl.StringVar(&f.cacheToken, "cache-token-file", "", "file with a token for a private cache")
	f.evalFlags.add(fl)
	fl.BoolVar(&f.noBuild, "no-build", false, "build nothing: say which hosts change, but not by which packages")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch *format {
		case "text", "markdown", "json":
		default:
			return usage(cmd, fmt.Errorf("-o takes text, markdown or json, not %q", *format))
		}
		c, err := a.runPlan(cmd.Context(), f, args)
		if err != nil {
			return err
		}
		switch *format {
		case "json":
			return a.json(c)
		case "markdown":
			return c.WriteMarkdown(a.Out)
		}
		return c.WriteText(a.Out)
	}
	return cmd
}

func (a *app) runPlan(ctx context.Context, f planFlags, args []string) (*release.Changes, error) {
	n, err := nix.Find(ctx)
	if err != nil {
		return nil, err
	}
	repo, err := git.Open(ctx, f.repo)
	if err != nil {
		return nil, err
	}
	source := f.source
	if source == "" {
		if source, _, err = git.WorkTree(ctx, f.repo); err != nil {
			return nil, err
		}
	}
	progress, end := a.showProgress()
	defer end()
	a.listen(n, progress)
	o := release.PlanOptions{NoBuild: f.noBuild, Closure: f.closure, Options: release.Options{
		Repo: repo, Remote: f.remote, Source: source, AllowedSigners: f.signer, Jobs: f.jobs, EvalMemory: int64(f.memory),
		Nix: n, Log: a.logger(), Evaluated: progress.evaluated, Trace: os.Getenv("TRACEPARENT")}}
	if len(args) == 1 {
		o.Base = args[0]
	}
	return release.Plan(ctx, o)
}

// closure asks the configured cache, where there is one.
func (f planFlags) closure(c release.Config) (func(context.Context, []string) ([]nar.PathInfo, []string, error), error) {
	cache, err := f.client(c)
	if fleet.CodeOf(err) == fleet.CodeConfig && f.cacheURL == "" && c.Cache.URL == "" {
		return nil, fmt.Errorf("it is not in the store here, and no cache is configured")
	}
	if err != nil {
		return nil, err
	}
	return cache.Closure, nil
}

// client is the cache that flags or garrison.toml name.
func (f releaseFlags) client(c release.Config) (*client.Client, error) {
	url := f.cacheURL
	if url == "" {
		url = c.Cache.URL
	}
	if url == "" {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeConfig, "no cache to push to").WithHint("give --cache, or cache.url in garrison.toml")
	}
	return client.New(client.Config{URL: url, Token: tokenFrom(f.cacheToken)})
}
