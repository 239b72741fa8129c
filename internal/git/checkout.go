package git

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// modulesDir is where, below the git directory, what Checkout needs is kept from one run to the next.
const modulesDir = "garrison-modules"

// Checkout is a repository made for Nix to read one commit from: it shares the objects of the one that it was made from,
// beside it lie all submodules of that commit, fetched, and what git-lfs keeps of it is served on loopback.
type Checkout struct {
	Dir string   // work with this in place of the repository
	Env []string // for Nix, whose git then finds what was fetched
	// LFS is one of the files that git-lfs keeps, LFSHash its content's SHA-256 in hex; "" for none.
	LFS, LFSHash string

	stop func()
}

// Close ends what serves the checkout.
func (c *Checkout) Close() {
	if c.stop != nil {
		c.stop()
	}
}

// Checkout makes one of commit, to which ref will lead, with its submodules if they are wanted, and the contents of those files that
// pointers (see Pointers) names. Submodules are fetched from where .gitmodules says, with URLs that are relative being so to m's, and
// with what lets in to m, as far as they are on the same server. What git forbids submodules (file URLs, unless m is one itself or
// protocol.file.allow permits it) stays forbidden. Only one may be open of a repository. Errors: those of FetchFrom; CodeGit, class release, when
// .gitmodules cannot be followed; CodeMissingTool without git-lfs, where it is needed.
func (r *Repo) Checkout(ctx context.Context, m Remote, ref, commit string, submodules bool, pointers map[string]string) (*Checkout, error) {
	if !submodules && len(pointers) == 0 {
		return &Checkout{Dir: r.Dir}, nil
	}
	var err error
	if m.URL, err = r.address(ctx, m.URL, false); err != nil {
		return nil, err
	}
	c := &Checkout{}
	// Some versions of Nix ask the checkout's own remote for what git-lfs keeps.
	origin := "https://fleet.invalid"
	if len(pointers) > 0 {
		if err := r.fetchContents(ctx, m, commit, slices.Collect(maps.Values(pointers))); err != nil {
			return nil, err
		}
		c.LFS = slices.Min(slices.Collect(maps.Keys(pointers)))
		c.LFSHash = pointers[c.LFS]
		if origin, c.stop, err = serveContents(r); err != nil {
			return nil, err
		}
		c.Env = noProxy()
	}
	if err := r.checkOut(ctx, c, m, ref, commit, origin, submodules); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// deep is where, below a folder or URL of its own, a checkout is for those who resolve relative URLs against it: however many ../ they have.
const deep = "1/2/3/4/5/6/7/8/fleet"

// checkOut makes c's repository, and fetches the submodules.
func (r *Repo) checkOut(ctx context.Context, c *Checkout, m Remote, ref, commit, origin string, submodules bool) error {
	below := filepath.Join(r.Dir, modulesDir, "fleet")
	// Links of an earlier commit are not this one's.
	if err := os.RemoveAll(below); err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", below).WithCause(err)
	}
	top, err := initAt(ctx, filepath.Join(below, deep), false)
	if err != nil {
		return err
	}
	files := map[string]string{"objects/info/alternates": filepath.Join(r.Dir, "objects") + "\n"}
	if shallow, err := os.ReadFile(filepath.Join(r.Dir, "shallow")); err == nil {
		files["shallow"] = string(shallow)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(top.Dir, name), []byte(text), 0o644); err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", top.Dir).WithCause(err)
		}
	}
	origin += "/" + deep
	if err := top.setConfig(ctx, "remote.origin.url", origin); err != nil {
		return err
	}
	if err := top.UpdateRef(ctx, ref, commit); err != nil {
		return err
	}
	c.Dir = filepath.Dir(top.Dir)
	if !submodules {
		return nil
	}
	g := gathering{root: r, from: m, local: isLocal(m.URL), below: below + "/", found: map[string]string{}}
	if err := g.gather(ctx, top, commit, "", m.URL, []string{origin, c.Dir}, 0); err != nil {
		return err
	}
	c.Env = append(c.Env, g.env()...)
	return nil
}
