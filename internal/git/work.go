package git

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// WorkTree is a commit of what stands in dir's work tree now: HEAD, or, when tracked files were changed,
// a commit of them that no branch leads to. Files that git does not track are not in it, as Nix does not see them either.
func WorkTree(ctx context.Context, dir string) (commit string, dirty bool, err error) {
	run := func(args ...string) (string, error) {
		out, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: append([]string{"-C", dir}, args...),
			Env: append(env(), "GIT_AUTHOR_NAME=Garrison", "GIT_AUTHOR_EMAIL=garrison@localhost", "GIT_COMMITTER_NAME=Garrison", "GIT_COMMITTER_EMAIL=garrison@localhost")})
		return strings.TrimSpace(string(out)), err
	}
	if bare, err := run("rev-parse", "--is-bare-repository"); err == nil && bare != "true" {
		dirty = true // perhaps
	}
	if commit, err = run("rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err != nil {
		return "", false, fleet.Errorf(fleet.Bad, fleet.CodeNotFound, "%s has no commit yet", dir).WithHint("commit something first").WithCause(err)
	}
	if !dirty {
		return commit, false, nil
	}
	changed, err := run("stash", "create") // it writes a commit, and says nothing when nothing was changed
	if _, ran := proc.ExitCode(err); ran { // what was changed must not be passed over
		return "", false, fleet.Errorf(fleet.Local, fleet.CodeGit, "the work tree of %s cannot be taken as it stands", dir).
			WithHint("resolve conflicts, and see that there is space left: git stash create says what is wrong").WithCause(err)
	}
	if err != nil || changed == "" {
		return commit, false, err
	}
	return changed, true, nil
}

// Head is the ref that is checked out in dir's repository ("" for none), and its commit ("" before the first).
func Head(ctx context.Context, dir string) (ref, commit string, err error) {
	r, err := Open(ctx, dir)
	if err != nil {
		return "", "", err
	}
	at := call{args: []string{"-C", dir, "symbolic-ref", "--quiet", "HEAD"}}
	out, err := r.git(ctx, at)
	if code, ok := proc.ExitCode(err); ok && code == 1 { // a commit is checked out, and no branch
		out, err = "", nil
	}
	if err != nil {
		return "", "", err
	}
	at.args = []string{"-C", dir, "rev-parse", "--verify", "--quiet", "HEAD^{commit}"}
	id, err := r.git(ctx, at)
	if code, ok := proc.ExitCode(err); ok && code == 1 {
		id, err = "", nil
	}
	return strings.TrimSpace(out), strings.TrimSpace(id), err
}

// TopLevel is the folder of the work tree that dir is in.
func TopLevel(ctx context.Context, dir string) (string, error) {
	out, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: []string{"-C", dir, "rev-parse", "--show-toplevel"}, Env: env()})
	if _, ran := proc.ExitCode(err); ran {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeGit, "%s is not in a work tree of git", dir).WithHint("run it inside the fleet's repository, or name it with --repo").WithCause(err)
	}
	return strings.TrimSuffix(string(out), "\n"), err
}

// Export writes the files of a commit into dir, without any of git's own.
func (r *Repo) Export(ctx context.Context, commit, dir string) error {
	index, done, err := r.tempIndex(ctx, commit)
	if err != nil {
		return err
	}
	defer done()
	_, err = r.run(ctx, call{args: []string{"--work-tree", dir, "checkout-index", "--all", "--prefix=" + filepath.Clean(dir) + "/"}, env: index})
	return err
}
