package release_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// deadly is an editor's key whose owner dies when it is used for the n-th time.
type deadly struct {
	age.Identity
	left *int
}

func (d deadly) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	if *d.left--; *d.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	return d.Identity.Unwrap(stanzas)
}

// dieWriting is a folder with a git that stores so many of the blobs it is given at once, and kills who gave them.
func dieWriting(t *testing.T, blobs int) string {
	t.Helper()
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *\" --stdin-paths \"*) head -n %d | %s \"$@\" > /dev/null; kill -KILL $PPID; exit 1 ;; esac\nexec %s \"$@\"\n", blobs, real, real)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestKilledInRekeying kills a release with SIGKILL at each secret that is decrypted, and after each blob that is written.
// Nothing is published, and the next run in the same repository makes a whole release.
func TestKilledInRekeying(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	kill := func(what string, use int, path string) {
		t.Helper()
		for name := range secrets {
			w.writeSecret(name, "plain "+name+" "+what)
		}
		w.push(what)
		before := w.refs()
		v, err := json.Marshal(victim{w.repo.Dir, w.origin, w.key, w.editor.String(), w.cache.CacheURL(), 0, use})
		w.must(err)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
		cmd.Env = append(os.Environ(), victimVar+"="+string(v), "PATH="+path+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s: it was not killed: %v\n%s", what, err, out)
		}
		if w.refs() != before {
			t.Fatalf("%s: something was published", what)
		}
		if done := w.release(); len(done.Rekeyed) != len(secrets) {
			t.Errorf("%s: afterwards %v were re-keyed", what, done.Rekeyed)
		}
		if left, err := filepath.Glob(filepath.Join(w.repo.Dir, "garrison-*-*")); err != nil || left != nil {
			t.Errorf("%s: left behind: %v, %v", what, left, err)
		}
	}
	for n := 1; n <= len(secrets); n++ {
		kill(fmt.Sprintf("secret %d is decrypted", n), n, "")
	}
	for n := range len(secrets) + 1 {
		kill(fmt.Sprintf("%d blobs are written", n), 0, dieWriting(t, n))
	}
}

// fullDiskVar makes TestFullDisk do its work, in a mount namespace of its own.
const fullDiskVar = "GARRISON_TEST_FULL_DISK"

// TestFullDisk has the object database on a disk with room for n pages, for every n: a release fails as long as that is too
// little, says so, and publishes nothing. With more room one in the same repository comes to its end.
func TestFullDisk(t *testing.T) {
	if os.Getenv(fullDiskVar) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--mount", os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullDiskVar+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "pages were too little") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	w := newWorld(t, nixtest.System(t))
	disk := filepath.Join(w.dir, "disk")
	w.must(os.Mkdir(disk, 0o755))
	w.must(syscall.Mount("garrison-test", disk, "tmpfs", 0, "size=4m"))
	defer func() { w.must(syscall.Unmount(disk, syscall.MNT_DETACH)) }()
	before := w.refs()
	rekeying := 0 // how often it came that far
	for pages := 0; ; pages++ {
		w.repo = w.newRepo("disk/ci.git")
		filler := filepath.Join(disk, "filler")
		var fs syscall.Statfs_t
		w.must(syscall.Statfs(disk, &fs))
		w.must(os.WriteFile(filler, make([]byte, (int64(fs.Bfree)-int64(pages))*fs.Bsize), 0o600))
		used := false
		out, err := release.Run(t.Context(), w.with(func(o *release.Options) {
			o.Identities = func() ([]age.Identity, error) { used = true; return []age.Identity{w.editor}, nil }
		}))
		if err == nil {
			w.wantWhole(out)
			if rekeying <= len(secrets) {
				t.Errorf("it failed %d times in or after re-keying", rekeying)
			}
			t.Logf("%d pages were too little", pages-1)
			return
		}
		if used {
			rekeying++
		}
		if class := fleet.ClassOf(err); class != fleet.Local && class != fleet.Transient {
			t.Errorf("%d pages: class %s: %v", pages, class, err)
		}
		if pages == 0 && (fleet.ClassOf(err) != fleet.Local || !strings.Contains(err.Error(), "no space left on this machine")) {
			t.Errorf("without any room: %v", err)
		}
		if w.refs() != before {
			t.Fatalf("%d pages: something was published", pages)
		}
		w.must(os.Remove(filler))
		if again, err := release.Run(t.Context(), w.with(func(o *release.Options) { o.DryRun = true })); err != nil || len(again.Rekeyed) != len(secrets) {
			t.Errorf("%d pages, then enough: %v, %v", pages, again.Rekeyed, err)
		}
		w.must(os.RemoveAll(w.repo.Dir))
	}
}
