package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

// hookQueue is where the post-build hook puts what was built. It is not the agent's queue, which holds a few systems.
const hookQueue = "/nix/var/nix/gcroots/garrison-built"

// pushAttempts are more than for a release, which is made again: about 20 seconds.
const pushAttempts = 8

// pushFlags adds what says which cache is pushed to.
func (a *app) pushFlags(cmd *cobra.Command) func() (*client.Client, error) {
	url := cmd.Flags().String("cache", "", "the cache: its URL, or CACHE or SERVER:CACHE of a login (default: cache.url in ./"+release.ConfigPath+")")
	tokenFile := cmd.Flags().String("token-file", "", "file with a token that may push to the cache, in place of the login's")
	return func() (*client.Client, error) {
		to := *url
		if to == "" {
			text, err := os.ReadFile(release.ConfigPath)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			c, err := release.ParseConfig(release.ConfigPath, text)
			if err != nil {
				return nil, err
			}
			to = c.Cache.URL
		}
		if to == "" {
			return nil, fleet.Errorf("", fleet.CodeUsage, "no cache is named").WithHint("give --cache, or cache.url in %s here", release.ConfigPath)
		}
		return a.anyCache(to, *tokenFile)
	}
}

// pushed is what garrison cache push -o json prints.
type pushed struct {
	Schema   int      `json:"schema"` // 1
	Cache    string   `json:"cache"`
	Paths    int      `json:"paths"`    // of the closures
	Pushed   int      `json:"pushed"`   // of those, whose archives were sent, or were there of another path
	Upstream int      `json:"upstream"` // of those, were left to an upstream cache
	NarBytes int64    `json:"narBytes"` // sent, before compression
	Differ   []string `json:"differ"`   // paths that the cache has, built otherwise
	Gone     []string `json:"gone"`     // paths of the queue that are in the store no more
	Seconds  float64  `json:"seconds"`
}

func (a *app) cachePush() *cobra.Command {
	var queue string
	var jobs int
	cmd := &cobra.Command{
		Use:   "push [PATH…|-]",
		Short: "Push store paths, and all that they refer to, to a cache",
		Long: `Push uploads what the cache does not have of store paths (or links to them, "result" say) and of all that they refer to:
what is referred to comes first, so that the cache holds whole closures at any time. "-" reads paths from standard input,
one a line. It may be run again after anything: what arrived is not sent again, not even the parts of a large archive.

With --queue it pushes what waits in a queue, that of the post-build hook say, and takes out what was pushed.`,
	}
	format := output(cmd)
	cache := a.pushFlags(cmd)
	cmd.Flags().IntVar(&jobs, "jobs", 4, "uploads at the same time")
	cmd.Flags().StringVar(&queue, "queue", "", "push what waits in this folder (the hook's is "+hookQueue+")")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (queue == "") == (len(args) == 0) {
			return usage(cmd, errors.New("cache push takes PATHs, or - to read them, or --queue"))
		}
		if jobs < 1 || jobs > 64 {
			return usage(cmd, fmt.Errorf("--jobs is 1 to 64, not %d", jobs))
		}
		p, err := a.newPusher(cmd.Context(), cache, jobs)
		if err != nil {
			return err
		}
		if queue != "" {
			err = p.pushQueue(cmd.Context(), client.Queue(queue))
		} else if args, err = a.storePaths(args); err == nil {
			err = p.push(cmd.Context(), args)
		}
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(p.sum)
		}
		fmt.Fprintln(a.Out, p.sum)
		return nil
	}
	return cmd
}

func (p pushed) String() string {
	s := fmt.Sprintf("pushed %d of %d paths, %.1f MB, to %s in %.1f s", p.Pushed, p.Paths, float64(p.NarBytes)/1e6, p.Cache, p.Seconds)
	if p.Upstream > 0 {
		s += fmt.Sprintf("; %d are left to an upstream cache", p.Upstream)
	}
	if len(p.Differ) > 0 {
		s += "; the cache has these otherwise, and keeps that: " + strings.Join(p.Differ, " ")
	}
	if len(p.Gone) > 0 {
		s += "; these are in the store no more: " + strings.Join(p.Gone, " ")
	}
	return s
}

// pathPusher pushes from the local store.
type pathPusher struct {
	a       *app
	nix     *nix.Nix
	to      *client.Client
	options client.PushOptions
	drv     bool // a derivation of a queue is pushed itself; else it stands for what it has built
	sum     pushed
}

func (a *app) newPusher(ctx context.Context, cache func() (*client.Client, error), jobs int) (*pathPusher, error) {
	to, err := cache()
	if err != nil {
		return nil, err
	}
	n, err := nix.Find(ctx)
	if err != nil {
		return nil, err
	}
	return &pathPusher{a: a, nix: n, to: to, options: client.PushOptions{RealStoreDir: n.RealStoreDir(), Parallel: jobs},
		sum: newPushed(to)}, nil
}

