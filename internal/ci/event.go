// Package ci says what there is to do in a run of CI: Read finds out what happened from the environment of Actions (Gitea's,
// Forgejo's, GitHub's) or of GitLab CI, Decide what follows from it, and Workflow is the text that has a forge call garrison ci.
//
// It reads nothing but what it is handed, and no secret: what happened may have been caused by a stranger. Start at Read.
package ci

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// Kind is what happened.
type Kind string

// The kinds, by the names that Actions has for them; --event takes them.
const (
	Push     Kind = "push"
	Pull     Kind = "pull_request"
	Delete   Kind = "delete"
	Schedule Kind = "schedule"
	Manual   Kind = "workflow_dispatch"
)

// Event is what happened, and where.
type Event struct {
	Kind   Kind   `json:"event"`
	Ref    string `json:"ref"`              // refs/heads/main; of a deletion, what is gone
	Commit string `json:"commit,omitempty"` // what Ref points at; "" if it is not said
	// Of a pull request: its number, the tip of its branch (Commit may be a merge of that), and the branch that it is for.
	Pull int    `json:"pull,omitempty"`
	Head string `json:"head,omitempty"`
	Base string `json:"base,omitempty"`

	InActions bool   `json:"-"` // workflow commands are understood
	Forge     Forge  `json:"-"` // zero outside of any CI
	RunURL    string `json:"-"` // the page with the run's log; "" if it is not known
}

// Forge is where the repository lives.
type Forge struct {
	Kind           forge.Kind
	URL, API, Repo string
}

// CloneURL is the repository's, by http(s).
func (f Forge) CloneURL() string { return f.URL + "/" + f.Repo + ".git" }

// maxPayload bounds the event's own description, in bytes.
const maxPayload = 32 << 20

// Read finds out what happened. open opens the file that describes the event. false: this is no run of CI.
// Errors have CodeInvalid.
func Read(getenv func(string) string, open func(string) (io.ReadCloser, error)) (Event, bool, error) {
	switch {
	case getenv("GITHUB_ACTIONS") == "true" || getenv("GITEA_ACTIONS") == "true" || getenv("FORGEJO_ACTIONS") == "true":
		e, err := readActions(getenv, open)
		return e, true, err
	case getenv("GITLAB_CI") == "true":
		e, err := readGitLab(getenv)
		return e, true, err
	}
	return Event{}, false, nil
}

// payload is what we read of an event's description.
type payload struct {
	Action  string `json:"action"`
	Number  int    `json:"number"`
	Ref     string `json:"ref"`
	RefType string `json:"ref_type"`
	After   string `json:"after"`
	Pull    *struct {
		Number int `json:"number"`
		Head   struct {
			SHA string `json:"sha"`
		} `json:"head"`
		Base struct {
			Ref string `json:"ref"`
		} `json:"base"`
	} `json:"pull_request"`
}

func readActions(getenv func(string) string, open func(string) (io.ReadCloser, error)) (Event, error) {
	// Every runner sets the names of GitHub's; Forgejo's and Gitea's own come first, should they differ.
	get := func(name string) string {
		for _, prefix := range []string{"FORGEJO_", "GITEA_", "GITHUB_"} {
			if v := getenv(prefix + name); v != "" {
				return v
			}
		}
		return ""
	}
	e := Event{Kind: Kind(get("EVENT_NAME")), Ref: get("REF"), Commit: get("SHA"), Base: get("BASE_REF"), InActions: true,
		Forge: Forge{Kind: forge.GitHub, URL: strings.TrimSuffix(get("SERVER_URL"), "/"), API: strings.TrimSuffix(get("API_URL"), "/"), Repo: get("REPOSITORY")}}
	run := get("RUN_ID")
	switch {
	case getenv("FORGEJO_ACTIONS") == "true":
		e.Forge.Kind, run = forge.Gitea, get("RUN_NUMBER") // its pages are numbered so
	case getenv("GITEA_ACTIONS") == "true":
		e.Forge.Kind = forge.Gitea
	}
	if e.Forge.URL != "" && e.Forge.Repo != "" && run != "" {
		e.RunURL = e.Forge.URL + "/" + e.Forge.Repo + "/actions/runs/" + run
	}
	var p payload
	if path := get("EVENT_PATH"); path != "" {
		f, err := open(path)
		if err != nil {
			return e, invalid("the description of the event cannot be opened", err)
		}
		defer f.Close()
		if err := json.NewDecoder(io.LimitReader(f, maxPayload)).Decode(&p); err != nil {
			return e, invalid("the description of the event cannot be read", err)
		}
	}
	return e, e.fill(p)
}

