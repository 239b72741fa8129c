package nix

import (
	"context"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// UpdateLock has the flake in a folder, which is no repository, lock the newest of all its inputs: it writes flake.lock. Errors: CodeEvaluate, with Nix's words;
// transient when an input cannot be fetched.
func (n *Nix) UpdateLock(ctx context.Context, dir string) error {
	args := []string{"flake", "update", "--flake", "path:" + dir}
	if n.older([2]int{2, 19}) { // what was an argument is an option since
		args = []string{"flake", "update", "path:" + dir}
	}
	_, err := n.run(ctx, "nix", args...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fleet.Errorf(classOf(err, fleet.Bad), fleet.CodeEvaluate, "the flake's inputs cannot be updated: %s", Message(err, maxEvalMessage))
}
