package nix

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// lockSuffix is what Nix calls the lock of a path that it adds to the store. It is removed once the path is valid, or cannot be made.
const lockSuffix = ".lock"

// Watch calls found with each path that Nix may have added to the store, from the call of ready on until ctx ends. It may have failed
// to add it (ask Valid), and a path may be found twice; it only fails when the store's folder cannot be watched.
func (n *Nix) Watch(ctx context.Context, ready func(), found func(storePath string)) error {
	dir := n.RealStoreDir()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err == nil {
		if _, err = unix.InotifyAddWatch(fd, dir, unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		return fleet.Errorf(fleet.Local, fleet.CodeState, "%s cannot be watched", dir).WithCause(err).
			WithHint("it must be a folder that may be read; fs.inotify.max_user_instances bounds how many may be watched")
	}
	events := os.NewFile(uintptr(fd), "inotify")
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	ready()
	buf := make([]byte, 64<<10)
	for seen := time.Now(); ; {
		k, err := events.Read(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
		now := time.Now()
		if lost := unlocked(buf[:k], found); lost {
			if err := changedSince(dir, seen, found); err != nil {
				return err
			}
		}
		seen = now
	}
}

// unlocked calls found with the paths whose locks these events of inotify say were removed; lost says that there were more events than it tells of.
func unlocked(events []byte, found func(string)) (lost bool) {
	const head = int(unsafe.Sizeof(unix.InotifyEvent{}))
	for len(events) >= head {
		lost = lost || binary.NativeEndian.Uint32(events[4:])&unix.IN_Q_OVERFLOW != 0
		end := min(head+int(binary.NativeEndian.Uint32(events[12:])), len(events))
		name, _, _ := bytes.Cut(events[head:end], []byte{0})
		if base, ok := strings.CutSuffix(string(name), lockSuffix); ok {
			tell(base, found)
		}
		events = events[end:]
	}
	return lost
}

func tell(base string, found func(string)) {
	if path := storeDir + "/" + base; fleet.ValidStorePath(path) {
		found(path)
	}
}

// changedSince calls found with what changed in the store's folder since then, by the time that nobody can set.
func changedSince(dir string, since time.Time, found func(string)) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for what was missed: %w", err)
	}
	for _, e := range entries {
		fi, err := os.Lstat(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // it is gone
		}
		if s, ok := fi.Sys().(*syscall.Stat_t); ok && !time.Unix(s.Ctim.Unix()).Before(since.Add(-time.Second)) {
			tell(e.Name(), found)
		}
	}
	return nil
}

// StorePath is the path of the store that a command's argument means: one of it, what is inside of one, or a link to one.
func StorePath(arg string) (string, error) {
	path := arg
	for range 32 {
		if rest, ok := strings.CutPrefix(path, storeDir+"/"); ok {
			base, _, _ := strings.Cut(rest, "/")
			if _, _, _, err := nar.SplitStorePath(storeDir + "/" + base); err != nil {
				return "", fleet.Errorf("", fleet.CodeUsage, "%s is no store path", arg)
			}
			return storeDir + "/" + base, nil
		}
		to, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(path), to)
		}
		path = filepath.Clean(to)
	}
	return "", fleet.Errorf("", fleet.CodeUsage, "%s is neither a store path nor a link to one", arg)
}
