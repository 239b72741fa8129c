package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

type releaseFlags struct {
	evalFlags
	repo, remote, source  string
	key, identity, signer string
	sourceSigners         string
	cacheURL, cacheToken  string
	rollbackTo            int
	test                  string
	dryRun, keepGoing     bool
	verifyWith            *[]string
}

func (a *app) release() *cobra.Command {
	var f releaseFlags
	cmd := &cobra.Command{
		Use:   "release",
		Short: "Evaluate, re-key, build, push and publish the tip of the source branch",
		Long: `Release makes a signed release of what is on the source branch: it evaluates every host,
re-keys the secrets for the hosts, builds, pushes the closures to the cache, and publishes
the release branch and a signed tag in one atomic push. If anything fails, nothing is published.`,
		Args: exactly(),
	}
	format := output(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote to read from and publish to")
	fl.StringVar(&f.source, "source", "", "commit to release (default: the tip of the source branch on the remote)")
	fl.StringVar(&f.key, "key", "", "SSH private key that signs the release")
	fl.StringVar(&f.identity, "identity", "", "private key (age or SSH) that secrets on the source branch are readable with")
	fl.StringVar(&f.signer, "allowed-signers", "", "file with the keys that may have signed earlier releases (default: --key)")
	fl.StringVar(&f.sourceSigners, "source-signers", "", "file with the keys that may sign commits on the source branch (default: source.signers of the last release)")
	fl.StringVar(&f.cacheURL, "cache", "", "URL of the cache, with its name (default: cache.url in garrison.toml)")
	fl.StringVar(&f.cacheToken, "cache-token-file", "", "file with the token that may push to the cache")
	f.verifyWith = verifyWith(cmd)
	f.evalFlags.add(fl)
	fl.IntVar(&f.rollbackTo, "rollback-to", 0, "release the content of the release with this number again, as a new release")
	fl.StringVar(&f.test, "test", "", "make a test release for this host alone, of the branch HOST-test on the remote")
	fl.BoolVar(&f.keepGoing, "keep-going", false, "publish although hosts named by hosts.partial in garrison.toml do not build; they keep their previous system")
	fl.BoolVar(&f.dryRun, "dry-run", false, "evaluate and re-key, but build, push and publish nothing")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.runRelease(cmd.Context(), f, *format == "json")
	}
	return cmd
}

func (a *app) runRelease(ctx context.Context, f releaseFlags, asJSON bool) error {
	if f.test != "" && (f.rollbackTo != 0 || f.source != "" || f.keepGoing) {
		return fleet.Errorf("", fleet.CodeUsage, "--test goes with none of --source, --rollback-to and --keep-going")
	}
	if f.rollbackTo != 0 && f.source != "" {
		return fleet.Errorf("", fleet.CodeUsage, "--rollback-to and --source exclude each other")
	}
	if f.key == "" && !f.dryRun {
		return fleet.Errorf("", fleet.CodeUsage, "--key is missing: a release must be signed").WithHint("make a key: ssh-keygen -t ed25519 -N '' -f release-key")
	}
	n, err := nix.Find(ctx)
	if err != nil {
		return err
	}
	repo, err := git.Open(ctx, f.repo)
	if err != nil {
		return err
	}
	if f.key != "" {
		if err := release.CheckKey(ctx, f.key); err != nil {
			return err
		}
	}
	keys, err := hostKeys(*f.verifyWith)
	if err != nil {
		return err
	}
	progress, end := a.showProgress()
	defer end()
	a.listen(n, progress)
	t, began, hub := &proc.Timeline{}, time.Now(), os.Getenv("GARRISON_HUB")
	var teller *runTeller
	if !f.dryRun {
		teller = newRunTeller(hub, hubTokenHere(), t)
	}
	t.OnStage = func(s fleet.StageTime, ended bool) {
		progress.stage(s, ended)
		teller.onStage(s, ended)
	}
	out, err := release.Run(proc.WithTimeline(ctx, t), release.Options{
		Repo: repo, Remote: f.remote, Source: f.source, SigningKey: f.key, AllowedSigners: f.signer, SourceSigners: f.sourceSigners,
		Identities: identities(f.identity), VerifyWith: keys, Trace: os.Getenv("TRACEPARENT"),
		Jobs: f.jobs, EvalMemory: int64(f.memory), DryRun: f.dryRun, KeepGoing: f.keepGoing, RollbackTo: f.rollbackTo, Test: f.test, Nix: n, Log: a.logger(),
		KeepLog: true, Evaluated: progress.evaluated, Pushed: progress.pushed, Begun: func(s fleet.Source) { teller.begin(s, began) },
		Cache: func(c release.Config) (release.Cache, error) {
			hub = cmp.Or(hub, c.Hub.URL)
			return f.cache(c)
		},
	})
	end()
	if !f.dryRun {
		run := runOf(fleet.Source{Commit: f.source}, began, t, out, err)
		if untold := teller.end(run); untold != nil {
			fmt.Fprintln(a.Err, "garrison: warning: the hub does not know of this run:", untold)
		}
		traceRun(ctx, run, hub == "", a.logger())
	}
	if err != nil && out.Log != "" {
		fmt.Fprintf(a.Err, "%-9s %s\n", "log", out.Log)
	}
	if err != nil {
		return err
	}
	if asJSON {
		return a.json(releaseJSON{Schema: 1, DryRun: f.dryRun, Outcome: out, Stages: t.Stages()})
	}
	a.tellRelease(out, f.dryRun)
	return nil
}

