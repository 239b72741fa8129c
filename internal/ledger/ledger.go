// Package ledger reads and moves the refs of a roll-out: the rings' branches, and the branch with the ledger.
package ledger

import (
	"context"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// Book is the roll-out of a fleet's repository, as a local repository sees and moves it.
type Book struct {
	Repo    *git.Repo
	Remote  git.Remote
	Release string // name of the branch with all releases
}

// Page is the roll-out at one time.
type Page struct {
	Ledger fleet.Ledger
	Tip    string            // of the roll-out's branch; "" when it is not there
	Rings  map[string]string // commits that rings' branches point at, by branch
	Newest string            // commit that the release branch points at
}

// Advance is a ring's branch that is to be moved.
type Advance struct {
	Branch   string
	From, To string // commits; From "": there was none
}

// Entry is one act: what is written to the ledger, and moved with it.
type Entry struct {
	By       string // name <mail>, of the commit
	Summary  string // its first line
	Reason   string
	Ledger   fleet.Ledger
	Advances []Advance
}

var _ = context.Background
