package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/rollout"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// ordered is what an order came to, as -o json prints it.
type orderedJSON struct {
	Schema  int                 `json:"schema"`
	DryRun  bool                `json:"dryRun"`
	Act     string              `json:"act"`
	Done    string              `json:"done"` // in a line; "" when all was so already
	Order   *fleet.RolloutOrder `json:"order,omitempty"`
	Commit  string              `json:"commit,omitempty"` // on the roll-out's branch
	Moved   []string            `json:"moved"`            // branches
	Waiting []string            `json:"waiting"`          // what keeps the ring from the release now
}

// rolloutOrder is a command that orders something about the roll-out.
type rolloutOrder struct {
	rolloutFlags
	asked  from
	dryRun bool
	fleet.RolloutCommand
}

// add makes cmd a command of that order; fill completes the order from flags and arguments, and after is what is to be done, and said, then.
func (a *app) ordersRollout(cmd *cobra.Command, act string, o *rolloutOrder, fill func(cmd *cobra.Command, args []string) error, after func(ctx context.Context, out orderedJSON, asJSON bool) error) *cobra.Command {
	o.Act = act
	format := output(cmd)
	o.add(cmd)
	cmd.Flags().StringVar(&o.Reason, "reason", "", "why: it stands in the ledger, for whoever asks later")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "say what would be ordered, and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if strings.TrimSpace(o.Reason) == "" {
			return usage(cmd, fmt.Errorf("%s needs --reason: somebody will ask why", cmd.Name()))
		}
		if fill != nil {
			if err := fill(cmd, args); err != nil {
				return err
			}
		}
		asJSON := *format == "json"
		out, err := o.carry(cmd.Context(), a)
		if err != nil {
			return err
		}
		if asJSON && after == nil {
			return a.json(out)
		}
		if !asJSON {
			a.tellOrdered(out)
		}
		if after != nil {
			return after(cmd.Context(), out, asJSON)
		}
		return nil
	}
	return cmd
}

// carry writes the order to the ledger, and moves with it what it moves.
func (o *rolloutOrder) carry(ctx context.Context, a *app) (orderedJSON, error) {
	out := orderedJSON{Schema: 1, DryRun: o.dryRun, Act: o.Act, Moved: []string{}, Waiting: []string{}}
	c, err := o.open(ctx)
	if err != nil {
		return out, err
	}
	by, err := c.Repo.Person(ctx)
	if err != nil {
		return out, err
	}
	if by == "" {
		return out, fleet.Errorf(fleet.Local, fleet.CodeConfig, "git does not know who you are, and an order has its author").
			WithHint("git config --global user.name NAME; git config --global user.email ADDRESS")
	}
	if c.signers == "" {
		fmt.Fprintln(a.Err, "garrison: warning: the signatures of releases are not looked at here: no allowed signers were given")
	}
	var act rollout.Act
	decide := func(p ledger.Page) (*ledger.Entry, error) {
		s, err := c.standing(ctx, p, o.Release, o.To)
		if err != nil {
			return nil, err
		}
		if act, err = rollout.Carry(o.RolloutCommand, by, s); err != nil {
			return nil, c.because(err, o.Release, o.To)
		}
		if act.Summary == "" {
			return nil, nil
		}
		out.Moved, out.Waiting = []string{}, []string{}
		e := &ledger.Entry{By: by, Summary: act.Summary, Reason: act.Order.Reason, Ledger: act.Ledger}
		for _, m := range act.Moves {
			branch := fleet.RingBranch(c.Release, m.Ring, m.Batch)
			e.Advances = append(e.Advances, ledger.Advance{Branch: branch, From: p.Rings[branch], To: c.commits[m.To]})
			out.Moved = append(out.Moved, branch)
		}
		if o.Act == fleet.RolloutPromote && !o.Force {
			s.Ledger = act.Ledger
			out.Waiting = append(out.Waiting, o.waiting(ctx, s, act.Order)...)
			if !manual(s.Newest, act.Order.Ring) {
				return nil, notByWord(act.Order, out.Waiting, o.asked.hub != "")
			}
		}
		return e, nil
	}
	if o.dryRun {
		p, err := c.Read(ctx)
		if err == nil {
			_, err = decide(p)
		}
		if err != nil {
			return out, err
		}
	} else {
		after, err := c.Change(ctx, decide)
		if err != nil {
			return out, err
		}
		out.Commit = after.Tip
	}
	if out.Done = act.Summary; act.Summary == "" {
		out.Commit = ""
	}
	out.Order = &act.Order
	return out, nil
}

