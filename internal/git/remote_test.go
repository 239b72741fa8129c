package git_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

const password = "pa55w0rd"

func forge(t *testing.T, root string, answer func(w http.ResponseWriter, r *http.Request, push http.Handler)) string {
	return gittest.HTTP(t, root, "user", password, answer)
}

func TestFetch(t *testing.T) {
	dir, origin := newClone(t)
	first := do(t, dir, "git", "rev-parse", "HEAD")
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "r.git"))
	must(t, err)
	spec := "+refs/heads/*:refs/garrison/heads/*"
	do(t, dir, "git", "push", "--quiet", "origin", "HEAD:gone")
	must(t, r.Fetch(t.Context(), origin, spec))
	do(t, dir, "git", "push", "--quiet", "origin", "HEAD:gone/other", ":gone") // a file becomes a folder
	must(t, r.Fetch(t.Context(), origin, spec))
	refs, err := r.Refs(t.Context(), "refs/garrison/heads/")
	if err != nil || len(refs) != 2 || refs["gone/other"].Commit != first {
		t.Errorf("%v, %v", refs, err)
	}
	err = r.Fetch(t.Context(), filepath.Join(t.TempDir(), "nowhere.git"), spec)
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)
	err = r.Fetch(t.Context(), "--upload-pack=touch "+filepath.Join(t.TempDir(), "owned"), spec)
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Fetch(ctx, origin, spec); err == nil || fleet.CodeOf(err) == fleet.CodeRemote {
		t.Errorf("stopped: %v", err)
	}
}

// TestFetchFromCloneOfNewest: a name of a remote is as good as its URL, and nothing but refs/garrison moves.
func TestFetchFromCloneOfNewest(t *testing.T) {
	dir, origin := newClone(t)
	first := do(t, dir, "git", "rev-parse", "HEAD")
	commit(t, dir, "Second")
	shallow := filepath.Join(t.TempDir(), "shallow")
	do(t, "", "git", "clone", "--quiet", "--depth=1", "file://"+origin, shallow)
	third := commit(t, dir, "Third")
	r := open(t, shallow)
	before := do(t, shallow, "git", "for-each-ref")
	must(t, r.Fetch(t.Context(), "origin", "+refs/heads/*:refs/garrison/heads/*"))
	if ok, err := r.IsAncestor(t.Context(), first, third); !ok || err != nil {
		t.Errorf("the history is not whole: %v, %v", ok, err)
	}
	must(t, r.Push(t.Context(), "origin", git.Move{Ref: "refs/heads/release", To: third}))
	must(t, r.UpdateRef(t.Context(), "refs/garrison/heads/main", ""))
	if after := do(t, shallow, "git", "for-each-ref"); after != before {
		t.Errorf("refs were\n%s\nand are\n%s", before, after)
	}
}

func TestPushMovesAllOrNone(t *testing.T) {
	dir, origin := newClone(t)
	r, first := open(t, dir), do(t, dir, "git", "rev-parse", "HEAD")
	second := commit(t, dir, "Second")
	refs := func() string { return do(t, origin, "git", "for-each-ref") }
	branch := func(from, to string) git.Move { return git.Move{Ref: "refs/heads/release", From: from, To: to} }
	tag := func(name string) git.Move { return git.Move{Ref: "refs/tags/" + name, To: first} }
	must(t, r.Push(t.Context(), origin, branch("", first), tag("release-1")))
	before := refs()
	for name, moves := range map[string][]git.Move{
		"the branch is there":     {branch("", second), tag("release-2")},
		"the branch is elsewhere": {branch(second, second), tag("release-2")},
		"the tag is there":        {branch(first, second), {Ref: "refs/tags/release-1", To: second}},
	} {
		err := r.Push(t.Context(), origin, moves...)
		if fleet.CodeOf(err) != fleet.CodeRace || fleet.ClassOf(err) != fleet.Transient || refs() != before {
			t.Errorf("%s: %v, the origin has\n%s", name, err, refs())
		}
	}
	must(t, os.WriteFile(filepath.Join(origin, "hooks/pre-receive"), []byte("#!/bin/sh\necho 'release is protected'; exit 1\n"), 0o755))
	err := r.Push(t.Context(), origin, branch(first, second), tag("release-2"))
	wantCode(t, err, fleet.Local, fleet.CodeUnauthorized)
	if !strings.Contains(err.Error(), "release is protected") || !strings.Contains(err.Error(), "move these refs: release, release-2") || refs() != before {
		t.Errorf("%v, the origin has\n%s", err, refs())
	}
}

