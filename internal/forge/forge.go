// Package forge speaks with the place where a fleet's repository lives: Gitea and Forgejo, GitHub, GitLab.
//
// It tells people there how far a change is (commit statuses, one comment a pull request, pull requests of its own), reads what webhooks
// say, and looks at what a token may do and how branches are protected. What a forge says is a hint to look at git, never the truth.
// Errors are fleet.Errors: Transient when the forge is down, unauthorized with the scope that is missing when it refuses.
// A token goes to the forge that it is for, and into nothing that is shown.
//
// Start at Open, ReadHook and Stages.
package forge

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/garrison-nix/garrison/internal/fleet"
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
	Repo  string                 // owner/name; at GitLab perhaps group/subgroup/name
	Token func() (string, error) // nil for none; asked for each request, so that one that was changed is used
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
	URL     string `json:"url"`  // of more about it; "" for none. One that is too long for the forge is left out
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
	User          string    // whose token it is; "" where the token may not know that
	Scopes        []string  // what the token is for; nil where the forge does not say
	Expires       time.Time // zero: never, or not said
	Read          bool      // of the repository's code
	Write         bool      // by git
	Admin         bool      // its settings: how branches are protected, webhooks
	DefaultBranch string
	Private       bool
}

// Protection is how a branch is protected, for whom the token belongs to.
type Protection struct {
	Protected  bool
	MayPush    bool     // whether the token's user may push to it by git
	MayForce   bool     // whether that may be anything but a fast-forward; false where the forge does not say
	NeedsPull  bool     // changes come by pull requests only, as far as the token may know
	StatusList []string // contexts that must be a success before a merge
}

// Forge is one repository at a forge. It may be used by several goroutines.
//
// Errors are fleet.Errors: Transient with CodeForge when the forge cannot be reached or fails, after a few attempts; CodeUnauthorized when it wants a token,
// refuses this one, or the token lacks a scope, which What or Hint name; CodeNotFound when there is no such repository, commit, branch or pull request, or the token may not see it;
// CodeForge when it refuses what was asked. Or the context's own.
type Forge interface {
	// SetStatus makes or replaces the status of that context. GitLab knows no Error: it becomes a Failure there.
	SetStatus(ctx context.Context, commit string, s Status) error
	// Statuses are the newest of each context.
	Statuses(ctx context.Context, commit string) ([]Status, error)
	// Comment writes body under a pull request: in place of the comment that has marker in it, which is a line that readers do not see, else as a new one.
	Comment(ctx context.Context, pull int, marker, body string) error
	// Propose opens a pull request from Head to Base, or brings the open one up to date.
	Propose(ctx context.Context, p Proposal) (Pull, error)
	// Access is what the token may do with the repository.
	Access(ctx context.Context) (Access, error)
	// Protection is how a branch, which is there, is protected.
	Protection(ctx context.Context, branch string) (Protection, error)
	// CommitURL is the page of a commit.
	CommitURL(commit string) string
}

// Open checks the configuration; it makes no request. Its errors have fleet.CodeConfig.
func Open(c Config) (Forge, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return nil, badConfig("the forge's URL is none of http or https") // it is not shown: it may hold a password
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, badConfig("the forge's URL has more than a server and a folder in it").WithHint("a token is given as such, never in the URL")
	case !repoName(c.Repo, c.Kind):
		return nil, badConfig("%q is no repository's owner/name", c.Repo)
	}
	c.URL = strings.TrimRight(c.URL, "/")
	r, err := newREST(c)
	if err != nil {
		return nil, err
	}
	switch c.Kind {
	case Gitea:
		return &giteaForge{shared{r}}, nil
	case GitHub:
		return &gitHubForge{shared{r}}, nil
	case GitLab:
		return &gitLabForge{r}, nil
	}
	return nil, badConfig("%q is no kind of forge that is known", c.Kind).WithHint("one of %s, %s, %s", Gitea, GitHub, GitLab)
}

func badConfig(format string, args ...any) *fleet.Error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, format, args...)
}

// repoName says whether name is of a repository: two parts, at GitLab two or more.
func repoName(name string, k Kind) bool {
	parts := strings.Split(name, "/")
	if len(parts) < 2 || len(parts) > 2 && k != GitLab || len(name) > maxRepoName {
		return false
	}
	return !slices.ContainsFunc(parts, func(p string) bool { return p == "" || p == "." || p == ".." }) &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`?#%\:@`, r)
		})
}

// maxRepoName bounds a repository's name, in bytes.
const maxRepoName = 512
