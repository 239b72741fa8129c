package drill

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// someRepo is a bare repository with one commit, and a clone of it; text is the marker's file there, "" none.
func someRepo(t *testing.T, text string) (git func(args ...string) string, clone string) {
	t.Helper()
	dir := t.TempDir()
	clone = filepath.Join(dir, "clone")
	git = func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-c", "user.name=x", "-c", "user.email=x@example.org"}, args...)...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--bare", "--initial-branch=main", "there")
	git("clone", "--quiet", "there", "clone")
	git("-C", clone, "config", "user.name", "Drill")
	git("-C", clone, "config", "user.email", "drill@example.org")
	if text != "" {
		git("-C", clone, "config", "alias.fill", "!f() { printf '%s' \"$1\" > "+markerFile+" && git add .; }; f")
		git("-C", clone, "fill", text)
	}
	git("-C", clone, "commit", "--quiet", "--allow-empty", "-m", "First")
	git("-C", clone, "push", "--quiet", "origin", "HEAD:main")
	return git, clone
}

func opened(t *testing.T, clone, id string) *repo {
	t.Helper()
	r, err := openRepo(t.Context(), clone, "origin", "main", id)
	ok(t, err)
	t.Cleanup(func() { ok(t, r.close()) })
	return r
}

// TestTwoRepos has two drills begin at the same time: the second one pushes nothing, and undoes nothing of the first one's.
func TestTwoRepos(t *testing.T) {
	git, clone := someRepo(t, "")
	a, b := opened(t, clone, "a"), opened(t, clone, "b")
	p, err := a.put(t.Context(), newMarker(), "A")
	ok(t, err)
	if _, err := b.put(t.Context(), newMarker(), "B"); !errors.As(err, &errMoved{}) {
		t.Fatalf("the second one pushes: %v", err)
	}
	if _, err := b.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := git("-C", "there", "rev-parse", "main"); now != p.commit {
		t.Errorf("main is %s", git("-C", "there", "log", "-3", "main"))
	}
	if _, err := a.put(t.Context(), newMarker(), "A again"); err != nil {
		t.Error(err)
	}
	if _, err := a.restore(t.Context()); err != nil {
		t.Error(err)
	}
	if files := git("-C", "there", "ls-tree", "main"); files != "" {
		t.Errorf("main has %s", files)
	}
}

// TestRevert puts back what killed drills left: with a file before and without, below somebody's commits and merges, from a shallow clone; and what
// somebody made of the file stays.
func TestRevert(t *testing.T) {
	const own = "{\"schema\": 1, \"text\": \"no drill\\n\", \"break\": {}}"
	for _, text := range []string{"", own} {
		git, clone := someRepo(t, text)
		before := git("-C", "there", "rev-parse", "main^{tree}")
		for _, id := range []string{"killed", "killed-too"} { // the second one before --revert knew of the first
			r := opened(t, clone, id)
			for range 2 {
				_, err := r.put(t.Context(), broken("joker", breakBuild), "Drill")
				ok(t, err)
			}
		}
		git("-C", clone, "fetch", "--quiet")
		git("-C", clone, "checkout", "--quiet", "-b", "topic", "origin/main~3")
		git("-C", clone, "commit", "--quiet", "--allow-empty", "-m", "A topic")
		git("-C", clone, "merge", "--quiet", "--no-edit", "origin/main") // the first parent is not main's
		git("-C", clone, "push", "--quiet", "origin", "HEAD:main")
		git("clone", "--quiet", "--depth=1", "file://"+filepath.Join(filepath.Dir(clone), "there"), "shallow")
		shallow := filepath.Join(filepath.Dir(clone), "shallow")
		git("-C", shallow, "config", "user.name", "Drill")
		git("-C", shallow, "config", "user.email", "drill@example.org")
		r := opened(t, shallow, "")
		commits, _, err := r.leftBehind(t.Context())
		if err != nil || len(commits) != 4 {
			t.Errorf("left behind are %v, %v", commits, err)
		}
		if _, n, err := r.revert(t.Context()); err != nil || n != 4 {
			t.Errorf("%d reverted, %v", n, err)
		}
		if now := git("-C", "there", "rev-parse", "main^{tree}"); now != before {
			t.Errorf("with %q: main has %s", text, git("-C", "there", "ls-tree", "main"))
		}
		if _, n, err := opened(t, shallow, "").revert(t.Context()); err != nil || n != 0 {
			t.Errorf("again %d reverted, %v", n, err)
		}
	}

	git, clone := someRepo(t, own)
	r := opened(t, clone, "x")
	_, err := r.put(t.Context(), newMarker(), "Drill")
	ok(t, err)
	git("-C", clone, "pull", "--quiet")
	git("-C", clone, "fill", "mine")
	git("-C", clone, "commit", "--quiet", "-m", "Mine")
	git("-C", clone, "push", "--quiet", "origin", "HEAD:main")
	if _, err := r.restore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if text := git("-C", "there", "show", "main:"+markerFile); text != "mine" {
		t.Errorf("main's file is %q", text)
	}
}
