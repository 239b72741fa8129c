package release_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestRemotes releases, plans and looks over ssh and HTTP with credentials; a remote that lets us read and not write leaves everything as it was.
func TestRemotes(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.do("git", "--git-dir", w.origin, "config", "http.receivepack", "true")
	s := gittest.SSH(t)
	t.Setenv("GIT_SSH_COMMAND", gittest.Command(s.Key, s.KnownHosts))
	for name, remote := range map[string]string{
		"ssh":  s.URL + w.origin,
		"http": gittest.HTTP(t, w.dir, "user", "pa55w0rd", nil) + "/origin.git",
	} {
		via := func(o *release.Options) { o.Remote = remote }
		commit := w.change("by " + name)
		plan, err := release.Plan(t.Context(), release.PlanOptions{NoBuild: true, Options: w.with(func(o *release.Options) { o.Remote, o.Source = remote, "refs/garrison/heads/main" })})
		w.must(err)
		if plan.Source.Commit != commit || plan.Empty() {
			t.Errorf("%s: %+v", name, plan)
		}
		out := w.release(via)
		if out.Release.Source.Commit != commit {
			t.Errorf("%s: %+v", name, out.Release)
		}
		looked, err := release.Secrets(t.Context(), w.with(via), "")
		w.must(err)
		if looked.Release.Number != out.Release.Number {
			t.Errorf("%s: %+v", name, looked)
		}
	}
	t.Setenv("GIT_SSH_COMMAND", gittest.Command(s.OtherKey, s.KnownHosts))
	w.change("refused")
	w.refuse(fleet.Local, fleet.CodeUnauthorized, []string{"refuses our credentials"}, func(o *release.Options) { o.Remote = s.URL + w.origin })
}

// TestSubmoduleBySSH: what opens the fleet's remote opens that of its submodules.
func TestSubmoduleBySSH(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	s := gittest.SSH(t)
	w.link("lib/own", "../own.git", w.module("own", "platform", "x86_64-linux\n"))
	w.reads("lib/own/platform")
	w.toml("submodules = true")
	w.push("With a submodule")
	w.do("git", "--git-dir", w.repo.Dir, "config", "core.sshCommand", gittest.Command(s.Key, s.KnownHosts))
	out := w.release(func(o *release.Options) { o.Remote = s.URL + w.origin })
	if got := w.tree(out.Release.Commit, "lib/own"); !strings.HasPrefix(got, "160000 ") {
		t.Errorf("the release has %q", got)
	}
	other := w.newRepo("other.git")
	w.do("git", "--git-dir", other.Dir, "config", "core.sshCommand", gittest.Command(s.Key, s.KnownHosts))
	found, err := release.Check(t.Context(), release.CheckOptions{Repo: w.fetched(other), Remote: s.URL + w.origin, Commit: out.Release.Source.Commit, Nix: w.nix})
	if err != nil || !found.Passed {
		t.Errorf("%+v, %v", found, err)
	}
}

// fetched is r with what is at the origin.
func (w *world) fetched(r *git.Repo) *git.Repo {
	w.do("git", "--git-dir", r.Dir, "fetch", "--quiet", filepath.Clean(w.origin), "+refs/heads/*:refs/garrison/heads/*")
	return r
}
