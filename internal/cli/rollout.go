package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/ledger"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// rollout are the commands about the way of releases through the rings. garrison promote is one of them, too.
func (a *app) rollout() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "See how far releases are on their way through the rings, and order something about that",
		Long: `Rollout is about the way of a release from ring to ring (docs/ROLLOUT.md). The orders work from a clone, for whoever may
push to the fleet's repository: each is one commit on the branch release-rollout, with its reason. A hub does as they say; without
a hub that gives rings their releases, promote --force does.`,
		Args: noCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.rolloutStatus(), a.promote(), a.pauseRollout(), a.resumeRollout(), a.freeze(), a.unfreeze(), a.abort())
	return cmd
}

// rolloutFlags say whose roll-out.
type rolloutFlags struct {
	repo, remote, signers string
}

func (f *rolloutFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.repo, "repo", ".", "the fleet's repository on this machine")
	fl.StringVar(&f.remote, "remote", "origin", "name or URL of the remote with the releases")
	fl.StringVar(&f.signers, "allowed-signers", "", "file with the keys that may sign releases (default: what git has as gpg.ssh.allowedSignersFile; without any, only hosts look at signatures)")
}

// clone is the fleet's roll-out as a clone sees it.
type clone struct {
	ledger.Book
	signers  string
	releases map[int]*fleet.Manifest // those that were looked at, by number; nil: not to be used
	why      map[int]error
	commits  map[int]string
}

func (f rolloutFlags) open(ctx context.Context) (*clone, error) {
	repo, err := git.Open(ctx, f.repo)
	if err != nil {
		return nil, err
	}
	config, _, err := release.Settings(ctx, repo, f.remote)
	if err != nil {
		return nil, err
	}
	c := &clone{Book: ledger.Book{Repo: repo, Remote: git.Remote{URL: f.remote}, Release: config.Branches.Release}, signers: f.signers,
		releases: map[int]*fleet.Manifest{}, why: map[int]error{}, commits: map[int]string{}}
	if c.signers == "" {
		c.signers, err = repo.AllowedSigners(ctx)
	}
	return c, err
}

// release is what a release says, if it is one of ours; nil if not.
func (c *clone) release(ctx context.Context, p ledger.Page, n int) (*fleet.Manifest, error) {
	if m, seen := c.releases[n]; seen {
		return m, nil
	}
	m, tag, err := c.Manifest(ctx, p, fleet.TagName(n), c.signers)
	if err != nil && (fleet.ClassOf(err) != fleet.Bad || ctx.Err() != nil) {
		return nil, err
	}
	c.releases[n], c.why[n], c.commits[n] = m, err, tag.Commit
	return m, nil
}

// at is the newest release that a commit is; 0 for none of ours.
func (c *clone) at(ctx context.Context, p ledger.Page, commit string) (int, error) {
	for _, n := range ledger.Numbers(p.Tags, commit) {
		if m, err := c.release(ctx, p, n); err != nil || m != nil {
			return n, err
		}
	}
	return 0, nil
}

// standing is the roll-out on a page. Of the releases it knows those that something points at, and more.
func (c *clone) standing(ctx context.Context, p ledger.Page, more ...int) (rollout.Standing, error) {
	s := rollout.Standing{Branch: c.Release, Releases: map[int]bool{}, Tips: map[fleet.Step]int{}, Ledger: p.Ledger, Now: time.Now()}
	newest, err := c.at(ctx, p, p.Newest)
	if err != nil {
		return s, err
	}
	if newest == 0 {
		return s, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "%s of %s is at no release that one of ours signed", c.Release, git.Redact(c.Remote.URL)).
			WithHint("make one: garrison release; or name the keys that sign releases: --allowed-signers")
	}
	s.Newest = c.releases[newest]
	for _, step := range s.Newest.Steps() {
		n, err := c.at(ctx, p, p.Rings[fleet.RingBranch(c.Release, step.Ring, step.Batch)])
		if err != nil {
			return s, err
		}
		if n > 0 {
			s.Tips[step] = n
		}
	}
	more = append(slices.AppendSeq(more, maps.Values(s.Tips)), newest, rollout.LastGood(s.Newest, p.Ledger, c.Release))
	for _, n := range more {
		if n == 0 {
			continue
		}
		m, err := c.release(ctx, p, n)
		if err != nil {
			return s, err
		}
		s.Releases[n] = m != nil
	}
	return s, nil
}