func newPushed(to *client.Client) pushed {
	return pushed{Schema: 1, Cache: to.URL(), Differ: []string{}, Gone: []string{}}
}

// storePaths are what a command's arguments name, "-" for standard input; each once.
func (a *app) storePaths(args []string) ([]string, error) {
	var paths []string
	for _, arg := range args {
		named := []string{arg}
		if arg == "-" {
			named = nil
			lines := bufio.NewScanner(a.In)
			for lines.Scan() {
				if line := strings.TrimSpace(lines.Text()); line != "" {
					named = append(named, line)
				}
			}
			if err := lines.Err(); err != nil {
				return nil, fmt.Errorf("read paths from standard input: %w", err)
			}
		}
		for _, n := range named {
			path, err := nix.StorePath(n)
			if err != nil {
				return nil, err
			}
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// push pushes the closures of paths, and shows how far it is.
func (p *pathPusher) push(ctx context.Context, paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	start := time.Now()
	closure, err := p.nix.Closure(ctx, paths)
	if err != nil {
		return err
	}
	progress, end := p.a.showProgress()
	defer end()
	o := p.options
	o.Progress = progress.pushedEach
	stats, err := p.to.Push(ctx, closure, o)
	p.sum.add(stats)
	p.sum.Seconds += time.Since(start).Seconds()
	return err
}

func (p *pushed) add(s client.Stats) {
	p.Paths += s.Paths
	p.Pushed += s.Pushed
	p.Upstream += s.Upstream
	p.NarBytes += s.NarBytes
	p.Differ = append(p.Differ, s.Differ...)
}

// queueBatch is how many paths of a queue are pushed together.
const queueBatch = 500

// pushQueue pushes what waits until nothing does, and takes out what was pushed.
func (p *pathPusher) pushQueue(ctx context.Context, q client.Queue) error {
	for {
		waiting, err := q.Waiting()
		if err != nil {
			return queueError(q, "read", err)
		}
		if len(waiting) == 0 {
			return nil
		}
		waiting = waiting[:min(len(waiting), queueBatch)]
		valid, err := p.nix.ValidOf(ctx, waiting)
		if err != nil {
			return err
		}
		built := valid
		if !p.drv {
			if built, err = p.built(ctx, valid); err != nil {
				return err
			}
		}
		if err := p.push(ctx, built); err != nil {
			return err
		}
		for _, path := range waiting {
			if !slices.Contains(valid, path) {
				p.sum.Gone = append(p.sum.Gone, path)
			}
			if err := q.Remove(path); err != nil {
				return queueError(q, "rid of "+path, err)
			}
		}
	}
}

func queueError(q client.Queue, what string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, "the queue %s cannot be %s", q, what).WithCause(err)
}

// built puts in place of derivations what they have built.
func (p *pathPusher) built(ctx context.Context, paths []string) ([]string, error) {
	var built, drvs []string
	for _, path := range paths {
		if strings.HasSuffix(path, ".drv") {
			drvs = append(drvs, path)
		} else {
			built = append(built, path)
		}
	}
	outputs, err := p.nix.Outputs(ctx, drvs)
	if err == nil {
		outputs, err = p.nix.ValidOf(ctx, outputs)
	}
	return append(built, outputs...), err
}

// cachePostBuildHook never fails, whatever it is given: Nix would fail the build.
func (a *app) cachePostBuildHook() *cobra.Command {
	var queue string
	cmd := &cobra.Command{
		Use:   "post-build-hook",
		Short: "Queue what Nix has just built, to be pushed later (for nix.conf's post-build-hook)",
		Long: `Nix runs its post-build hook after each build, and waits for it. This one only puts what was built into a queue, a folder of links
that survives a reboot, and always succeeds; garrison cache push --queue pushes from there. Since nix.conf's post-build-hook takes a program without arguments,
let that be a script with the two lines

  #!/bin/sh
  exec garrison cache post-build-hook

and have systemd push as soon as something waits (see docs/OPERATIONS.md).`,
		Args:               cobra.ArbitraryArgs,
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
	}
	cmd.Flags().StringVar(&queue, "queue", hookQueue, "folder of the queue")
	cmd.RunE = func(*cobra.Command, []string) error {
		told := os.Getenv("OUT_PATHS")
		if told == "" { // Nix 2.8 does not say; whoever pushes asks what the derivation built
			told = os.Getenv("DRV_PATH")
		}
		var paths []string
		for _, path := range strings.Fields(told) {
			if fleet.ValidStorePath(path) {
				paths = append(paths, path)
			}
		}
		if err := client.Queue(queue).Add(paths...); err != nil {
			fmt.Fprintln(a.Err, "garrison: what was built cannot be queued for the cache:", err)
		}
		return nil
	}
	return cmd
}
