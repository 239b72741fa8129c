// Package forge speaks with the place where a fleet's repository lives: Gitea and Forgejo, GitHub, GitLab.
//
// It tells people there how far a change is (commit statuses, one comment a pull request, pull requests of its own), reads what webhooks
// say, and looks at what a token may do and how branches are protected. What a forge says is a hint to look at git, never the truth.
// Errors are fleet.Errors: Transient when the forge is down, unauthorized with the scope that is missing when it refuses.
// Start at Open and ReadHook.
package forge

import (
	"context"
	"net/http"
	"time"
)

// Kind is a dialect of a forge's API.
type Kind string

const (
	Gitea  Kind = "gitea" // Forgejo too
	GitHub Kind = "github"
	GitLab Kind = "gitlab"
)

// Config says which repository, where.
type Config struct {
	Kind  Kind
	URL   string                 // where its pages are, without the repository: https://git.example.org
	API   string                 // where its API is; "" for what Kind has below URL
	Repo  string                 // owner/name
	Token func() (string, error) // nil for none
	HTTP  *http.Client           // nil for one with time limits
}

// State of a Status, as all three forges have it.
type State string

const (
	Pending State = "pending"
	Success State = "success"
	Failure State = "failure" // the change's fault
	Error   State = "error"   // the system's
)

// Status is what is known of a commit under one name.
type Status struct {
	Context string `json:"context"` // "garrison/evaluate"
	State   State  `json:"state"`
	Text    string `json:"text"` // one line; cut to what the forge takes
	URL     string `json:"url"`  // of more about it; "" for none
}

// Proposal is a pull request that Garrison makes.
type Proposal struct {
	Head, Base  string // branches
	Title, Body string
}

// Pull is a pull request.
type Pull struct {
	Number int    `json:"number"`
	URL    string `json:"url"`
}

// Access is what the forge says of the token and the repository.
type Access struct {
	User          string    // whose token it is
	Scopes        []string  // what the token is for; nil where the forge does not say
	Expires       time.Time // zero: never, or not said
	Read          bool      // of the repository's code
	Write         bool
	Admin         bool
	DefaultBranch string
	Private       bool
}

// Protection is how a branch is protected, for whom the token belongs to.
type Protection struct {
	Protected  bool
	MayPush    bool // whether the token's user may push to it by git
	MayForce   bool
	NeedsPull  bool // changes come by pull requests only
	StatusList []string
}

// Forge is one repository at a forge.
type Forge interface {
	// SetStatus makes or replaces the status of that context.
	SetStatus(ctx context.Context, commit string, s Status) error
	// Statuses are the newest of each context.
	Statuses(ctx context.Context, commit string) ([]Status, error)
	// Comment writes body under a pull request: in place of the comment that has marker in it, which is a line that readers do not see, else as a new one.
	Comment(ctx context.Context, pull int, marker, body string) error
	// Propose opens a pull request from Head to Base, or brings the open one up to date.
	Propose(ctx context.Context, p Proposal) (Pull, error)
	// Access is what the token may do with the repository.
	Access(ctx context.Context) (Access, error)
	// Protection is how a branch is protected.
	Protection(ctx context.Context, branch string) (Protection, error)
	// CommitURL is the page of a commit, RunURL that of a run of Actions ("" if unknown).
	CommitURL(commit string) string
}

// Hook is a delivery of a webhook, verified.
type Hook struct {
	Kind     Kind
	Delivery string // its id, the same when it is sent again
	Event    string // "push", "create", "delete", "pull_request", "ping", or another word of the forge's
	Repo     string // owner/name
	Ref      string // refs/heads/main; "" for what is about no ref
	Commit   string // the ref's new tip; "" when it was deleted or is not said
}
