package forgetest_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/forge/forgetest"
)

const workflow = `on: [push, pull_request]
jobs:
  job:
    runs-on: nixos
    steps:
      - run: |
          echo "$GREETING from ${{ secrets.PLACE }} and ${{ vars.TIME }}"
          git clone -q "$GITHUB_SERVER_URL/$GITHUB_REPOSITORY" .
          git fetch -q origin "$GITHUB_REF"
          git checkout -q FETCH_HEAD
          sh ./check
        env:
          TIME: ${{ vars.TIME }}
`

// What the package promises to tests, once each.
func TestGitea(t *testing.T) {
	g := forgetest.Start(t)
	user := g.User(t, "editor")
	r := g.Repo(t, user, "fleet")
	g.Runner(t, r, "GREETING=hello")
	r.Secret(t, "PLACE", "the moon")
	r.Variable(t, "TIME", "noon")
	deliveries := hook(t, r)

	clone := t.TempDir()
	git := func(ok bool, args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", clone, "-c", "user.name=Editor", "-c", "user.email=editor@example.org"}, args...)...)
		out, err := cmd.CombinedOutput()
		if (err == nil) != ok {
			t.Fatalf("git %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(clone, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(".forgejo/workflows/job.yml", workflow)
	write("check", "exit 0\n")
	git(true, "init", "-q", "-b", "main")
	git(true, "add", "-A")
	git(true, "commit", "-q", "-m", "One")
	git(true, "push", "-q", r.Push, "main")
	commit := git(true, "rev-parse", "HEAD")

	run := r.AwaitRun(t, "push", commit)
	if log := r.Log(t, run); run.Conclusion != "success" || !strings.Contains(log, "hello from *** and noon") {
		t.Errorf("the run ends with %q: %s", run.Conclusion, log)
	}
	if got := (<-deliveries); got.Ref != "refs/heads/main" || got.After != commit {
		t.Errorf("the webhook says %+v", got)
	}
	if refs := r.Refs(t); len(refs) != 1 || refs["refs/heads/main"] != commit {
		t.Errorf("refs %v", refs)
	}

	// A pull request whose job fails; a branch that others may not push to; a token that may only read.
	git(true, "checkout", "-q", "-b", "change")
	write("check", "exit 1\n")
	git(true, "commit", "-q", "-a", "-m", "Two")
	git(true, "push", "-q", r.Push, "change")
	if n := r.Pull(t, "change", "main", "A change"); n != 1 {
		t.Errorf("pull request %d", n)
	}
	if run := r.AwaitRun(t, "pull_request", git(true, "rev-parse", "HEAD")); run.Conclusion != "failure" {
		t.Errorf("the pull request's run ends with %q: %s", run.Conclusion, r.Log(t, run))
	}
	other := g.User(t, "other")
	r.Collaborator(t, other, "write")
	r.Protect(t, "main", forgetest.Protection{Push: []string{user}})
	write("check", "exit 0\n")
	git(true, "commit", "-q", "-a", "-m", "Three")
	if said := git(false, "push", r.As(other, g.Token(t, other, "write:repository")), "HEAD:main"); !strings.Contains(said, "protected branch") {
		t.Errorf("a push to a protected branch: %s", said)
	}
	git(false, "push", r.As(user, g.Token(t, user, "read:repository")), "HEAD:main")

	g.Stop(t)
	git(false, "ls-remote", r.URL)
	g.Start(t)
	git(true, "push", "-q", r.As(user, g.Token(t, user, "write:repository")), "HEAD:main")
	if run := r.AwaitRun(t, "push", git(true, "rev-parse", "HEAD")); run.Conclusion != "success" {
		t.Errorf("the run after the forge was down ends with %q: %s", run.Conclusion, r.Log(t, run))
	}
}

type delivery struct{ Ref, After string }

// hook serves what a webhook of pushes is sent to. Those that are not signed fail the test.
func hook(t *testing.T, r *forgetest.Repo) <-chan delivery {
	got := make(chan delivery, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		var d delivery
		if err == nil {
			err = json.Unmarshal(body, &d)
		}
		mac := hmac.New(sha256.New, []byte("hook secret"))
		mac.Write(body)
		if err != nil || req.Header.Get("X-Gitea-Signature") != hex.EncodeToString(mac.Sum(nil)) {
			t.Errorf("a delivery: %v, %v, %s", err, req.Header, body)
		}
		select {
		case got <- d:
		case <-time.After(time.Minute):
		}
	}))
	t.Cleanup(srv.Close)
	r.Hook(t, srv.URL, "hook secret", "push")
	return got
}
