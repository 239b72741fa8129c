package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A systemd needs a cgroup of its own, or hosts would share the machine's. Cgroups are
// the one thing here that the kernel does not remove with its last process: when an
// owner was killed, empty ones stay until the next host with systemd starts.

const cgroupPrefix = "garrison-sandbox-"

// cgroupRoots are the hierarchies that systemd uses: one in v2, two in the mixed mode.
func cgroupRoots() (roots []string) {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if exists(filepath.Join(dir, "cgroup.procs")) {
			roots = append(roots, dir)
		}
	}
	return roots
}

// enterCgroup puts a process, and what it will start, into a cgroup of this name.
func enterCgroup(name string, pid int) error {
	for _, root := range cgroupRoots() {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return err
		}
	}
	return nil
}

// cgroupName is the name of a host's cgroup; it tells whose it is.
func cgroupName(init int) string { return fmt.Sprintf("%s%d-%d", cgroupPrefix, os.Getpid(), init) }

// removeCgroup removes a cgroup without processes, with those below it.
func removeCgroup(name string) error {
	var first error
	for _, root := range cgroupRoots() {
		first = firstError(first, removeCgroupDir(filepath.Join(root, name)))
	}
	return first
}

func removeCgroupDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() { // the files go with the folder
			if err := removeCgroupDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeStaleCgroups removes those of owners that are no more. What cannot be removed
// is somebody's business still.
func removeStaleCgroups() {
	for _, root := range cgroupRoots() {
		dirs, _ := filepath.Glob(filepath.Join(root, cgroupPrefix+"*"))
		for _, dir := range dirs {
			owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
			if !exists("/proc/" + owner) {
				_ = removeCgroupDir(dir)
			}
		}
	}
}
