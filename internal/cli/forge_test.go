package cli

import (
	"bytes"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/forge/forgetest"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// atForge is a fleet's repository on a real forge, and garrison in a clone of it.
type atForge struct {
	*testing.T
	gitea     *forgetest.Gitea
	repo      *forgetest.Repo
	dir, work string
}

func newAtForge(t *testing.T) *atForge {
	g := forgetest.Start(t)
	f := &atForge{T: t, gitea: g, repo: g.Repo(t, g.User(t, "lair"), "fleet"), dir: filepath.Join(t.TempDir(), "fleet"), work: t.TempDir()}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"HOME": f.work, "XDG_CONFIG_HOME": filepath.Join(f.work, "config"), "XDG_CACHE_HOME": filepath.Join(f.work, "cache"),
		"NIX_REMOTE": "local?root=" + filepath.Join(f.work, "store"), "NIX_CONFIG": sandbox.NixConf(busybox, nil, nil) + "\nexperimental-features = nix-command flakes", "GIT_CONFIG_NOSYSTEM": "1",
		"GITHUB_ACTIONS": "", "GITEA_ACTIONS": "", "GITHUB_TOKEN": "", "GARRISON_FORGE_TOKEN": "", "GARRISON_HUB": "",
		"GIT_AUTHOR_NAME": "Editor", "GIT_AUTHOR_EMAIL": "editor@example.org", "GIT_COMMITTER_NAME": "Editor", "GIT_COMMITTER_EMAIL": "editor@example.org"} {
		t.Setenv(k, v)
	}
	f.write("flake.nix", strings.ReplaceAll(minimalFlake, "SYSTEM", strconv.Quote(nixSystem())))
	f.write("text", "first")
	f.git("init", "--quiet", "--initial-branch=main")
	f.git("remote", "add", "origin", f.repo.URL+".git")
	f.git("add", "--all")
	f.git("commit", "--quiet", "--message", "The fleet")
	f.git("push", "--quiet", f.repo.Push, "main")
	return f
}

