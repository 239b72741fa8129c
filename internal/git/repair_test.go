package git_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

func TestSweep(t *testing.T) {
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "r.git"))
	must(t, err)
	long := time.Now().Add(-time.Hour)
	for name, old := range map[string]bool{"refs/a.lock": true, "objects/pack/tmp_pack_x": true, "objects/pack/tmp_pack_y": false, "packed-refs.lock": false} {
		file := write(t, filepath.Join(r.Dir, name), "")
		if old {
			must(t, os.Chtimes(file, long, long))
		}
	}
	swept, locked := r.Sweep()
	if swept != 2 || locked != filepath.Join(r.Dir, "packed-refs.lock") {
		t.Errorf("%d, %s", swept, locked)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, "objects/pack/tmp_pack_y")); err != nil {
		t.Error(err)
	}
}

// TestStaleLock: what a killed git locked is free after a minute, to whoever fetches or moves refs; not in a person's clone.
func TestStaleLock(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	origin, err := git.Init(ctx, filepath.Join(dir, "origin.git"))
	must(t, err)
	tree, err := origin.TreeOf(ctx, "a", []byte("one"))
	must(t, err)
	commit, err := origin.WriteCommit(ctx, git.Commit{Tree: tree, Message: "one", When: time.Now()})
	must(t, err)
	must(t, origin.UpdateRef(ctx, "refs/heads/main", commit))
	own, err := git.Init(ctx, filepath.Join(dir, "own.git"))
	must(t, err)
	gittest.Do(t, dir, "git", "clone", "--quiet", "--bare", origin.Dir, "theirs.git")
	theirs, err := git.Open(ctx, filepath.Join(dir, "theirs.git"))
	must(t, err)
	fetch := func(r *git.Repo) error {
		return r.FetchFrom(ctx, git.Remote{URL: origin.Dir}, "+refs/heads/*:refs/fetched/*")
	}
	for _, c := range []struct {
		name string
		r    *git.Repo
		age  time.Duration
		free bool
	}{{"ours, old", own, time.Hour, true}, {"ours, new", own, 0, false}, {"theirs, old", theirs, time.Hour, false}} {
		for what, try := range map[string]struct {
			lock string
			do   func() error
		}{
			"fetch":       {"refs/fetched/main.lock", func() error { return fetch(c.r) }},
			"update refs": {"refs/mine.lock", func() error { return c.r.UpdateRefs(ctx, map[string]string{"refs/mine": commit}) }},
		} {
			if what == "update refs" {
				must(t, fetch(own)) // it has the commit
			}
			lock := filepath.Join(c.r.Dir, try.lock)
			must(t, os.MkdirAll(filepath.Dir(lock), 0o755))
			write(t, lock, "")
			then := time.Now().Add(-c.age)
			must(t, os.Chtimes(lock, then, then))
			if err := try.do(); (err == nil) != c.free || err != nil && !strings.Contains(err.Error(), lock) {
				t.Errorf("%s, %s: %v", c.name, what, err)
			}
			_ = os.Remove(lock) // it may be gone
			must(t, c.r.UpdateRefs(ctx, map[string]string{"refs/fetched/main": "", "refs/mine": ""}))
		}
	}
}

// TestReplace: cut off at any step, one of the two repositories is there afterwards, and nothing else.
func TestReplace(t *testing.T) {
	for step := range 4 {
		dir := filepath.Join(t.TempDir(), "r.git")
		for _, name := range []string{dir, dir + ".new"} {
			r, err := git.Init(t.Context(), name)
			must(t, err)
			write(t, filepath.Join(r.Dir, "which"), filepath.Base(name))
		}
		want := "r.git"
		if step >= 1 {
			must(t, os.Rename(dir, dir+".old"))
		}
		if step >= 2 {
			must(t, os.Rename(dir+".new", dir))
			want = "r.git.new"
		}
		if step == 3 {
			must(t, os.RemoveAll(dir+".old"))
		}
		must(t, git.Restore(dir))
		if got, err := os.ReadFile(filepath.Join(dir, "which")); err != nil || string(got) != want {
			t.Errorf("step %d: %s, %v", step, got, err)
		}
		if _, err := os.Stat(dir + ".old"); err == nil {
			t.Errorf("step %d: the old one is left", step)
		}
	}
}

// TestMaintain: a repository that gets a little at a time stays small in files, and what nothing leads to goes.
func TestMaintain(t *testing.T) {
	dir, _ := newClone(t)
	r := open(t, dir)
	head := do(t, dir, "git", "rev-parse", "HEAD")
	for i := range 25 {
		blob, err := r.WriteBlob(t.Context(), fmt.Append(nil, i))
		must(t, err)
		tree, err := r.TreeWith(t.Context(), head, map[string]string{"x": blob})
		must(t, err)
		commit, err := r.WriteCommit(t.Context(), git.Commit{Tree: tree, Parents: []string{head}, Message: "x", When: time.Unix(1_780_000_000+int64(i), 0)})
		must(t, err)
		must(t, r.UpdateRef(t.Context(), "refs/garrison/x", commit))
		do(t, dir, "git", "repack", "-q", "-d")
		head = commit
	}
	packs := func() int {
		all, err := filepath.Glob(filepath.Join(r.Dir, "objects/pack/*.pack"))
		must(t, err)
		return len(all)
	}
	before := packs()
	must(t, r.Maintain(t.Context()))
	if after := packs(); before < 25 || after > 2 {
		t.Errorf("%d packs, %d before", after, before)
	}
	if damage, err := r.Damage(t.Context()); damage != "" || err != nil {
		t.Errorf("%q, %v", damage, err)
	}
}
