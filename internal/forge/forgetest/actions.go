package forgetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Runner registers and runs a runner of Actions, which takes jobs of that repository, or of all with none, whose runs-on is "nixos". Jobs run on
// this machine, in a folder of the runner's, with env and nothing else of the tests' environment but PATH; env may
// change that, too. It ends with the test, with all that its jobs started.
func (g *Gitea) Runner(t testing.TB, of *Repo, env ...string) {
	t.Helper()
	dir, err := os.MkdirTemp(g.dir, "runner-")
	must(t, err)
	config := filepath.Join(dir, "config.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, `log: {level: warn}
runner:
  file: %[1]s/.runner
  capacity: 2
  fetch_interval: 100ms
  fetch_interval_max: 100ms
  log_report_interval: 1s
  log_report_max_latency: 200ms
  state_report_interval: 1s
  labels: ["nixos:host"]
cache: {enabled: false}
host: {workdir_parent: %[1]s/work}
`, dir), 0o600))
	path := "/admin/actions/runners/registration-token"
	if of != nil {
		path = "/repos/" + of.Full() + "/actions/runners/registration-token"
	}
	var registration struct{ Token string }
	g.API(t, http.MethodPost, path, nil, &registration)
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(filepath.Join(g.programs, "runner"), append(args, "--config", config)...)
		cmd.Dir = dir
		cmd.Env = append([]string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + os.TempDir(), "LANG=C.UTF-8"}, env...)
		return cmd
	}
	if out, err := command("register", "--no-interactive", "--instance", g.URL, "--token", registration.Token, "--name", filepath.Base(dir)).CombinedOutput(); err != nil {
		t.Fatalf("the runner does not register: %v: %s", err, out)
	}
	daemon := command("daemon")
	daemon.Args = append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", "mount -t proc proc /proc && exec \"$@\"", "sh", daemon.Path}, daemon.Args[1:]...)
	daemon.Path, err = exec.LookPath("unshare")
	must(t, err)
	r, err := run(daemon, func(context.Context) error { return nil })
	must(t, err)
	t.Cleanup(func() { r.stop(syscall.SIGKILL) })
	g.runners = append(g.runners, r)
}

// Secret sets a secret of the repository's Actions.
func (r *Repo) Secret(t testing.TB, name, value string) {
	t.Helper()
	r.API(t, http.MethodPut, "/actions/secrets/"+name, map[string]string{"data": value}, nil)
}

// Variable sets a variable of the repository's Actions.
func (r *Repo) Variable(t testing.TB, name, value string) {
	t.Helper()
	r.API(t, http.MethodPost, "/actions/variables/"+name, map[string]string{"value": value}, nil)
}

// Run is a run of a workflow.
type Run struct {
	ID         int64  `json:"id"`
	Event      string `json:"event"` // "push", "pull_request", "schedule", "workflow_dispatch"
	Branch     string `json:"head_branch"`
	Commit     string `json:"head_sha"`
	Status     string `json:"status"`     // "queued", "in_progress", "completed"
	Conclusion string `json:"conclusion"` // "success", "failure", "cancelled", "skipped"
	URL        string `json:"html_url"`
}

// Runs are the repository's runs, the newest first.
func (r *Repo) Runs(t testing.TB) []Run {
	t.Helper()
	var page struct {
		Runs []Run `json:"workflow_runs"`
	}
	r.API(t, http.MethodGet, "/actions/runs?limit=50", nil, &page)
	return page.Runs
}

// AwaitRun waits until the run of that event for a commit has ended, and returns it.
func (r *Repo) AwaitRun(t testing.TB, event, commit string) Run {
	t.Helper()
	var found Run
	await(t, "a run of "+event+" for "+commit+" ends", func() bool {
		for _, run := range r.Runs(t) {
			if run.Event == event && run.Commit == commit {
				found = run
				return run.Status == "completed"
			}
		}
		return false
	})
	return found
}

// Log is what the jobs of a run say.
func (r *Repo) Log(t testing.TB, run Run) string {
	t.Helper()
	var page struct {
		Jobs []struct {
			ID   int64
			Name string
		}
	}
	r.API(t, http.MethodGet, fmt.Sprintf("/actions/runs/%d/jobs", run.ID), nil, &page)
	var all strings.Builder
	for _, job := range page.Jobs {
		var text string
		r.API(t, http.MethodGet, fmt.Sprintf("/actions/jobs/%d/logs", job.ID), nil, &text)
		fmt.Fprintf(&all, "== %s\n%s", job.Name, text)
	}
	return all.String()
}

// Status is a commit status, the newest of its context.
type Status struct {
	Context     string `json:"context"`
	State       string `json:"status"`
	Description string `json:"description"`
	URL         string `json:"target_url"`
}

// Statuses are those of a commit, by context.
func (r *Repo) Statuses(t testing.TB, commit string) map[string]Status {
	t.Helper()
	var combined struct{ Statuses []Status }
	r.API(t, http.MethodGet, "/commits/"+commit+"/status?limit=50", nil, &combined)
	all := map[string]Status{}
	for _, s := range combined.Statuses {
		all[s.Context] = s
	}
	return all
}

// Comments are what was written under a pull request, in order.
func (r *Repo) Comments(t testing.TB, pull int) []string {
	t.Helper()
	var page []struct{ Body string }
	r.API(t, http.MethodGet, fmt.Sprintf("/issues/%d/comments", pull), nil, &page)
	var all []string
	for _, c := range page {
		all = append(all, c.Body)
	}
	return all
}

// Refs are what the repository's branches and tags point at.
func (r *Repo) Refs(t testing.TB) map[string]string {
	t.Helper()
	out, err := exec.Command("git", "ls-remote", r.Push).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("git ls-remote: %v: %s", err, exit.Stderr)
	}
	must(t, err)
	refs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if commit, name, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok && strings.HasPrefix(name, "refs/") && !strings.HasPrefix(name, "refs/pull/") {
			refs[name] = commit
		}
	}
	return refs
}