func (f *atForge) write(name, text string) {
	f.Helper()
	file := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

func (f *atForge) git(args ...string) {
	f.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = f.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		f.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// token is a file with a token of the repository's owner, or another user.
func (f *atForge) token(user string, scopes ...string) string {
	f.Helper()
	file := filepath.Join(f.TempDir(), "token")
	if err := os.WriteFile(file, []byte(f.gitea.Token(f, user, scopes...)+"\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	return file
}

// garrison runs a command, wants its exit code, and that it prints what the patterns say. No token may be in it.
func (f *atForge) garrison(code int, args []string, want ...string) {
	f.Helper()
	var out bytes.Buffer
	got := Run(f.Context(), append(args, "--repo", f.dir), Stdio{Out: &out, Err: &out})
	if got != code {
		f.Errorf("garrison %v exits with %d, not %d", args, got, code)
	}
	for _, w := range want {
		if !regexp.MustCompile(`(?m)` + w).MatchString(out.String()) {
			f.Errorf("garrison %v does not say %q:\n%s", args, w, out.String())
		}
	}
	for n, a := range args {
		if a == "--forge-token-file" {
			if secret, err := os.ReadFile(args[n+1]); err == nil && strings.Contains(out.String(), strings.TrimSpace(string(secret))) {
				f.Errorf("garrison %v prints the token", args)
			}
		}
	}
}

// TestInitAtForge: the server is asked what it is, and takes the secrets of its Actions.
func TestInitAtForge(t *testing.T) {
	f := newAtForge(t)
	f.garrison(0, []string{"init", "--dry-run"}, `^forge +gitea at `+regexp.QuoteMeta(f.gitea.URL)+`, repository `+f.repo.Full()+`$`, `^would write \.gitea/workflows/garrison\.yml$`)
	f.garrison(0, []string{"init", "--cache", "https://127.0.0.1:1/fleet"}, `^wrote +\.gitea/workflows/garrison\.yml$`, `remote = "`+regexp.QuoteMeta(f.repo.URL)+`\.git"`,
		`^2\. .* at `+regexp.QuoteMeta(f.repo.URL)+`/settings/actions/secrets:$`)
	secrets := func() string {
		var list []struct{ Name string }
		f.repo.API(t, http.MethodGet, "/actions/secrets", nil, &list)
		var names []string
		for _, s := range list {
			names = append(names, s.Name)
		}
		return strings.Join(names, " ")
	}
	if got := secrets(); got != "" {
		t.Fatalf("there are secrets: %s", got)
	}
	f.garrison(1, []string{"init", "--set-secrets", "--forge-token-file", f.token(f.repo.Owner, "read:repository")}, `write:repository`)
	f.garrison(0, []string{"init", "--set-secrets", "--forge-token-file", f.token(f.repo.Owner, "write:repository"), "--cache", "https://127.0.0.1:1/fleet", "--cache-token-file", f.token(f.repo.Owner, "read:user")},
		`^set +GARRISON_KEY, from .*/release-key$`, `^set +GARRISON_CACHE_TOKEN, from `)
	if got := secrets(); got != "GARRISON_CACHE_TOKEN GARRISON_KEY" && got != "GARRISON_KEY GARRISON_CACHE_TOKEN" {
		t.Errorf("the secrets are: %s", got)
	}
}

// TestDoctorAtForge: what the token may do, how branches are protected, and whether the workflow is there.
func TestDoctorAtForge(t *testing.T) {
	f := newAtForge(t)
	doctor := func(token string, more ...string) []string {
		if token == "" {
			return append([]string{"doctor"}, more...)
		}
		return append([]string{"doctor", "--forge-token-file", token}, more...)
	}
	write := f.token(f.repo.Owner, "write:repository", "read:user")
	f.garrison(0, doctor(write), `^ok +forge token +the token of `+f.repo.Owner+`.* may write to `+f.repo.Full()+`$`, `^ok +branch release +it is not there yet`, `^ok +branch main +not protected`,
		`^WARNING +workflow +there is no workflow that calls garrison ci`, `^ok +clock +`, `^ok +remote +`, `^WARNING +push +`)
	f.garrison(0, doctor(""), `^WARNING +forge token +there is no token for `)
	f.garrison(1, doctor(f.token(f.repo.Owner, "read:repository", "read:user")), `^FAIL +forge token +the token of .* may not write to `, `scope write:repository`)
	f.garrison(1, doctor(f.token(f.gitea.User(t, "stranger"), "write:repository", "read:user")), `^FAIL +forge token +the token of .* may not write to `)
	f.write("nonsense", "nonsense")
	f.garrison(1, doctor(filepath.Join(f.dir, "nonsense")), `^FAIL +forge token +`)

	f.git("push", "--quiet", f.repo.Push, "main:release")
	f.garrison(0, doctor(write), `^WARNING +branch release +everybody who may write`)
	f.repo.Protect(t, "release", forgetest.Protection{Push: []string{f.gitea.User(t, "somebody")}})
	f.garrison(1, doctor(write), `^FAIL +branch release +it is protected, and the token's user may not push`, `→ in the branch's protection, let the release user push`)
	f.repo.API(t, http.MethodDelete, "/branch_protections/release", nil, nil)
	f.repo.Protect(t, "release", forgetest.Protection{Push: []string{f.repo.Owner}})
	f.garrison(0, doctor(write), `^ok +branch release +protected; releases may be pushed`)

	f.garrison(0, []string{"init"})
	f.git("add", "--all")
	f.garrison(0, doctor(write), `^ok +workflow +\.gitea/workflows/garrison\.yml is as this version writes it$`)
	f.garrison(0, doctor(write, "--runner", "other"), `^WARNING +workflow +.* is not as this version writes it`)

	// In a job, the token of its environment lets git in, too.
	for k, v := range map[string]string{"GITHUB_ACTIONS": "true", "GITEA_ACTIONS": "true", "GITHUB_EVENT_NAME": "push", "GITHUB_REF": "refs/heads/main", "GITHUB_SERVER_URL": f.gitea.URL, "GITHUB_API_URL": f.gitea.URL + "/api/v1",
		"GITHUB_REPOSITORY": f.repo.Full(), "GITHUB_TOKEN": f.gitea.Token(t, f.repo.Owner, "write:repository", "read:user")} {
		t.Setenv(k, v)
	}
	f.garrison(0, doctor(""), `^ok +push +.* would take a push$`, `^ok +forge token +`)
	// Where nothing was checked out, the repository is fetched, and nothing of that stays.
	f.git("add", "--all")
	f.git("commit", "--quiet", "--message", "Garrison")
	f.git("push", "--quiet", f.repo.Push, "main")
	here := f.dir
	f.dir = t.TempDir()
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("GITHUB_TOKEN", f.gitea.Token(t, f.repo.Owner, "write:repository", "read:user"))
	f.garrison(0, doctor(""), `^ok +flake +2 hosts`, `^ok +push +.* would take a push$`, `^ok +workflow +\.gitea/`)
	for _, dir := range []string{f.dir, os.Getenv("TMPDIR")} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("it leaves %v, %v", left, err)
		}
	}
	f.dir = here
	t.Setenv("GITHUB_TOKEN", f.gitea.Token(t, f.repo.Owner, "read:repository", "read:user"))
	f.garrison(1, doctor(""), `^FAIL +push +`, `^FAIL +forge token +`)

	f.gitea.Stop(t)
	f.garrison(1, doctor(""), `^FAIL +forge token +`, `^FAIL +remote +`, `^FAIL +push +`, `^WARNING +clock +`)
}
