package git

import (
	"context"
	"regexp"
	"strings"

	"github.com/garrison-nix/garrison/internal/proc"
)

// Oldest is the first git that signs and verifies by SSH keys.
const Oldest = "2.34"

var gitVersion = regexp.MustCompile(`[0-9]+\.[0-9]+(\.[0-9]+)?`)

// Version is what git says that it is: "2.39.5". Errors: CodeMissingTool.
func Version(ctx context.Context) (string, error) {
	out, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: []string{"version"}, Env: env()})
	if err != nil {
		return "", err
	}
	return gitVersion.FindString(string(out)), nil
}

// RemoteURL is the address of a remote that is given by its name, to push to or to fetch from; "" if there is no such remote. What is an
// address already stays as it is.
func (r *Repo) RemoteURL(ctx context.Context, remote string, push bool) (string, error) {
	url, err := r.address(ctx, remote, push)
	if err != nil || url == remote && !strings.ContainsAny(remote, ":/") {
		return "", err
	}
	return url, nil
}

// DefaultBranch is the branch that the remote names as its own: as a clone noted it, else as the remote says now; "" when neither knows.
func (r *Repo) DefaultBranch(ctx context.Context, remote string) (string, error) {
	noted, err := r.line(ctx, "symbolic-ref", "--quiet", "refs/remotes/"+remote+"/HEAD")
	if branch, ok := strings.CutPrefix(noted, "refs/remotes/"+remote+"/"); err == nil && ok {
		return branch, nil
	}
	out, err := r.network(ctx, remote, []string{"ls-remote", "--symref"}, []string{"HEAD"})
	if err != nil {
		return "", remoteError("ask the default branch of", remote, err)
	}
	for line := range strings.Lines(out) {
		if branch, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(line), "\tHEAD"), "ref: refs/heads/"); ok {
			return branch, nil
		}
	}
	return "", nil
}

// AllowedSigners is the file of keys that git is told to believe here (gpg.ssh.allowedSignersFile); "" for none.
func (r *Repo) AllowedSigners(ctx context.Context) (string, error) {
	return r.line(ctx, "config", "--default", "", "--type=path", "--get", "gpg.ssh.allowedSignersFile")
}

// Branch is the branch that the repository's work tree is on; "" for none.
func (r *Repo) Branch(ctx context.Context) (string, error) {
	name, err := r.line(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
	if code, ok := proc.ExitCode(err); ok && code == 1 {
		return "", nil
	}
	return name, err
}

// MayPush asks the remote whether a commit could be pushed to it, and pushes nothing. What hooks and protections of branches
// would say is not heard in this way. Errors are those of Push.
func (r *Repo) MayPush(ctx context.Context, remote, commit string) error {
	_, err := r.network(ctx, remote, []string{"push", "--dry-run", "--quiet", "--no-verify", "--no-signed", "--no-follow-tags", "--recurse-submodules=no"},
		[]string{commit + ":refs/heads/garrison-doctor"})
	if err == nil || ctx.Err() != nil {
		return err
	}
	return remoteError("push to", remote, err)
}

// Diff is a patch that git apply takes: it makes after of before, which are texts of files by their paths in the repository. A file that is
// not in before is made. Objects are written, to which nothing leads.
func (r *Repo) Diff(ctx context.Context, commit string, before, after map[string]string) (patch string, err error) {
	trees := []string{"", ""}
	for i, texts := range []map[string]string{before, after} {
		files := map[string]string{}
		for path, text := range texts {
			if files[path], err = r.WriteBlob(ctx, []byte(text)); err != nil {
				return "", err
			}
		}
		if trees[i], err = r.TreeWith(ctx, commit, files); err != nil {
			return "", err
		}
	}
	return r.run(ctx, call{args: []string{"-c", "core.quotePath=false", "-c", "diff.noprefix=false", "-c", "diff.mnemonicPrefix=false", "diff-tree", "-r", "-p", "--no-ext-diff", "--no-textconv", "--no-color", "--no-renames", trees[0], trees[1]}})
}
