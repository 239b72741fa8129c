package git_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

// TestCheckoutLetsIn: what lets in to the fleet's repository lets in to submodules and git-lfs on the same server, and is shown to no other.
func TestCheckoutLetsIn(t *testing.T) {
	dir, origin := newClone(t)
	root, contents := filepath.Dir(origin), t.TempDir()
	do(t, "", "git", "clone", "--quiet", "--bare", origin, filepath.Join(root, "inner.git"))
	inner := do(t, filepath.Join(root, "inner.git"), "git", "rev-parse", "HEAD")
	backend := &cgi.Handler{Path: filepath.Join(do(t, "", "git", "--exec-path"), "git-http-backend"), Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1"}}
	lfs := gittest.LFS(contents, "git", "t0ken")
	ours := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/info/lfs/") {
			lfs.ServeHTTP(w, r)
		} else if user, p, _ := r.BasicAuth(); user+":"+p != "git:t0ken" {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
		} else {
			backend.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(ours.Close)
	var asked, shown atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "" {
			shown.Add(1)
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(other.Close)
	r, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "r.git"))
	must(t, err)
	m := git.Remote{URL: ours.URL + "/" + filepath.Base(origin), CredentialsFile: write(t, filepath.Join(t.TempDir(), "token"), "t0ken")}

	const content = "a content"
	id := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	write(t, filepath.Join(contents, id), content)
	write(t, filepath.Join(dir, ".gitattributes"), "big filter=lfs\n")
	write(t, filepath.Join(dir, "big"), fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", id, len(content)))
	// fetched pushes what stands in the clone, with a submodule from url, and fetches it as a host does.
	fetched := func(url string) (commit string, pointers map[string]string) {
		do(t, dir, "git", "config", "-f", ".gitmodules", "submodule.lib.path", "lib")
		do(t, dir, "git", "config", "-f", ".gitmodules", "submodule.lib.url", url)
		do(t, dir, "git", "add", "big", ".gitattributes", ".gitmodules")
		do(t, dir, "git", "update-index", "--add", "--cacheinfo", "160000,"+inner+",lib")
		do(t, dir, "git", "commit", "--quiet", "--no-verify", "-m", url)
		do(t, dir, "git", "push", "--quiet", "--no-verify", "origin", "HEAD")
		must(t, r.FetchFrom(t.Context(), m, allHeads))
		commit = do(t, dir, "git", "rev-parse", "HEAD")
		files, err := r.Blobs(t.Context(), commit)
		must(t, err)
		pointers, err = r.Pointers(t.Context(), commit, files)
		must(t, err)
		return commit, pointers
	}
	commit, pointers := fetched("../inner.git")
	c, err := r.Checkout(t.Context(), m, "refs/x", commit, true, pointers)
	must(t, err)
	if c.LFS != "big" || c.LFSHash != id {
		t.Errorf("%+v", c)
	}
	c.Close()

	commit, _ = fetched(other.URL + "/inner.git")
	_, err = r.Checkout(t.Context(), m, "refs/x", commit, true, nil)
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)
	do(t, dir, "git", "config", "-f", ".lfsconfig", "lfs.url", other.URL+"/lfs")
	do(t, dir, "git", "add", ".lfsconfig")
	write(t, filepath.Join(dir, "big"), fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 7\n", strings.Repeat("1", 64)))
	commit, pointers = fetched("../inner.git")
	before := asked.Load()
	_, err = r.Checkout(t.Context(), m, "refs/x", commit, false, pointers)
	wantCode(t, err, fleet.Transient, fleet.CodeRemote)
	if before == 0 || asked.Load() == before || shown.Load() != 0 {
		t.Errorf("the other server was asked %d and %d times, and shown the token %d times", before, asked.Load()-before, shown.Load())
	}
}
