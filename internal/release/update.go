package release

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
)

// lockFile is where a flake holds which inputs it has.
const lockFile = "flake.lock"

// updateRef keeps the commit that Update made.
const updateRef = "refs/garrison/update"

// InputUpdate is a commit with newer inputs of the flake.
type InputUpdate struct {
	Commit string   `json:"commit,omitempty"` // "" when nothing is newer
	Base   string   `json:"base"`             // the source branch's tip
	Source string   `json:"-"`                // the source branch
	Tip    string   `json:"-"`                // where the branch is on the remote; "" when it is not there
	Title  string   `json:"title,omitempty"`
	Inputs []string `json:"inputs"` // which of them changed
}

// UpdateInputs makes a commit on the source branch's tip in which the flakes' inputs are the newest. It pushes nothing. The commit depends on nothing but
// tip and inputs. Errors besides those of fetching and of nix: CodeForcePushed when somebody else committed to branch.
func UpdateInputs(ctx context.Context, o Options, branch string) (InputUpdate, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return InputUpdate{}, err
	}
	defer unlock()
	s := &state{Options: o.withLog()}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return InputUpdate{}, err
	}
	if err := s.findSource(ctx); err != nil {
		return InputUpdate{}, err
	}
	if s.blobs, err = s.Repo.Blobs(ctx, s.source); err != nil {
		return InputUpdate{}, err
	}
	u := InputUpdate{Base: s.source, Source: s.config.Branches.Source, Inputs: []string{}}
	if u.Tip, err = s.foreign(ctx, branch); err != nil {
		return u, err
	}
	files, err := s.lockNewest(ctx, &u)
	if err != nil || len(files) == 0 {
		return u, err
	}
	u.Title = "flake.lock: " + strings.Join(u.Inputs, ", ")
	if len(u.Inputs) == 0 || len(u.Title) > 72 {
		u.Title = fmt.Sprintf("flake.lock: %s", plural(len(u.Inputs), "newer input"))
	}
	tree, err := s.Repo.TreeWith(ctx, s.source, files)
	if err != nil {
		return u, err
	}
	message := u.Title + "\n"
	if u.Commit, err = s.Repo.WriteCommit(ctx, git.Commit{Tree: tree, Parents: []string{s.source}, Message: message, When: s.info.When, Key: s.SigningKey}); err != nil {
		return u, err
	}
	return u, s.Repo.UpdateRef(ctx, updateRef, u.Commit)
}

// foreign finds the branch of updates, and makes sure that nobody else's work is on it.
func (s *state) foreign(ctx context.Context, branch string) (tip string, err error) {
	tip, there, err := s.Repo.Resolve(ctx, headsRef+branch+"^{commit}")
	if err != nil || !there {
		return "", err
	}
	merged, err := s.Repo.IsAncestor(ctx, tip, s.source)
	if err != nil || merged {
		return tip, err
	}
	info, err := s.Repo.CommitInfo(ctx, tip)
	if err == nil && info.By != git.Address {
		err = fleet.Errorf(fleet.Local, fleet.CodeForcePushed, "%s has a commit of somebody else (%s), which is not put aside", branch, info.By).
			WithHint("merge the branch, or delete it; it is made anew then")
	}
	return tip, err
}

// lockNewest updates the lock files in a copy of the source and returns those that changed, as blobs.
func (s *state) lockNewest(ctx context.Context, u *InputUpdate) (map[string]string, error) {
	flakes, err := flakesIn(s.blobs, s.config.Flakes, nix.Flake{Commit: s.source})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "garrison-update-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := s.Repo.Export(ctx, s.source, dir); err != nil {
		return nil, err
	}
	files, changed := map[string]string{}, map[string]bool{}
	for _, f := range flakes {
		lock := path.Join(f.Dir, lockFile)
		before := []byte{}
		if id, there := s.blobs[lock]; there {
			if before, err = s.Repo.ReadBlob(ctx, id); err != nil {
				return nil, err
			}
		}
		if err := s.Nix.UpdateLock(ctx, filepath.Join(dir, f.Dir)); err != nil {
			return nil, err
		}
		after, err := readLock(filepath.Join(dir, lock))
		if err != nil {
			return nil, err
		}
		names := newerInputs(before, after)
		if len(names) == 0 {
			continue // also where there are no inputs at all
		}
		if files[lock], err = s.Repo.WriteBlob(ctx, after); err != nil {
			return nil, err
		}
		for _, n := range names {
			changed[n] = true
		}
	}
	u.Inputs = slices.AppendSeq(u.Inputs, maps.Keys(changed))
	slices.Sort(u.Inputs)
	return files, nil
}

// maxLock bounds a lock file, in bytes.
const maxLock = 16 << 20

func readLock(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil, nil // a flake without inputs
	}
	if err == nil && len(data) > maxLock {
		err = fmt.Errorf("%s has more than %d bytes", filepath.Base(file), maxLock)
	}
	return data, err
}

// newerInputs are the names of the nodes of a lock file that are locked otherwise than before.
func newerInputs(before, after []byte) []string {
	read := func(data []byte) map[string]string {
		var lock struct {
			Nodes map[string]struct {
				Locked map[string]any `json:"locked"`
			} `json:"nodes"`
		}
		_ = json.Unmarshal(data, &lock) // one that is none has no inputs
		nodes := map[string]string{}
		for name, n := range lock.Nodes {
			if n.Locked == nil {
				continue // the flake itself
			}
			delete(n.Locked, "lastModified") // of a folder beside the flake: when our copy was made
			locked, _ := json.Marshal(n.Locked)
			nodes[name] = string(locked)
		}
		return nodes
	}
	was, is := read(before), read(after)
	var names []string
	for name, locked := range is {
		if was[name] != locked {
			names = append(names, name)
		}
	}
	for name := range was {
		if _, stays := is[name]; !stays {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