// because adds why a release is not to be used.
func (c *clone) because(err error, numbers ...int) error {
	var e *fleet.Error
	if !errors.As(err, &e) || e.Code != fleet.CodeNotFound {
		return err
	}
	for _, n := range numbers {
		if why := c.why[n]; why != nil {
			return e.WithCause(why)
		}
	}
	return err
}

func manual(m *fleet.Manifest, ring string) bool {
	return slices.ContainsFunc(m.Rings, func(r fleet.Ring) bool { return r.Name == ring && r.Manual })
}

// waiting says what keeps the ring from the release now: what the hub says, where one is named and answers, else what git tells.
func (o *rolloutOrder) waiting(ctx context.Context, s rollout.Standing, order fleet.RolloutOrder) []string {
	if o.asked.hub != "" {
		if v, err := o.status(ctx, o.asked); err == nil {
			for _, r := range v.Rings {
				if r.Name == order.Ring && r.Reason != "" && !r.Approve {
					return []string{r.Reason}
				}
			}
		}
	}
	return s.Kept(order.Ring, order.Release)
}

// notByWord is for a ring that is given releases without anybody's word.
func notByWord(o fleet.RolloutOrder, waiting []string, hub bool) error {
	why := strings.Join(waiting, "; ")
	switch {
	case why != "":
	case hub:
		why = "the hub gives it as soon as its gates hold"
	default:
		why = "how the hosts before it are, a hub knows; name one by --hub"
	}
	return fleet.Errorf("", fleet.CodeNotNow, "ring %s needs nobody's word (promote = \"auto\"), and its gates do not let it have %s, as far as can be seen: %s", o.Ring, fleet.TagName(o.Release), why).
		WithHint("--force gives it the release now, whatever its gates say")
}

func (a *app) tellOrdered(out orderedJSON) {
	s := a.console()
	switch {
	case out.Done == "":
		s.line(plain, "nothing to do: it is so already")
		return
	case out.DryRun:
		s.line(plain, "would order: %s", out.Done)
	default:
		s.line(plain, "%s", out.Done)
	}
	for _, b := range out.Moved {
		s.line(plain, "  %s", b)
	}
	for _, w := range out.Waiting {
		s.line(plain, "  it waits: %s", w)
	}
}

