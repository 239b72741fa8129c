package release_test

import (
	"crypto/sha256"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git/gittest"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// reads makes the host joker depend on the text of a file in the repository.
func (w *world) reads(file string) {
	w.write("hosts/joker/default.nix", `{ nixpkgs.hostPlatform = builtins.head (builtins.match "([a-z0-9_-]+).*" (builtins.readFile ../../`+file+`)); age.secrets.punchline.file = ../../secrets/punchline.age; }`)
}

func (w *world) toml(text string) {
	w.write("garrison.toml", text+"\n[hosts]\nmanual = ['drhorrible']\n")
}

// module makes a repository beside the origin and returns its commit.
func (w *world) module(name, file, text string) string {
	w.t.Helper()
	bare, work := filepath.Join(w.dir, name+".git"), filepath.Join(w.dir, name)
	if _, err := os.Stat(bare); err != nil {
		w.do("git", "init", "--quiet", "--bare", "--initial-branch=main", bare)
		w.do("git", "clone", "--quiet", bare, work)
	}
	w.must(os.WriteFile(filepath.Join(work, file), []byte(text), 0o644))
	w.do("git", "-C", work, "add", "--all")
	w.do("git", "-C", work, "commit", "--quiet", "-m", text)
	w.do("git", "-C", work, "push", "--quiet", "origin", "HEAD")
	return w.do("git", "-C", work, "rev-parse", "HEAD")
}

// link puts a submodule into the clone, or changes its commit.
func (w *world) link(path, url, commit string) {
	w.t.Helper()
	w.do("git", "config", "-f", ".gitmodules", "submodule."+path+".path", path)
	w.do("git", "config", "-f", ".gitmodules", "submodule."+path+".url", url)
	w.must(os.MkdirAll(filepath.Join(w.clone, path), 0o755))
	w.do("git", "update-index", "--add", "--cacheinfo", "160000,"+commit+","+path)
}

func (w *world) tree(commit, path string) string {
	return w.do("git", "--git-dir", w.origin, "ls-tree", commit, path)
}

// TestSubmodules: hosts that need files of a submodule get them, and the release has the submodule's link.
func TestSubmodules(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		inner := w.module("inner", "platform", "x86_64-linux inner 1\n")
		// The nested one is told to the outer one by hand.
		outerDir := filepath.Join(w.dir, "outer")
		w.module("outer", "readme", "x86_64-linux outer 1\n")
		w.do("git", "-C", outerDir, "config", "-f", filepath.Join(outerDir, ".gitmodules"), "submodule.deep.path", "deep")
		w.do("git", "-C", outerDir, "config", "-f", filepath.Join(outerDir, ".gitmodules"), "submodule.deep.url", "../inner.git")
		w.do("git", "-C", outerDir, "update-index", "--add", "--cacheinfo", "160000,"+inner+",deep")
		w.must(os.MkdirAll(filepath.Join(outerDir, "deep"), 0o755))
		outer := w.module("outer", "readme", "x86_64-linux outer 2\n")
		w.link("lib/outer", "../outer.git", outer)
		w.reads("lib/outer/deep/platform")
		w.push("Needs a submodule of a submodule")
		w.refuse(fleet.Bad, fleet.CodeEvaluate, []string{"joker", "submodules = true"})

		w.toml("submodules = true")
		w.push("and says so")
		out := w.release()
		if got := w.tree(out.Release.Commit, "lib/outer"); !strings.HasPrefix(got, "160000 commit "+outer) {
			t.Errorf("the release has %q", got)
		}
		w.wantSameForOthers(out, "joker", "&submodules=1")

		// Absolute URLs, a commit that no branch leads to any more, and one that was never pushed.
		gone := w.module("inner", "platform", "x86_64-linux inner 2\n")
		w.do("git", "-C", filepath.Join(w.dir, "inner"), "reset", "--quiet", "--hard", inner)
		w.do("git", "-C", filepath.Join(w.dir, "inner"), "push", "--quiet", "--force", "origin", "HEAD")
		w.link("lib/direct", filepath.Join(w.dir, "inner.git"), gone)
		w.reads("lib/direct/platform")
		w.push("Directly")
		w.release()
		w.link("lib/direct", "file://"+filepath.Join(w.dir, "inner.git"), strings.Repeat("1", 40))
		w.push("Forgotten to push the submodule")
		w.refuse(fleet.Bad, fleet.CodeGit, []string{"lib/direct", "does not have its commit 111111111111", "push the submodule's commit"})
		w.link("lib/direct", "../nowhere.git", gone)
		w.push("Wrong URL")
		w.refuse(fleet.Transient, fleet.CodeRemote, []string{"lib/direct", "nowhere.git", ".gitmodules"})
	})
}

