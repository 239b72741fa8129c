package nix

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// tempPrefix begins the names of our temporary folders. Each has a lock, which is held as long as somebody uses it.
const tempPrefix = "garrison-nix-"

// tempFolder makes a temporary folder for one nix, which leaves things there: checkouts of submodules, and everything when it is killed.
// done removes it with all that is in it. nix inherits the lock: when only we are killed, it goes on, and of a checkout from which a part is missing it
// would remember for good that this is what the flake is.
func tempFolder() (dir string, held *os.File, done func(), err error) {
	for range 3 { // sweep may take a folder that is not locked yet for one that was left
		var own string
		if own, err = os.MkdirTemp("", tempPrefix); err != nil {
			break
		}
		var lock *durable.FileLock
		if lock, err = durable.TryLock(filepath.Join(own, "lock")); err != nil {
			continue
		}
		dir = filepath.Join(own, "tmp")
		if err = os.Mkdir(dir, 0o700); err == nil {
			return dir, lock.File(), func() { _ = errors.Join(os.RemoveAll(own), lock.Unlock()) }, nil // what could not be removed, sweep removes later
		}
		_ = lock.Unlock()
	}
	return "", nil, nil, fleet.Errorf(fleet.Local, fleet.CodeState, "cannot make a temporary folder in %s", os.TempDir()).WithCause(err).
		WithHint("make room there, or name another folder by TMPDIR")
}

// sweep removes temporary folders of processes that were killed. Those of other users are not ours to look into.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), tempPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			continue
		}
		path := filepath.Join(dir, "lock")
		if held, err := durable.Held(path); held || err != nil { // which TryLock would wait for a little
			continue
		}
		if lock, err := durable.TryLock(path); err == nil {
			_ = errors.Join(os.RemoveAll(dir), lock.Unlock()) // or the next time
		}
	}
}
