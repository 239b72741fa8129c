package ci_test

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

const sha, sha2 = "1111111111111111111111111111111111111111", "2222222222222222222222222222222222222222"

// actions is the environment that a runner makes, in a repository at forge.example.org, and more.
func actions(more ...string) map[string]string {
	env := map[string]string{"GITHUB_ACTIONS": "true", "GITHUB_SERVER_URL": "https://forge.example.org/", "GITHUB_API_URL": "https://forge.example.org/api/v1",
		"GITHUB_REPOSITORY": "ops/fleet", "GITHUB_RUN_ID": "412", "GITHUB_RUN_NUMBER": "7", "GITHUB_SHA": sha, "GITHUB_REF": "refs/heads/main"}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

func read(env map[string]string, payload string) (ci.Event, bool, error) {
	return ci.Read(func(k string) string { return env[k] }, func(path string) (io.ReadCloser, error) {
		if path != "/event.json" {
			return nil, os.ErrNotExist
		}
		return io.NopCloser(strings.NewReader(payload)), nil
	})
}

// What happened, and what there is to do about it, in every forge's own words.
func TestEventToTask(t *testing.T) {
	with := func(event string, more ...string) map[string]string {
		return actions(append([]string{"GITHUB_EVENT_NAME", event, "GITHUB_EVENT_PATH", "/event.json"}, more...)...)
	}
	lab := func(more ...string) map[string]string {
		env := map[string]string{"GITLAB_CI": "true", "CI_COMMIT_SHA": sha, "CI_SERVER_URL": "https://lab.example.org", "CI_API_V4_URL": "https://lab.example.org/api/v4", "CI_PROJECT_PATH": "ops/fleet"}
		for i := 0; i < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	for name, c := range map[string]struct {
		env     map[string]string
		payload string
		want    ci.Task
		ref     string
	}{
		"push to main":           {with("push"), `{"after": "` + sha + `"}`, ci.Task{Work: ci.Release}, "refs/heads/main"},
		"a test branch":          {with("push", "GITHUB_REF", "refs/heads/web-1.example.org-test"), `{}`, ci.Task{Work: ci.Test, Host: "web-1.example.org"}, ""},
		"by hand":                {with("workflow_dispatch"), `{}`, ci.Task{Work: ci.Release}, ""},
		"by hand, a test":        {with("workflow_dispatch", "GITHUB_REF", "refs/heads/joker-test"), `{}`, ci.Task{Work: ci.Test, Host: "joker"}, ""},
		"test branch gone":       {with("delete"), `{"ref": "joker-test", "ref_type": "branch"}`, ci.Task{Work: ci.Tidy}, "refs/heads/joker-test"},
		"gone, in full":          {with("delete"), `{"ref": "refs/heads/joker-test", "ref_type": "branch"}`, ci.Task{Work: ci.Tidy}, "refs/heads/joker-test"},
		"gone by push":           {with("push", "GITHUB_REF", "refs/heads/joker-test"), `{"after": "0000000000000000000000000000000000000000"}`, ci.Task{Work: ci.Tidy}, ""},
		"tag gone":               {with("delete"), `{"ref": "joker-test", "ref_type": "tag"}`, ci.Task{Work: ci.Nothing, Why: "refs/tags/joker-test is no branch"}, ""},
		"main gone":              {with("delete"), `{"ref": "main", "ref_type": "branch"}`, ci.Task{Work: ci.Nothing, Why: "main was deleted; what was released stays"}, ""},
		"a tag":                  {with("push", "GITHUB_REF", "refs/tags/v1"), `{}`, ci.Task{Work: ci.Nothing, Why: "refs/tags/v1 is no branch"}, ""},
		"the release":            {with("push", "GITHUB_REF", "refs/heads/release"), `{}`, ci.Task{Work: ci.Nothing, Why: "release is written by garrison itself"}, ""},
		"a test's release":       {with("push", "GITHUB_REF", "refs/heads/release-joker-test"), `{}`, ci.Task{Work: ci.Nothing, Why: "release-joker-test is written by garrison itself"}, ""},
		"the update":             {with("push", "GITHUB_REF", "refs/heads/garrison/update"), `{}`, ci.Task{Work: ci.Nothing, Why: "garrison/update is written by garrison itself"}, ""},
		"something else":         {with("push", "GITHUB_REF", "refs/heads/feature"), `{}`, ci.Task{Work: ci.Nothing, Why: "feature is neither main nor a host's test branch"}, ""},
		"no host's name":         {with("push", "GITHUB_REF", "refs/heads/-test"), `{}`, ci.Task{Work: ci.Nothing, Why: "-test is neither main nor a host's test branch"}, ""},
		"not even a name":        {with("push", "GITHUB_REF", "refs/heads/a/b-test"), `{}`, ci.Task{Work: ci.Nothing, Why: "a/b-test is neither main nor a host's test branch"}, ""},
		"a schedule":             {with("schedule"), `{}`, ci.Task{Work: ci.Update}, ""},
		"a pull request":         {with("pull_request", "GITHUB_REF", "refs/pull/3/merge", "GITHUB_BASE_REF", "main"), `{"action": "opened", "number": 3, "pull_request": {"head": {"sha": "` + sha2 + `"}, "base": {"ref": "main"}}}`, ci.Task{Work: ci.Plan}, ""},
		"for another branch":     {with("pull_request", "GITHUB_REF", "refs/pull/3/head"), `{"number": 3, "pull_request": {"base": {"ref": "stable"}}}`, ci.Task{Work: ci.Nothing, Why: "the pull request is for stable, and releases are made of main"}, ""},
		"a pull request closed":  {with("pull_request"), `{"action": "closed", "number": 3}`, ci.Task{Work: ci.Nothing, Why: `"pull request closed" asks for nothing`}, ""},
		"with secrets":           {with("pull_request_target"), `{"number": 3}`, ci.Task{Work: ci.Nothing, Why: "pull_request_target would give a stranger's change the secrets of this repository: use pull_request"}, ""},
		"a comment":              {with("issue_comment"), `{}`, ci.Task{Work: ci.Nothing, Why: `"issue_comment" asks for nothing`}, ""},
		"GitLab: push":           {lab("CI_PIPELINE_SOURCE", "push", "CI_COMMIT_BRANCH", "main"), "", ci.Task{Work: ci.Release}, "refs/heads/main"},
		"GitLab: tag":            {lab("CI_PIPELINE_SOURCE", "push", "CI_COMMIT_TAG", "v1"), "", ci.Task{Work: ci.Nothing, Why: "refs/tags/v1 is no branch"}, ""},
		"GitLab: merge request":  {lab("CI_PIPELINE_SOURCE", "merge_request_event", "CI_MERGE_REQUEST_IID", "4", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main"), "", ci.Task{Work: ci.Plan}, "refs/merge-requests/4/head"},
		"GitLab: merged results": {lab("CI_PIPELINE_SOURCE", "merge_request_event", "CI_MERGE_REQUEST_IID", "4", "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", sha2), "", ci.Task{Work: ci.Plan}, "refs/merge-requests/4/merge"},
		"GitLab: schedule":       {lab("CI_PIPELINE_SOURCE", "schedule", "CI_COMMIT_BRANCH", "main"), "", ci.Task{Work: ci.Update}, ""},
		"GitLab: by hand":        {lab("CI_PIPELINE_SOURCE", "web", "CI_COMMIT_BRANCH", "joker-test"), "", ci.Task{Work: ci.Test, Host: "joker"}, ""},
		"GitLab: another":        {lab("CI_PIPELINE_SOURCE", "pipeline", "CI_COMMIT_BRANCH", "main"), "", ci.Task{Work: ci.Nothing, Why: `"pipeline" asks for nothing`}, ""},
	} {
		e, inCI, err := read(c.env, c.payload)
		if err != nil || !inCI {
			t.Errorf("%s: %v, in CI %v", name, err, inCI)
			continue
		}
		if got := ci.Decide(e, "main", "release"); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		if c.ref != "" && e.Ref != c.ref {
			t.Errorf("%s: the ref is %s", name, e.Ref)
		}
	}
}

func TestWhere(t *testing.T) {
	pull := `{"number": 3, "pull_request": {"head": {"sha": "` + sha2 + `"}, "base": {"ref": "main"}}}`
	for name, c := range map[string]struct {
		own  []string
		kind forge.Kind
		run  string
	}{
		"GitHub":  {nil, forge.GitHub, "412"},
		"Gitea":   {[]string{"GITEA_ACTIONS", "true"}, forge.Gitea, "412"},
		"Forgejo": {[]string{"FORGEJO_ACTIONS", "true", "FORGEJO_REPOSITORY", "ops/fleet"}, forge.Gitea, "7"},
	} {
		e, _, err := read(actions(append(c.own, "GITHUB_EVENT_NAME", "pull_request", "GITHUB_EVENT_PATH", "/event.json")...), pull)
		if err != nil {
			t.Fatal(err)
		}
		want := ci.Event{Kind: ci.Pull, Ref: "refs/heads/main", Commit: sha, Pull: 3, Head: sha2, Base: "main", InActions: true,
			Forge:  ci.Forge{Kind: c.kind, URL: "https://forge.example.org", API: "https://forge.example.org/api/v1", Repo: "ops/fleet"},
			RunURL: "https://forge.example.org/ops/fleet/actions/runs/" + c.run}
		if e != want {
			t.Errorf("%s: %+v\nwant %+v", name, e, want)
		}
	}
	e, _, _ := read(map[string]string{"GITLAB_CI": "true", "CI_SERVER_URL": "https://lab.example.org", "CI_PROJECT_PATH": "a/b/c", "CI_JOB_URL": "https://lab.example.org/j/1"}, "")
	if e.Forge.CloneURL() != "https://lab.example.org/a/b/c.git" || e.Forge.Kind != forge.GitLab || e.RunURL != "https://lab.example.org/j/1" || e.InActions {
		t.Errorf("GitLab: %+v", e)
	}
	if _, inCI, err := read(map[string]string{"CI": "true"}, ""); inCI || err != nil {
		t.Error("outside of any CI it is taken for one")
	}
}

// What cannot be understood is an error, and no reason to do something else.
func TestUnreadable(t *testing.T) {
	for name, c := range map[string]struct {
		event, path, payload string
	}{
		"no JSON":          {"push", "/event.json", "<html>"},
		"no file":          {"push", "/gone.json", ""},
		"nothing deleted":  {"delete", "/event.json", `{}`},
		"no pull request":  {"pull_request", "/event.json", `{"pull_request": {}}`},
		"a negative pull":  {"pull_request", "/event.json", `{"number": -3}`},
		"a number in text": {"pull_request", "/event.json", `{"number": "3"}`},
	} {
		_, _, err := read(actions("GITHUB_EVENT_NAME", c.event, "GITHUB_EVENT_PATH", c.path), c.payload)
		if fleet.CodeOf(err) != fleet.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, event := range []string{"push", "delete", "pull_request"} {
		f.Add(event, `{"action": "opened", "number": 3, "ref": "x-test", "ref_type": "branch", "after": "00", "pull_request": {"number": 3, "head": {"sha": "1"}, "base": {"ref": "main"}}}`)
	}
	f.Fuzz(func(t *testing.T, event, payload string) {
		e, _, err := read(actions("GITHUB_EVENT_NAME", event, "GITHUB_EVENT_PATH", "/event.json"), payload)
		task := ci.Decide(e, "main", "release")
		switch {
		case err == nil && e.Kind == ci.Pull && e.Pull < 1:
			t.Error("a pull request without a number")
		case task.Work == ci.Test && !fleet.ValidHostName(task.Host):
			t.Errorf("%q is taken for a host", task.Host)
		case task.Work == ci.Release && ci.Kind(event) != ci.Push && ci.Kind(event) != ci.Manual:
			t.Errorf("%s releases", event)
		}
	})
}

// The workflow is YAML that says what it must, and the secrets stand in no job that runs what a stranger wrote.
func TestWorkflow(t *testing.T) {
	type job struct {
		If          string            `yaml:"if"`
		RunsOn      string            `yaml:"runs-on"`
		Permissions map[string]string `yaml:"permissions"`
		Env         map[string]string `yaml:"env"`
		Concurrency struct {
			Group  string `yaml:"group"`
			Cancel bool   `yaml:"cancel-in-progress"`
		} `yaml:"concurrency"`
		Steps []map[string]string `yaml:"steps"`
	}
	var w struct {
		On struct {
			Push struct {
				Branches []string `yaml:"branches"`
			} `yaml:"push"`
			Pull struct {
				Branches []string `yaml:"branches"`
			} `yaml:"pull_request"`
			Schedule []map[string]string `yaml:"schedule"`
		} `yaml:"on"`
		Jobs map[string]job `yaml:"jobs"`
	}
	text := ci.Workflow(ci.WorkflowOptions{Source: "trunk", Runner: "self-hosted", Update: "1 2 3 4 5"})
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(w.On.Push.Branches, []string{"trunk", "*-test", "!release-*"}) || !slices.Equal(w.On.Pull.Branches, []string{"trunk"}) || w.On.Schedule[0]["cron"] != "1 2 3 4 5" {
		t.Errorf("it is called for %+v", w.On)
	}
	if !strings.Contains(text, "\npermissions: {}\n") || strings.Contains(text, " uses:") || strings.ContainsAny(strings.ReplaceAll(text, "'", ""), "<>") {
		t.Errorf("the text is not as it should be:\n%s", text)
	}
	for name, j := range w.Jobs {
		identity, key := j.Env["GARRISON_IDENTITY"] != "", j.Env["GARRISON_KEY"] != ""
		if identity != (name == "release") || key != identity || j.RunsOn != "self-hosted" || j.Concurrency.Cancel != (name == "plan") || len(j.Steps) != 1 || j.Steps[0]["run"] != "garrison ci" {
			t.Errorf("job %s: %+v", name, j)
		}
	}
	for k, v := range w.Jobs["plan"].Env {
		if strings.Contains(v, "secrets.") {
			t.Errorf("%s is in the job that runs what a stranger wrote", k)
		}
	}
	if len(w.Jobs) != 3 || w.Jobs["plan"].Permissions["contents"] != "read" || w.Jobs["release"].Permissions["pull-requests"] != "" {
		t.Errorf("jobs: %+v", w.Jobs)
	}
	if usual := ci.Workflow(ci.WorkflowOptions{}); !strings.Contains(usual, `["main", "*-test"`) || !strings.Contains(usual, "runs-on: nixos") {
		t.Errorf("the usual workflow is\n%s", usual)
	}
}

var errOpen = errors.New("it was opened")

// A run that needs no description of its event opens none.
func TestNothingIsOpened(t *testing.T) {
	env := actions("GITHUB_EVENT_NAME", "push")
	_, _, err := ci.Read(func(k string) string { return env[k] }, func(string) (io.ReadCloser, error) { return nil, errOpen })
	if err != nil {
		t.Error(err)
	}
}
