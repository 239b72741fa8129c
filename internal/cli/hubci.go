package cli

import (
	"context"
	"io"
	"net/url"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/release"
)

// releaser is a hub.Releaser by package release.
type releaser struct {
	nix     nix.Nix
	config  HubFile
	options release.Options

	mu      sync.Mutex
	mirrors time.Time // when they are to be asked again what they lack; zero: never, which is so once all have everything
	asked   bool      // since this process began, and since rings were moved
	some    bool      // there are mirrors
}

// mirrorsAgain is when mirrors that lag behind are tried again: one that hangs holds up what CI does besides for a minute.
const mirrorsAgain = 10 * time.Minute

// credentialsOf are what lets the hub in to its CI's repository; the files are read each time.
func credentialsOf(c HubFile) (all credentials, err error) {
	if file := c.CI.CredentialsFile; file != "" {
		if all, err = readCredentials(file, "the CI's credentials"); err != nil {
			return nil, err
		}
	}
	if c.Forge.TokenFile != "" {
		token, err := tokenFrom(c.Forge.TokenFile)()
		if err != nil {
			return nil, err
		}
		if u, err := url.Parse(c.Forge.URL); err == nil {
			u.User = url.UserPassword(forgeUser(c.Forge.Kind, false), token)
			all = append(all, u)
		}
	}
	return all, nil
}

// ready are the options with what lets us in now.
func (r *releaser) ready() (release.Options, error) {
	o := r.options
	all, err := credentialsOf(r.config)
	if err != nil {
		return o, err
	}
	o.Remote, o.Mirror = all.letIn(o.Remote), all.letIn
	return o, nil
}

func (r *releaser) Look(ctx context.Context) (hub.Branches, error) {
	o, err := r.ready()
	if err != nil {
		return hub.Branches{}, err
	}
	found, err := release.Look(ctx, o.Repo, o.Remote)
	b := hub.Branches(found)
	r.mu.Lock()
	defer r.mu.Unlock()
	b.Left = b.Left || !r.asked || !r.mirrors.IsZero() && time.Now().After(r.mirrors)
	return b, err
}

// note remembers what became of the mirrors.
func (r *releaser) note(all []release.Mirrored) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked, r.some, r.mirrors = true, len(all) > 0, time.Time{}
	if len(release.MirrorsBehind(all)) > 0 {
		r.mirrors = time.Now().Add(mirrorsAgain)
	}
}

// ringsMoved says whether there are mirrors, which lack now what was moved.
func (r *releaser) ringsMoved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = r.asked && !r.some
	return r.some
}

func (r *releaser) Tidy(ctx context.Context) error {
	o, err := r.ready()
	if err != nil {
		return err
	}
	_, mirrors, err := release.Tidy(ctx, o) // what is wrong with a mirror it says itself
	if err == nil || fleet.CodeOf(err) == fleet.CodeNotFound {
		r.note(mirrors)
		return nil // there may be no source yet
	}
	return err
}

func (r *releaser) Tip(ctx context.Context, branch string) (string, error) {
	o, err := r.ready()
	if err != nil {
		return "", err
	}
	tips, err := git.ListBranches(ctx, git.Remote{URL: o.Remote}, branch)
	return tips[branch], err
}

func (r *releaser) Release(ctx context.Context, job hub.Job, out io.Writer) (fleet.RunState, *fleet.ReleaseRef, error) {
	o, err := r.ready()
	if err != nil {
		return "", nil, err
	}
	n := r.nix
	n.Log = out
	o.Nix, o.PushedAt = &n, job.Source.PushedAt
	switch o.Test = job.Test; {
	case job.RollbackTo > 0: // whatever is pushed meanwhile
		o.RollbackTo, o.OnlyNewest = job.RollbackTo, false
	case o.Test == "":
		o.Source = job.Source.Commit
	}
	result, err := release.Run(ctx, o)
	if err == nil {
		r.note(result.Mirrors)
	}
	return result.State, result.Release, err
}