// fill adds what only the event's description says.
func (e *Event) fill(p payload) error {
	switch e.Kind {
	case Push:
		if strings.Trim(p.After, "0") == "" && p.After != "" { // a push that deletes
			e.Kind, e.Commit = Delete, ""
		}
	case Delete: // the run is for the default branch; what is gone stands in the description alone
		if p.Ref == "" {
			return invalid("the event does not say what was deleted", nil)
		}
		e.Ref, e.Commit = fullRef(p.RefType, p.Ref), ""
	case Pull:
		if p.Action == "closed" {
			e.Kind = Kind("pull request closed")
			return nil
		}
		e.Pull = p.Number
		if p.Pull != nil {
			if e.Pull == 0 {
				e.Pull = p.Pull.Number
			}
			e.Head = p.Pull.Head.SHA
			if e.Base == "" {
				e.Base = p.Pull.Base.Ref
			}
		}
		if e.Pull < 1 {
			return invalid("the event does not say which pull request it is about", nil)
		}
		if e.Head == "" {
			e.Head = e.Commit
		}
	}
	return nil
}

func fullRef(kind, name string) string {
	switch {
	case strings.HasPrefix(name, "refs/"):
		return name
	case kind == "tag":
		return "refs/tags/" + name
	}
	return "refs/heads/" + name
}

func readGitLab(getenv func(string) string) (Event, error) {
	e := Event{Commit: getenv("CI_COMMIT_SHA"), RunURL: getenv("CI_JOB_URL"),
		Forge: Forge{Kind: forge.GitLab, URL: strings.TrimSuffix(getenv("CI_SERVER_URL"), "/"), API: strings.TrimSuffix(getenv("CI_API_V4_URL"), "/"), Repo: getenv("CI_PROJECT_PATH")}}
	switch tag := getenv("CI_COMMIT_TAG"); {
	case tag != "":
		e.Ref = "refs/tags/" + tag
	case getenv("CI_COMMIT_BRANCH") != "":
		e.Ref = "refs/heads/" + getenv("CI_COMMIT_BRANCH")
	}
	switch source := getenv("CI_PIPELINE_SOURCE"); source {
	case "push":
		e.Kind = Push
	case "schedule":
		e.Kind = Schedule
	case "web", "api", "trigger":
		e.Kind = Manual
	case "merge_request_event":
		number, err := strconv.Atoi(getenv("CI_MERGE_REQUEST_IID"))
		if err != nil || number < 1 {
			return e, invalid("CI_MERGE_REQUEST_IID does not say which merge request it is about", err)
		}
		e.Kind, e.Pull, e.Base = Pull, number, getenv("CI_MERGE_REQUEST_TARGET_BRANCH_NAME")
		e.Ref = "refs/merge-requests/" + strconv.Itoa(number) + "/head"
		e.Head = e.Commit
		if sha := getenv("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA"); sha != "" { // in a pipeline for the merge's result
			e.Head, e.Ref = sha, "refs/merge-requests/"+strconv.Itoa(number)+"/merge"
		}
	default:
		e.Kind = Kind(source)
	}
	return e, nil
}

func invalid(what string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%s", what).
		WithHint("say it on the command line: --event and --ref").WithCause(err)
}
