package agent_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// fromElsewhere commits a fleet whose host is made with what make puts into a clone, and publishes it for the host to build. Its system
// is the one that the same text gives when it stands in the repository itself.
func (b *box) fromElsewhere(build string, change func(*fleet.Entry), make func(git func(args ...string) string, dir string)) (out string) {
	b.t.Helper()
	_, out = b.variation("good1", build)
	dir := filepath.Join(b.t.TempDir(), "clone")
	git := func(args ...string) string {
		b.t.Helper()
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@example.org"}, args...)...)
		said, err := cmd.CombinedOutput()
		if err != nil {
			b.t.Fatalf("git %v: %v: %s", args, err, said)
		}
		return strings.TrimSpace(string(said))
	}
	if err := command("", "git", "clone", "--quiet", "--branch", "release", b.origin.Dir, dir); err != nil {
		b.t.Fatal(err)
	}
	make(git, dir)
	git("add", "--all")
	git("commit", "--quiet", "-m", build)
	git("push", "--quiet", "--no-verify", "origin", "HEAD:refs/heads/elsewhere")
	b.number++
	b.signEntry(b.number, git("rev-parse", "HEAD"), "good1", func(e *fleet.Entry) {
		e.OutPath, e.Built = out, false
		change(e)
	})
	return out
}

func (b *box) builds(out string) {
	b.t.Helper()
	n := b.number
	s := b.awaitFor(80*time.Second, "built", func(s fleet.Status) bool {
		return s.Newest.Number == n && (s.Phase == fleet.PhaseIdle || s.Failure != nil)
	})
	if s.Phase != fleet.PhaseIdle || s.Systems.Current != out {
		b.t.Fatalf("%s, runs %s, %+v", s.Phase, s.Systems.Current, s.Failure)
	}
}

// TestBuildsWithSubmodules has a host build for itself what is made of files in a submodule.
func TestBuildsWithSubmodules(t *testing.T) {
	t.Parallel()
	module := filepath.Join(t.TempDir(), "good1.git")
	b := newBox(t, boxOptions{host: "good1", binds: []sandbox.Bind{{Source: filepath.Dir(module), Target: "/srv/modules"}}})
	b.ended(b.left("good1", func(*fleet.Entry) {}))
	work := filepath.Join(t.TempDir(), "module")
	out := b.fromElsewhere(": in a submodule", func(e *fleet.Entry) { e.Submodules = true }, func(git func(...string) string, dir string) {
		err := errors.Join(command("", "git", "init", "--quiet", "--bare", module), command("", "cp", "-r", filepath.Join(dir, "hosts/good1"), work),
			os.WriteFile(filepath.Join(work, "build.sh"), []byte(": in a submodule\n"), 0o644), command(work, "git", "init", "--quiet", "--initial-branch=main"),
			command(work, "git", "add", "--all"), command(work, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "x"),
			command(work, "git", "push", "--quiet", module, "main"))
		if err != nil {
			t.Fatal(err)
		}
		commit, err := gitOutput(module, "rev-parse", "main")
		if err != nil {
			t.Fatal(err)
		}
		git("rm", "-r", "--quiet", "hosts/good1")
		git("config", "-f", filepath.Join(dir, ".gitmodules"), "submodule.good1.path", "hosts/good1")
		git("config", "-f", filepath.Join(dir, ".gitmodules"), "submodule.good1.url", "../modules/good1.git") // of /srv/fleet.git
		git("update-index", "--add", "--cacheinfo", "160000,"+strings.TrimSpace(commit)+",hosts/good1")
		if err := os.MkdirAll(filepath.Join(dir, "hosts/good1"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
	b.builds(out)
}

// TestBuildsWithLFS has a host build for itself what is made of a file that git-lfs keeps; one with a Nix that cannot says so.
func TestBuildsWithLFS(t *testing.T) {
	t.Parallel()
	newest, err := exec.Command("../../scripts/fetch-nix", "sid").Output()
	if err != nil {
		t.Fatal(err)
	}
	publish := func(b *box) string {
		return b.fromElsewhere(": kept by git-lfs", func(e *fleet.Entry) { e.LFS = true }, func(git func(...string) string, dir string) {
			const content = ": kept by git-lfs\n"
			id := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
			kept := filepath.Join(b.origin.Dir, "lfs/objects", id[:2], id[2:4], id)
			pointer := fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", id, len(content))
			if err := errors.Join(os.MkdirAll(filepath.Dir(kept), 0o755), os.WriteFile(kept, []byte(content), 0o644),
				os.WriteFile(filepath.Join(dir, ".gitattributes"), []byte("hosts/good1/build.sh filter=lfs\n"), 0o644),
				os.WriteFile(filepath.Join(dir, "hosts/good1/build.sh"), []byte(pointer), 0o644)); err != nil {
				t.Fatal(err)
			}
		})
	}
	b := newBox(t, boxOptions{host: "good1", nix: filepath.Join(strings.TrimSpace(string(newest)), "bin")})
	b.ended(b.left("good1", func(*fleet.Entry) {}))
	b.builds(publish(b))

	old := newBox(t, boxOptions{host: "good1"})
	old.ended(old.left("good1", func(*fleet.Entry) {}))
	publish(old)
	if s := old.await("it says that it cannot", func(s fleet.Status) bool { return s.Failure != nil }); s.Failure.Code != fleet.CodeNixTooOld || s.Phase != fleet.PhaseRetrying {
		t.Errorf("%s, %+v", s.Phase, s.Failure)
	}
	old.runs("good1")
}