// TestCredentials are used, and seen neither in errors nor in the arguments of programs.
func TestCredentials(t *testing.T) {
	dir, origin := newClone(t)
	do(t, origin, "git", "config", "http.receivepack", "true")
	var leaked atomic.Bool
	look := func() {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.Contains(string(b), password) {
				leaked.Store(true)
			}
		}
	}
	url := forge(t, filepath.Dir(origin), func(w http.ResponseWriter, r *http.Request, push http.Handler) {
		look() // git and its helper wait for us
		push.ServeHTTP(w, r)
	}) + "/origin.git"
	r := open(t, dir)
	head := do(t, dir, "git", "rev-parse", "HEAD")
	must(t, r.Fetch(t.Context(), url, "+refs/heads/*:refs/garrison/heads/*"))
	must(t, r.Push(t.Context(), url, git.Move{Ref: "refs/heads/release", To: head}))
	do(t, dir, "git", "remote", "add", "forge", url)
	must(t, r.Push(t.Context(), "forge", git.Move{Ref: "refs/heads/release-2", To: head}))
	if leaked.Load() {
		t.Error("the password stood in a program's arguments")
	}
	for _, wrong := range []string{strings.Replace(url, password, "wr0ng", 1), strings.Replace(url, "user:"+password, "ghp_t0ken", 1)} {
		err := r.Fetch(t.Context(), wrong, "+refs/heads/*:refs/garrison/heads/*")
		wantCode(t, err, fleet.Local, fleet.CodeUnauthorized)
		var e *fleet.Error
		e, _ = err.(*fleet.Error)
		if all := err.Error() + e.Hint; strings.Contains(all, "wr0ng") || strings.Contains(all, "t0ken") {
			t.Errorf("the error shows credentials: %s", all)
		}
	}
}

// TestLostAnswer: the push arrives, the answer does not. It is a success, which a second look finds.
func TestLostAnswer(t *testing.T) {
	dir, origin := newClone(t)
	do(t, origin, "git", "config", "http.receivepack", "true")
	arrives := true
	url := forge(t, filepath.Dir(origin), func(w http.ResponseWriter, r *http.Request, push http.Handler) {
		if arrives {
			push.ServeHTTP(httptest.NewRecorder(), r)
		}
		panic(http.ErrAbortHandler)
	}) + "/origin.git"
	r, head := open(t, dir), do(t, dir, "git", "rev-parse", "HEAD")
	must(t, r.Push(t.Context(), url, git.Move{Ref: "refs/heads/release", To: head}, git.Move{Ref: "refs/tags/release-1", To: head}))
	arrives = false
	err := r.Push(t.Context(), url, git.Move{Ref: "refs/heads/release", From: head, To: commit(t, dir, "Second")})
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)
	if strings.Contains(err.Error(), password) {
		t.Errorf("the error shows the password: %v", err)
	}
}

// TestNobodyIsAsked: no terminal, no helper; a remote that wants a password gets none and says so at once.
func TestNobodyIsAsked(t *testing.T) {
	dir, origin := newClone(t)
	url := forge(t, filepath.Dir(origin), nil) + "/origin.git"
	began := time.Now()
	err := open(t, dir).Fetch(t.Context(), strings.Replace(url, "user:"+password+"@", "", 1), "+refs/heads/*:refs/garrison/heads/*")
	wantCode(t, err, fleet.Local, fleet.CodeUnauthorized)
	if time.Since(began) > 20*time.Second {
		t.Error("it waited for somebody")
	}
}
