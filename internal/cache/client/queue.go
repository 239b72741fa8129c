package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Queue is a folder with a link to each store path that waits to be pushed. Below /nix/var/nix/gcroots that also keeps it from
// garbage collection. Any number of processes may use it at the same time.
type Queue string

// Add puts paths into the queue, durably. One that waits already keeps its place.
func (q Queue) Add(storePaths ...string) error {
	if err := os.MkdirAll(string(q), 0o755); err != nil {
		return err
	}
	for _, p := range storePaths {
		if err := os.Symlink(p, q.link(p)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	dir, err := os.Open(string(q))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (q Queue) link(storePath string) string {
	return filepath.Join(string(q), filepath.Base(storePath))
}

// Waiting lists the paths that wait, the oldest first. A queue that there is none of is empty.
func (q Queue) Waiting() ([]string, error) {
	entries, err := os.ReadDir(string(q))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	type waiting struct {
		path string
		at   time.Time
	}
	var all []waiting
	for _, e := range entries {
		info, err := e.Info()
		to, linkErr := os.Readlink(filepath.Join(string(q), e.Name()))
		if err == nil && linkErr == nil && fleet.ValidStorePath(to) { // else it is no link of ours, or was taken out just now
			all = append(all, waiting{to, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b waiting) int { return a.at.Compare(b.at) })
	paths := make([]string, len(all))
	for i, w := range all {
		paths[i] = w.path
	}
	return paths, nil
}

// Remove takes a path out of the queue, if it is there.
func (q Queue) Remove(storePath string) error {
	err := os.Remove(q.link(storePath))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