// wantSameForOthers wants Nix to find, by the release's commit alone, what the manifest says.
func (w *world) wantSameForOthers(out release.Outcome, host, query string) {
	w.t.Helper()
	url := gittest.HTTP(w.t, w.dir, "", "", nil) + "/origin.git"
	args := []string{"--extra-experimental-features", "nix-command flakes", "--store", w.nix.Store, "eval", "--raw",
		"git+" + url + "?ref=release&rev=" + out.Release.Commit + query + "#nixosConfigurations." + host + ".config.system.build.toplevel.outPath"}
	if got := w.do("nix", args...); got != out.Manifest.Hosts[host].OutPath {
		w.t.Errorf("%s: the manifest says %s, nix says %s", host, out.Manifest.Hosts[host].OutPath, got)
	}
}

// TestSubmoduleOnThisMachine: .gitmodules of a fleet from elsewhere cannot make CI read repositories on its own disk.
func TestSubmoduleOnThisMachine(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	own := w.module("own", "platform", "x86_64-linux secret\n")
	w.link("lib/own", filepath.Join(w.dir, "own.git"), own)
	w.reads("lib/own/platform")
	w.toml("submodules = true")
	w.push("Reads what is CI's own")
	url := gittest.HTTP(t, w.dir, "", "", nil) + "/origin.git"
	w.refuse(fleet.Local, fleet.CodeRemote, []string{"lib/own", "protocol.file.allow"}, func(o *release.Options) { o.Remote = url })
}

// TestLFS: a file that git-lfs keeps is evaluated as its content or not at all, and the release keeps the pointer.
func TestLFS(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		const content = "x86_64-linux, and much more\n"
		w.do("git", "lfs", "install", "--local")
		w.must(os.WriteFile(filepath.Join(w.clone, ".gitattributes"), []byte("*.big filter=lfs diff=lfs merge=lfs -text\n"), 0o644))
		w.write("assets/platform.big", content)
		w.reads("assets/platform.big")
		w.push("A large file")
		w.refuse(fleet.Bad, fleet.CodeConfig, []string{"assets/platform.big", "lfs = true", "lfs = false"})
		w.toml("lfs = true")
		w.push("whose content hosts need")
		pointer := w.do("git", "rev-parse", "HEAD:assets/platform.big")
		if n.Version == "2.8.0" {
			w.refuse(fleet.Local, fleet.CodeNixTooOld, []string{"assets/platform.big", "pointer", "2.27"})
			w.reads("gitops-test")
			w.write("gitops-test", "x86_64-linux\n")
			w.toml("lfs = false")
			w.push("which no host needs")
			w.release()
			return
		}
		out := w.release()
		if got := w.tree(out.Release.Commit, "assets/platform.big"); !strings.Contains(got, pointer) {
			t.Errorf("the release has %q, the pointer is %s", got, pointer)
		}
		// Another content, on a server that wants a password.
		dir := t.TempDir()
		server := httptest.NewServer(gittest.LFS(dir, "user", "pa55w0rd"))
		t.Cleanup(server.Close)
		url := server.URL
		w.do("git", "config", "-f", ".lfsconfig", "lfs.url", url)
		w.do("git", "config", "lfs.url", strings.Replace(url, "//", "//user:pa55w0rd@", 1))
		w.write("assets/platform.big", "x86_64-linux, and still more\n")
		w.push("A larger one")
		w.refuse(fleet.Local, fleet.CodeUnauthorized, []string{"git-lfs keeps"})
		w.must(os.WriteFile(filepath.Join(os.Getenv("HOME"), ".git-credentials"), []byte(strings.Replace(url, "//", "//user:pa55w0rd@", 1)+"\n"), 0o600))
		w.do("git", "config", "--global", "credential.helper", "store")
		again := w.release()
		if again.Manifest.Hosts["joker"].OutPath != out.Manifest.Hosts["joker"].OutPath || !again.Manifest.Hosts["joker"].Built {
			t.Errorf("%+v", again.Manifest.Hosts["joker"])
		}
		// One that the server lost.
		w.write("assets/platform.big", "x86_64-linux, lost\n")
		w.push("Lost")
		w.must(os.Remove(filepath.Join(dir, fmt.Sprintf("%x", sha256.Sum256([]byte("x86_64-linux, lost\n"))))))
		w.refuse(fleet.Transient, fleet.CodeRemote, []string{"git-lfs keeps"})
	})
}
