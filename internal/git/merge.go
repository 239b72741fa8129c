package git

import (
	"context"
	"strings"

	"github.com/garrison-nix/garrison/internal/proc"
)

// Merge is a commit, which nothing leads to, of what merging theirs into ours gives; ours or theirs itself where that is all. clean is false, and there is no
// commit, when somebody would have to resolve conflicts, or git is older than 2.38.
func (r *Repo) Merge(ctx context.Context, ours, theirs string) (commit string, clean bool, err error) {
	for _, pair := range [][2]string{{ours, theirs}, {theirs, ours}} {
		within, err := r.IsAncestor(ctx, pair[0], pair[1])
		if err != nil || within {
			return pair[1], within, err
		}
	}
	out, err := r.run(ctx, call{args: []string{"merge-tree", "--write-tree", "--no-messages", ours, theirs}})
	if code, ran := proc.ExitCode(err); ran && (code == 1 || code == 129) { // conflicts, or an option that it does not know
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	info, err := r.CommitInfo(ctx, theirs)
	if err != nil {
		return "", false, err
	}
	commit, err = r.WriteCommit(ctx, Commit{Tree: strings.TrimSpace(out), Parents: []string{ours, theirs}, Message: info.Subject + "\n", When: info.When})
	return commit, err == nil, err
}
