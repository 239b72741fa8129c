package git

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/proc"
)

// Ages from which what git keeps while it works belongs to nobody any more: git was killed, or the power was cut.
const (
	staleLock = time.Minute      // they are held for moments only
	staleTemp = 10 * time.Minute // a fetch that writes nothing for so long was given up before
)

// Sweep removes locks and temporary files that nobody works with any more, and says whether other locks are left.
func (r *Repo) Sweep() (swept int, locked string) {
	_ = filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be read is not for us to remove
		}
		name := d.Name()
		lock := strings.HasSuffix(name, ".lock")
		if !lock && !strings.HasPrefix(name, "tmp_") {
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		age := time.Since(info.ModTime())
		switch {
		case lock && age < staleLock && age > -staleLock: // a clock that was set back must not make it last
			locked = path
		case (lock || age > staleTemp) && os.Remove(path) == nil:
			swept++
		}
		return nil
	})
	return swept, locked
}

// Damage says what is missing from the repository or not what its name says; "" when it is whole.
func (r *Repo) Damage(ctx context.Context) (string, error) {
	if _, err := os.Stat(filepath.Join(r.Dir, "HEAD")); err != nil {
		return err.Error(), nil
	}
	_, err := r.run(ctx, call{args: []string{"fsck", "--full", "--no-dangling", "--no-reflogs", "--no-progress"}})
	if _, ran := proc.ExitCode(err); ran && ctx.Err() == nil {
		return err.Error(), nil
	}
	return "", err
}

// Replace puts the repository at aside in the place of r, which is deleted. Killed in between, Restore ends it.
func (r *Repo) Replace(aside *Repo) error {
	old := r.Dir + ".old"
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(r.Dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(aside.Dir, r.Dir); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// Restore ends what a Replace of the repository at dir, that was cut off, left: before anybody opens it.
func Restore(dir string) error {
	old := dir + ".old"
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := os.Rename(old, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(old)
}

// Maintain packs what became many files, and drops what nothing leads to for a day; it has all the time in the world,
// may be stopped at any instruction, and does nothing most of the time.
func (r *Repo) Maintain(ctx context.Context) error {
	_, err := r.run(ctx, call{idle: true, args: []string{"-c", "gc.auto=2000", "-c", "gc.autoPackLimit=20", "-c", "gc.autoDetach=false", "-c", "gc.pruneExpire=1.day.ago",
		"-c", "pack.threads=1", "-c", "pack.windowMemory=32m", "-c", "core.bigFileThreshold=16m", "gc", "--auto", "--quiet"}})
	return err
}