// view is the roll-out as git tells it: what hosts report is not known.
func (c *clone) view(ctx context.Context) (fleet.Rollout, error) {
	p, err := c.Read(ctx)
	if err != nil {
		return fleet.Rollout{}, err
	}
	s, err := c.standing(ctx, p)
	if err != nil {
		return fleet.Rollout{}, err
	}
	return viewOf(s), nil
}

// viewOf is a fleet.Rollout of what git tells.
func viewOf(s rollout.Standing) fleet.Rollout {
	m := s.Newest
	v := fleet.Rollout{Schema: fleet.StatusSchema, At: s.Now.UTC(), Release: m.Number, Commit: m.Source.Commit, Subject: m.Source.Subject, State: fleet.RolloutDone,
		Rings: []fleet.RolloutRing{}, Paused: s.Ledger.Paused}
	if rollout.Frozen(s.Ledger, s.Now) {
		v.Freeze = s.Ledger.Freeze
	}
	for i, r := range m.Rings {
		ring := fleet.RolloutRing{Ring: r, State: fleet.RolloutDone, Offered: s.Tips[fleet.Step{Ring: r.Name, Batch: 1}], Release: s.Tips[fleet.Step{Ring: r.Name, Batch: r.Batches}]}
		for _, e := range m.Hosts {
			if e.Ring == r.Name {
				ring.Hosts++
			}
		}
		for b := range r.Batches {
			if s.Tips[fleet.Step{Ring: r.Name, Batch: b + 1}] == ring.Offered && ring.Offered > 0 {
				ring.Batch++
			}
		}
		switch kept := s.Kept(r.Name, m.Number); {
		case ring.Release == m.Number:
		case ring.Offered == m.Number:
			ring.State, ring.Reason = fleet.RolloutRolling, fmt.Sprintf("%d of %d batches have it", ring.Batch, r.Batches)
		case len(kept) > 0:
			ring.State, ring.Reason = fleet.RolloutWaiting, kept[0]
		case i > 0:
			ring.State, ring.Reason = fleet.RolloutWaiting, "for what the hosts before it report, which a hub knows"
		default:
			ring.State, ring.Reason = fleet.RolloutWaiting, "for a hub that gives it"
		}
		if ring.State != fleet.RolloutDone {
			ring.Candidate = m.Number
			ring.Approve = r.Manual && !rollout.Approved(s.Ledger, r.Name, m.Number)
			if v.State == fleet.RolloutDone {
				v.State, v.Reason = ring.State, "ring "+r.Name+": "+ring.Reason
			}
		}
		v.Rings = append(v.Rings, ring)
	}
	if v.Paused != nil && v.State != fleet.RolloutDone {
		v.State = fleet.RolloutStopped
	}
	return v
}

func (a *app) rolloutStatus() *cobra.Command {
	var f rolloutFlags
	var asked from
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say which ring has which release, and what the next one waits for",
		Long: `Status says ring by ring which release it has. With a hub it also says how the hosts are, and what is waited for; without one it says
what git tells: what the rings were given, and what people ordered.`,
		Args: exactly(),
	}
	format := output(cmd)
	f.add(cmd)
	asked.hubFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := asked.resolve(cmd, true); err != nil {
			return err
		}
		v, err := f.status(cmd.Context(), asked)
		if err != nil {
			return err
		}
		if *format == "json" {
			return a.json(v)
		}
		a.console().rollout(v, time.Now(), false)
		return nil
	}
	return cmd
}

// status asks the hub or, where none is named, git.
func (f rolloutFlags) status(ctx context.Context, asked from) (v fleet.Rollout, err error) {
	if asked.hub != "" {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		there, err := asked.get(ctx, "/api/v1/rollout", &v)
		if err == nil && !there {
			err = fleet.Errorf(fleet.Local, fleet.CodeNotFound, "the hub %s follows no repository, or does not know rings", asked.hub).WithHint("without --hub, git tells which ring has what")
		}
		return v, err
	}
	c, err := f.open(ctx)
	if err != nil {
		return v, err
	}
	return c.view(ctx)
}
