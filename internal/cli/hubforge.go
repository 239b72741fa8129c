package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
)

// watchers are what of a hub looks at git, and speaks with the forge.
type watchers struct {
	forge     forge.Forge // nil: none is told of anything
	ci        *hub.CI     // nil: releases are made elsewhere
	follower  *hub.Follower
	announcer *hub.Announcer // nil without a forge
	rings     *hub.Controller
	mirrors   func() bool // whether there are any, to be given what was moved; nil without CI
}

// newWatchers wires what c says, but for CI. It returns nil when there is no repository to look at.
func newWatchers(ctx context.Context, c HubFile, h *hub.Hub, caches *cache.Server, log *slog.Logger) (*watchers, error) {
	if c.Follow.Remote == "" {
		return nil, nil
	}
	repo, err := git.Init(ctx, filepath.Join(c.DataDir, "repo.git"))
	if err != nil {
		return nil, err
	}
	w := &watchers{}
	w.rings = hub.NewController(hub.ControllerOptions{Hub: h, Repo: repo, Branch: c.Follow.Branch, Signers: c.Follow.AllowedSigners, Silent: time.Duration(c.Follow.Silent), Moves: c.MovesRings(), Log: log,
		Remote: func() (git.Remote, error) { return ringsAt(c) },
		Moved: func(tips map[string]string) {
			w.follower.RingsMoved(tips)
			if w.ci != nil && w.mirrors() {
				w.ci.Wake(time.Now())
			}
		},
		Abort: func(o fleet.RolloutOrder, of fleet.Source) {
			if w.ci != nil {
				w.ci.Abort(o, of)
			}
		}})
	h.Rollout, h.Told, h.Noted = w.rings, w.rings.Reported, w.rings.Noted
	newest := func(m *fleet.Manifest) {
		h.SetNewest(m)
		w.rings.Changed()
	}
	if c.Forge.TokenFile != "" {
		if w.forge, err = forge.Open(forge.Config{Kind: c.Forge.Kind, URL: c.Forge.URL, API: c.Forge.API, Repo: c.Forge.Repo, Token: tokenFrom(c.Forge.TokenFile)}); err != nil {
			return nil, err
		}
		w.announcer = hub.NewAnnouncer(hub.AnnounceOptions{SetStatus: w.forge.SetStatus, Hosts: h.Hosts, Rings: w.rings.View,
			File: filepath.Join(c.DataDir, "rollout.json"), Silent: time.Duration(c.Follow.Silent), Log: log})
		h.Told = func(s fleet.Status) {
			w.rings.Reported(s)
			w.announcer.Reported()
		}
		known := newest
		newest = func(m *fleet.Manifest) {
			known(m)
			w.announcer.Newest(m)
		}
	}
	w.follower = hub.NewFollower(hub.FollowOptions{Remote: c.FollowFrom(), Repo: repo, Branch: c.Follow.Branch, Signers: c.Follow.AllowedSigners,
		Poll: time.Duration(c.Follow.Poll), Wake: h.WakeAgents, Newest: newest, Seen: w.rings.Seen, Hub: h, Log: log})
	h.Wake = func(at time.Time) {
		if w.ci != nil {
			w.ci.Wake(at)
		}
		w.follower.Hint(at)
	}
	if c.Forge.WebhookSecretFile != "" {
		secrets := &durable.Watched[[]string]{Path: c.Forge.WebhookSecretFile, Read: hub.ReadSecrets}
		if _, err := secrets.Get(); err != nil {
			return nil, err
		}
		h.Hooks = hub.NewWebhooks(hub.WebhookOptions{Repo: c.Forge.Repo, Secrets: secrets.Get, From: caches.Address, Hint: w.hint, Log: log})
	}
	return w, nil
}

// ringsAt is where rings' branches are moved: where CI publishes, else where releases are followed.
func ringsAt(c HubFile) (git.Remote, error) {
	if c.CI.Remote == "" || !c.MovesRings() {
		return c.FollowFrom(), nil
	}
	all, err := credentialsOf(c)
	return git.Remote{URL: all.letIn(c.CI.Remote)}, err
}

// hint has those look at git whom a ref that has moved concerns.
func (w *watchers) hint(ref string, at time.Time) bool {
	ofCI := w.ci != nil && w.ci.Concerns(ref)
	if ofCI {
		w.ci.Wake(at)
	}
	published := w.follower.Concerns(ref)
	if published {
		w.follower.Hint(at)
	}
	return ofCI || published
}

// run looks at git until ctx ends.
func (w *watchers) run(ctx context.Context) {
	if w == nil {
		return
	}
	var all sync.WaitGroup
	all.Go(func() { w.follower.Run(ctx) })
	all.Go(func() { w.rings.Run(ctx) })
	if w.ci != nil {
		all.Go(func() { w.ci.Run(ctx) })
	}
	if w.announcer != nil {
		all.Go(func() { w.announcer.Run(ctx) })
	}
	all.Wait()
}