// releaseJSON is what release -o json prints.
type releaseJSON struct {
	Schema int  `json:"schema"`
	DryRun bool `json:"dryRun"`
	release.Outcome
	Stages []fleet.StageTime `json:"stages"`
}

func (a *app) tellRelease(out release.Outcome, dryRun bool) {
	m := out.Manifest
	switch {
	case dryRun && out.Release == nil:
		fmt.Fprintf(a.Out, "would release %s as %s (nothing was published)\n", short(m.Source.Commit), m.Name())
	case out.State == fleet.RunUnchanged && m.RollbackTo != 0:
		fmt.Fprintf(a.Out, "%s went back to %s: only what is built on %s is released now\n", fleet.TagName(m.Number), fleet.TagName(m.RollbackTo), short(m.NewestSource()))
		return
	case out.State == fleet.RunUnchanged:
		fmt.Fprintf(a.Out, "%s is released already, as %s\n", short(m.Source.Commit), m.Name())
		return
	default:
		fmt.Fprintf(a.Out, "released %s as %s\n", short(m.Source.Commit), m.Name())
	}
	for _, h := range sortedKeys(m.Hosts) {
		what := "unchanged"
		if m.Hosts[h].Changed {
			what = "changes"
		}
		fmt.Fprintf(a.Out, "  %-16s %-9s %s\n", h, what, m.Hosts[h].OutPath)
	}
	for _, h := range m.Manual {
		fmt.Fprintf(a.Out, "  %-16s %s\n", h, "manual")
	}
	if text := beginning(out); text != "" {
		fmt.Fprintf(a.Out, "  %-16s %s\n", "rings", text)
	}
	for _, s := range out.Rekeyed {
		fmt.Fprintf(a.Out, "  re-keyed %s\n", s)
	}
	for _, s := range out.Rotate {
		fmt.Fprintf(a.Out, "  ROTATE %s\n", s)
	}
}

// beginning says how the roll-out of a release began; "" where there are no rings.
func beginning(out release.Outcome) string {
	r := out.Rings
	switch {
	case r == nil:
		return ""
	case r.Kept != "":
		return fmt.Sprintf("%s has it not yet: %s", r.Ring, r.Kept)
	case r.Batches > 1:
		return "all rings have it"
	case out.Release == nil:
		return r.Ring + " gets it when it is published"
	}
	return r.Ring + " has it"
}

// identities loads the file when it is needed, so that a release without changed secrets works without it.
func identities(file string) func() ([]age.Identity, error) {
	return func() ([]age.Identity, error) {
		if file == "" {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeKey, "secrets changed, and there is no key to read them with").
				WithHint("give --identity (or ci.identity), the private key of one of the editors in garrison.toml")
		}
		return secret.LoadIdentities(file)
	}
}

func (f releaseFlags) cache(c release.Config) (release.Cache, error) { return f.client(c) }

// tokenFrom reads a token from a file each time it is asked for; no file means no token.
func tokenFrom(file string) func() (string, error) {
	if file == "" {
		return nil
	}
	return func() (string, error) {
		b, err := readSmall(file)
		if err != nil {
			return "", fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the token file %s", file).
				WithHint("it must be readable, and hold a token and nothing else").WithCause(err)
		}
		return strings.TrimSpace(string(b)), nil
	}
}

// readSmall reads a file of at most 64 KiB.
func readSmall(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// listen has nix tell how far it is and, with -v, all that it says.
func (a *app) listen(n *nix.Nix, progress *live) {
	n.OnEvent = progress.building
	if a.verbose {
		n.Log = &prefixer{to: a.Err, prefix: "  | "}
	}
}

// prefixer marks lines that other programs said, several of them at the same time.
type prefixer struct {
	to     io.Writer
	prefix string

	mu   sync.Mutex
	part []byte
}

func (p *prefixer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.part = append(p.part, b...)
	for {
		i := bytes.IndexByte(p.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		if _, err := fmt.Fprintf(p.to, "%s%s\n", p.prefix, p.part[:i]); err != nil {
			return 0, err
		}
		p.part = p.part[i+1:]
	}
}
