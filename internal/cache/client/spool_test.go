package client_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// TestSpoolFails: where a large archive cannot be kept, the push says what, where, why and what to do, has sent nothing of it and leaves nothing.
func TestSpoolFails(t *testing.T) {
	const inside = "GARRISON_TEST_SMALL_DISK"
	if os.Getenv(inside) == "" { // mounts are of a process of its own
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestSpoolFails$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestSpoolFails") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	disk, dir := t.TempDir(), t.TempDir()
	check(t, unix.Mount("garrison-test", disk, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { check(t, unix.Unmount(disk, 0)) })
	paths := []nar.PathInfo{noise(t, dir, 34<<20)}
	for tmp, cause := range map[string]error{disk: unix.ENOSPC, filepath.Join(disk, "none"): unix.ENOENT} {
		t.Setenv("TMPDIR", tmp)
		r := &recorder{}
		s := largeServer(t, r.wrap)
		for _, url := range []string{s.CacheURL(), "file://" + t.TempDir()} {
			_, err := newClient(t, url, cachetest.PushToken).Push(t.Context(), paths, client.PushOptions{RealStoreDir: dir})
			var told *fleet.Error
			if !errors.As(err, &told) || told.Class != fleet.Local || told.Code != fleet.CodeState || !errors.Is(err, cause) ||
				!strings.Contains(err.Error(), "in "+tmp) || !strings.Contains(told.Hint, "TMPDIR") {
				t.Errorf("%s: %+v", url, err)
			}
		}
		if r.n != 0 {
			t.Errorf("%d uploads", r.n)
		}
	}
	if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