func (a *app) promote() *cobra.Command {
	o := &rolloutOrder{}
	cmd := &cobra.Command{
		Use:   "promote [RELEASE] --to RING --reason WHY",
		Short: "Let a ring have a release, or give it one whatever its gates say",
		Long: `Promote is a person's word that a ring with promote = "manual" may have a release: the one named (release-411, or 411), else the one that the ring
before it has. The hub gives it as soon as the other gates hold; what keeps it is said. With --force the ring's branches are moved at once, past all gates:
also when there is no hub. Hosts verify the release as ever.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage(cmd, fmt.Errorf("promote takes one RELEASE at most, %d given", len(args)))
			}
			return nil
		},
		ValidArgsFunction: onlyFirst(o.asked.releases),
	}
	o.asked.hubFlags(cmd)
	cmd.Flags().StringVar(&o.Ring, "to", "", "the ring")
	cmd.Flags().BoolVar(&o.Force, "force", false, "move the ring's branches now, whatever its gates say")
	_ = cmd.RegisterFlagCompletionFunc("to", o.rings)
	return a.ordersRollout(cmd, fleet.RolloutPromote, o, func(cmd *cobra.Command, args []string) (err error) {
		if o.Ring == "" {
			return usage(cmd, errors.New("promote needs --to: the ring that is to have it"))
		}
		if err := o.asked.resolve(cmd, true); err != nil {
			return err
		}
		if len(args) == 1 {
			o.Release, err = releaseArg(cmd, args[0])
		}
		return err
	}, nil)
}

// rings completes a ring's name by what the clone has of garrison.toml.
func (o *rolloutOrder) rings(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
	defer cancel()
	repo, err := git.Open(ctx, o.repo)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	text, _, _ := repo.ReadFile(ctx, "HEAD", release.ConfigPath)
	config, _ := release.ParseConfig(release.ConfigPath, text)
	var fit []string
	for _, n := range config.RingNames() {
		if strings.HasPrefix(n, word) {
			fit = append(fit, n)
		}
	}
	return fit, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

func (a *app) pauseRollout() *cobra.Command {
	return a.ordersRollout(&cobra.Command{
		Use:   "pause --reason WHY",
		Short: "Let no ring have a release until somebody resumes",
		Args:  exactly(),
	}, fleet.RolloutPause, &rolloutOrder{}, nil, nil)
}

func (a *app) resumeRollout() *cobra.Command {
	return a.ordersRollout(&cobra.Command{
		Use:   "resume --reason WHY",
		Short: "End a pause, also one that failures brought about",
		Long: `Resume ends a pause that somebody ordered, and lets the newest release go on in spite of the hosts that failed with it until now.
It is not garrison resume, which ends the suspension of one host.`,
		Args: exactly(),
	}, fleet.RolloutResume, &rolloutOrder{}, nil, nil)
}

func (a *app) freeze() *cobra.Command {
	o := &rolloutOrder{}
	var until string
	cmd := &cobra.Command{
		Use:   "freeze --until TIME|DURATION --reason WHY",
		Short: "Let no ring have a release until a time",
		Long: `Freeze keeps all rings as they are until its end, which is a time (2026-12-27, 2026-12-27T08:00, with a zone or of this machine's) or a duration
(36h, 3d). Releases are published meanwhile, and go on their way when it is over.`,
		Args: exactly(),
	}
	cmd.Flags().StringVar(&until, "until", "", "its end: a time, or a duration from now on")
	return a.ordersRollout(cmd, fleet.RolloutFreeze, o, func(cmd *cobra.Command, _ []string) error {
		at, err := tomlfile.ParseUntil(until, time.Now(), time.Local)
		if err != nil {
			return usage(cmd, fmt.Errorf("--until is %w", err))
		}
		o.Until = &at
		return nil
	}, nil)
}

func (a *app) unfreeze() *cobra.Command {
	return a.ordersRollout(&cobra.Command{
		Use:   "unfreeze --reason WHY",
		Short: "End a freeze before its time",
		Args:  exactly(),
	}, fleet.RolloutUnfreeze, &rolloutOrder{}, nil, nil)
}

func (a *app) abort() *cobra.Command {
	o := &rolloutOrder{}
	var f releaseFlags
	var to string
	cmd := &cobra.Command{
		Use:   "abort [--to RELEASE] [--at-once] --reason WHY",
		Short: "Go back to the last good release, as a new release",
		Long: `Abort lets the newest release, and all since the one that is gone back to, go no further, and has that one's content released again: from the first ring
on, or with --at-once to all rings when it is published. Without --to it goes back to the last release that all rings had.
With --key the new release is made here. Without it the hub's CI makes it, or the next run of garrison ci that somebody starts by hand.`,
		Args: exactly(),
	}
	fl := cmd.Flags()
	fl.StringVar(&to, "to", "", "the release to go back to (default: the last that all rings had)")
	fl.BoolVar(&o.AtOnce, "at-once", false, "give it to all rings when it is published, without soak and windows")
	fl.StringVar(&f.key, "key", "", "make the release here: SSH private key that signs it")
	fl.StringVar(&f.identity, "identity", "", "with --key: private key (age or SSH) that secrets on the source branch are readable with, should one have to be re-keyed")
	fl.StringVar(&f.cacheURL, "cache", "", "with --key: URL of the cache, with its name (default: cache.url in garrison.toml)")
	fl.StringVar(&f.cacheToken, "cache-token-file", "", "with --key: file with the token that may push to the cache")
	f.evalFlags.add(fl)
	f.verifyWith = &[]string{}
	return a.ordersRollout(cmd, fleet.RolloutAbort, o, func(cmd *cobra.Command, _ []string) (err error) {
		if to != "" {
			if o.To, err = releaseArg(cmd, to); err != nil {
				return err
			}
		}
		if f.key != "" {
			err = release.CheckKey(cmd.Context(), f.key) // before anything is ordered
		}
		return err
	}, func(ctx context.Context, out orderedJSON, asJSON bool) error {
		if f.key != "" && !o.dryRun {
			f.repo, f.remote, f.signer, f.rollbackTo = o.repo, o.remote, o.signers, out.Order.To
			return a.runRelease(ctx, f, asJSON)
		}
		if asJSON {
			return a.json(out)
		}
		if f.key == "" {
			a.console().line(plain, "  the release is made by the hub's CI, or the next run of garrison ci that is started by hand; or here: garrison release --rollback-to %d --key KEY", out.Order.To)
		}
		return nil
	})
}
