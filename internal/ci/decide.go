package ci

import (
	"fmt"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Work is what there is to do.
type Work string

// The kinds of work.
const (
	Release Work = "release" // check the source branch's tip, then release it
	Test    Work = "test"    // release a host's test branch, for that host alone
	Tidy    Work = "tidy"    // take away the test releases whose branches are gone
	Plan    Work = "plan"    // check a pull request, and say what it would change; without a secret
	Update  Work = "update"  // propose newer inputs of the flake
	Nothing Work = "nothing"
)

// Task is what there is to do about an event.
type Task struct {
	Work Work   `json:"work"`
	Host string `json:"host,omitempty"` // of Test
	Why  string `json:"why,omitempty"`  // there is nothing to do
}

// UpdateBranch is where newer inputs of the flake are proposed.
const UpdateBranch = "garrison/update"

const (
	heads      = "refs/heads/"
	testSuffix = "-test"
)

// Decide says what there is to do, in a repository with these source and release branches.
func Decide(e Event, source, release string) Task {
	nothing := func(format string, args ...any) Task {
		return Task{Work: Nothing, Why: fmt.Sprintf(format, args...)}
	}
	switch e.Kind {
	case Pull:
		if e.Base != "" && e.Base != source {
			return nothing("the pull request is for %s, and releases are made of %s", e.Base, source)
		}
		return Task{Work: Plan}
	case Schedule:
		return Task{Work: Update}
	case Push, Delete, Manual:
	case "pull_request_target":
		return nothing("pull_request_target would give a stranger's change the secrets of this repository: use pull_request")
	default:
		return nothing("%q asks for nothing", e.Kind)
	}
	branch, isBranch := strings.CutPrefix(e.Ref, heads)
	switch {
	case !isBranch:
		return nothing("%s is no branch", e.Ref)
	case branch == source && e.Kind == Delete:
		return nothing("%s was deleted; what was released stays", branch)
	case branch == source:
		return Task{Work: Release}
	case branch == release || branch == UpdateBranch || strings.HasPrefix(branch, fleet.TagPrefix):
		return nothing("%s is written by garrison itself", branch)
	}
	host, isTest := strings.CutSuffix(branch, testSuffix)
	switch {
	case !isTest || !fleet.ValidHostName(host):
		return nothing("%s is neither %s nor a host's test branch", branch, source)
	case e.Kind == Delete:
		return Task{Work: Tidy}
	}
	return Task{Work: Test, Host: host}
}
