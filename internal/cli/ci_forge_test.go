package cli

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// ciLab is a fleet's repository on a real forge, with a real runner that has garrison and nix.
type ciLab struct {
	t     *testing.T
	forge *forgetest.Gitea
	repo  *forgetest.Repo
	user  string
	dir   string // with the clone and the keys
	env   []string
	key   string
}

func newCILab(t *testing.T) *ciLab {
	t.Helper()
	l := &ciLab{t: t, forge: forgetest.Start(t), dir: t.TempDir()}
	l.user = l.forge.User(t, "editor")
	l.repo = l.forge.Repo(t, l.user, "fleet")
	l.repo.Private(t)
	busybox, err := exec.LookPath("busybox")
	l.must(err)
	busybox, err = filepath.EvalSymlinks(busybox)
	l.must(err)
	cache := cachetest.NewServer(t, nil)
	l.env = []string{"NIX_REMOTE=local?root=" + filepath.Join(l.dir, "store"), "NIX_CONFIG=" + sandbox.NixConf(busybox, nil, nil), "NIX_CONF_DIR=" + l.dir,
		"XDG_CACHE_HOME=" + filepath.Join(l.dir, "cache"), "GIT_CONFIG_NOSYSTEM=1", "NO_COLOR=1", "HOME=" + l.dir, "TMPDIR=" + l.dir, "PATH=" + os.Getenv("PATH")}
	l.forge.Runner(t, l.repo, l.env...)
	l.do("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(l.dir, "key"))
	l.do("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(l.dir, "identity"))
	l.key = l.read(filepath.Join(l.dir, "key"))
	l.repo.Secret(t, "GARRISON_KEY", strings.TrimSpace(l.key))
	l.repo.Secret(t, "GARRISON_IDENTITY", l.read(filepath.Join(l.dir, "identity")))
	l.repo.Secret(t, "GARRISON_CACHE_TOKEN", cachetest.PushToken)
	l.git("init", "--quiet", "--initial-branch=main")
	l.git("remote", "add", "origin", l.repo.Push)
	l.must(os.MkdirAll(filepath.Join(l.dir, "lib"), 0o755))
	flake := strings.ReplaceAll(minimalFlake, "SYSTEM", strconv.Quote(nixSystem()))
	l.write("flake.nix", flake)
	l.write("text", "first")
	l.write("garrison.toml", "[cache]\nurl = \""+cache.CacheURL()+"\"\n\n[[check.commands]]\nname = \"looks\"\nrun = \"! test -e broken && ! env | grep -e PRIVATE -e _TOKEN= -e GARRISON_KEY -e GARRISON_IDENTITY\"\n")
	l.write(".forgejo/workflows/garrison.yml", ci.Workflow(ci.WorkflowOptions{}))
	return l
}

func (l *ciLab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// do runs a program in the clone, and returns what it printed.
func (l *ciLab) do(stdin, program string, args ...string) string {
	l.t.Helper()
	cmd := exec.CommandContext(l.t.Context(), program, args...)
	cmd.Dir = filepath.Join(l.dir, "fleet")
	l.must(os.MkdirAll(cmd.Dir, 0o755))
	cmd.Env = append(slices.Clone(l.env), "GIT_AUTHOR_NAME=Editor", "GIT_AUTHOR_EMAIL=editor@example.org", "GIT_COMMITTER_NAME=Editor", "GIT_COMMITTER_EMAIL=editor@example.org")
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		l.t.Fatalf("%s %s: %v: %s%s", program, strings.Join(args, " "), err, out, &stderr)
	}
	return strings.TrimSpace(string(out))
}

func (l *ciLab) git(args ...string) string {
	l.t.Helper()
	return l.do("", "git", args...)
}

func (l *ciLab) read(file string) string {
	l.t.Helper()
	b, err := os.ReadFile(file)
	l.must(err)
	return string(b)
}

func (l *ciLab) write(name, text string) {
	l.t.Helper()
	file := filepath.Join(l.dir, "fleet", name)
	l.must(os.MkdirAll(filepath.Dir(file), 0o755))
	l.must(os.WriteFile(file, []byte(text), 0o644))
}

// push commits everything and pushes the branch that the clone is on.
func (l *ciLab) push(subject string) string {
	l.t.Helper()
	l.git("add", "--all")
	l.git("commit", "--quiet", "--allow-empty", "-m", subject)
	l.git("push", "--quiet", "--force", "origin", "HEAD")
	return l.git("rev-parse", "HEAD")
}

// run waits for the run of an event for a commit, wants it to end so, and returns its log, in which there must be no secret.
func (l *ciLab) run(event, commit, conclusion string) string {
	l.t.Helper()
	run := l.repo.AwaitRun(l.t, event, commit)
	log := l.repo.Log(l.t, run)
	if run.Conclusion != conclusion {
		l.t.Fatalf("the run of %s ends with %q:\n%s", event, run.Conclusion, log)
	}
	for _, secret := range append(strings.Split(l.key, "\n")[1:3], cachetest.PushToken) {
		if strings.Contains(log, secret) {
			l.t.Errorf("a secret is in the log:\n%s", log)
		}
	}
	return log
}

// wantStatus wants a commit's status to be so, and to lead to the run.
func (l *ciLab) wantStatus(commit, name, state, says string) {
	l.t.Helper()
	s := l.repo.Statuses(l.t, commit)["garrison/"+name]
	if s.State != state || !strings.Contains(s.Description, says) || !strings.Contains(s.URL, "/actions/runs/") {
		l.t.Errorf("the status %s of %.12s is %+v", name, commit, s)
	}
	if resp, err := http.Get(s.URL); err == nil { // a stranger is told nothing of a private repository, not even that it is there
		resp.Body.Close()
	} else {
		l.t.Error(err)
	}
}

// What the workflow is called for besides what TestForge of package drill shows on a host: pull requests, newer inputs; and what a forge does not take.
func TestCIOnForge(t *testing.T) {
	l := newCILab(t)
	first := l.push("The fleet")
	l.run("push", first, "success")
	refs := l.repo.Refs(t)
	if refs["refs/heads/release"] == "" || refs["refs/tags/release-1"] == "" {
		t.Fatalf("there is no release: %v", refs)
	}
	l.wantStatus(first, "check", "success", "all passed")
	for _, stage := range []string{"evaluate", "re-key", "build", "push", "publish"} {
		l.wantStatus(first, stage, "success", "")
	}

	// A pull request: one comment with the plan, updated in place; no secret, and nothing published.
	l.git("checkout", "--quiet", "-b", "topic")
	l.write("text", "second")
	l.push("Second text")
	pull := l.repo.Pull(t, "topic", "main", "Second text")
	log := l.run("pull_request", l.git("rev-parse", "HEAD"), "success")
	if !strings.Contains(log, "2 of 2 hosts change") || strings.Contains(log, "release:") {
		t.Errorf("the run of the pull request says:\n%s", log)
	}
	comments := l.repo.Comments(t, pull)
	if len(comments) != 1 || !strings.Contains(comments[0], "### Garrison plan") || !strings.Contains(comments[0], "| joker | changed |") || !strings.Contains(comments[0], "/actions/runs/") {
		t.Fatalf("comments: %q", comments)
	}
	if strings.Contains(log, "::warning") {
		t.Errorf("something went wrong:\n%s", log)
	}
	l.write("text", "first")
	head := l.push("First text again")
	l.run("pull_request_sync", head, "success")
	if comments = l.repo.Comments(t, pull); len(comments) != 1 || !strings.Contains(comments[0], "Nothing changes for any host.") {
		t.Errorf("comments: %q", comments)
	}
	l.write("broken", "")
	head = l.push("Broken")
	l.run("pull_request_sync", head, "failure")
	if comments = l.repo.Comments(t, pull); len(comments) != 1 || !strings.Contains(comments[0], "garrison check failed: 1 of 4") {
		t.Errorf("comments: %q", comments)
	}

	// What the forge does not take is told at the end, with the scope that is missing, and fails nothing.
	l.git("checkout", "--quiet", "main")
	l.write("text", "fourth")
	l.push("By hand [skip ci]")
	got := l.byHand(l.forge.Token(t, l.user, "read:repository"))
	if got.Result != ciReleased || len(got.Warnings) == 0 || !strings.Contains(strings.Join(got.Warnings, "\n"), "write:repository") {
		t.Errorf("%s, warnings %q", got.Result, got.Warnings)
	}

	// Newer inputs are proposed in a pull request with the plan, outside of any CI too.
	l.library("first")
	l.write("flake.nix", strings.Replace(strings.Replace(l.read(filepath.Join(l.dir, "fleet/flake.nix")), "outputs = { self }:",
		"inputs.lib = { url = \"git+file://"+l.dir+"/lib\"; flake = false; };\n  outputs = { self, lib }:", 1), "./text", "(lib + \"/text\")", 1))
	l.do("", "nix", "flake", "lock", "path:"+filepath.Join(l.dir, "fleet"))
	l.push("An input [skip ci]")
	l.library("second")
	token := l.forge.Token(t, l.user, "write:repository", "write:issue")
	one := l.byHand(token, "--event", "schedule")
	if one.Result != ciProposed || one.Proposal == "" || len(one.Warnings) > 0 {
		t.Fatalf("%+v", one)
	}
	again := l.byHand(token, "--event", "schedule")
	if again.Proposal != one.Proposal || again.Update.Commit != one.Update.Commit {
		t.Errorf("%+v, before %+v", again, one)
	}
	var pulls []struct{ Title, Body string }
	l.repo.API(t, http.MethodGet, "/pulls?state=open&base_branch=main", nil, &pulls)
	pulls = slices.DeleteFunc(pulls, func(p struct{ Title, Body string }) bool { return p.Title == "Second text" })
	if len(pulls) != 1 || pulls[0].Title != "flake.lock: lib" || !strings.Contains(pulls[0].Body, "### Garrison plan") {
		t.Errorf("pull requests: %+v", pulls)
	}
}

// library commits a text to the fleet's input.
func (l *ciLab) library(text string) {
	l.t.Helper()
	lib := filepath.Join(l.dir, "lib")
	l.must(os.WriteFile(filepath.Join(lib, "text"), []byte(text), 0o644))
	l.git("init", "--quiet", lib)
	l.git("-C", lib, "add", "--all")
	l.git("-C", lib, "commit", "--quiet", "-m", text)
}

// byHand runs garrison ci in the clone with a token of the forge. git itself is let in as the owner.
func (l *ciLab) byHand(token string, args ...string) (out ciJSON) {
	l.t.Helper()
	l.must(os.WriteFile(filepath.Join(l.dir, "forge-token"), []byte(token+"\n"), 0o600))
	l.must(os.WriteFile(filepath.Join(l.dir, "cache-token"), []byte(cachetest.PushToken), 0o600))
	args = append([]string{"ci", "-o", "json", "--key", filepath.Join(l.dir, "key"), "--cache-token-file", filepath.Join(l.dir, "cache-token"),
		"--forge-token-file", filepath.Join(l.dir, "forge-token")}, args...)
	l.must(json.Unmarshal([]byte(l.do("", "garrison", args...)), &out))
	l.t.Logf("%s: %.2f s, tools %.2f s", out.Result, out.Seconds, out.ToolSeconds)
	return out
}

func TestTogether(t *testing.T) {
	for want, all := range map[forge.State][][]forge.State{
		forge.Pending: {nil, {forge.Pending}, {forge.Success, forge.Pending}},
		forge.Success: {{forge.Success}, {forge.Success, forge.Success}},
		forge.Failure: {{forge.Failure}, {forge.Pending, forge.Error, forge.Success}},
	} {
		for _, states := range all {
			var given []forge.Status
			for _, s := range states {
				given = append(given, forge.Status{State: s})
			}
			given = append(given, forge.Status{Context: hub.RolloutContext, State: forge.Error}) // is not CI's
			if got := together(given); got != want {
				t.Errorf("%v: %s, not %s", states, got, want)
			}
		}
	}
}
