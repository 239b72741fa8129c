package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// repo is a bare clone, of the drill's own, of somebody's repository: commits are made by git's plumbing, so that no work tree is touched, no
// hook runs, and nothing is checked out.
type repo struct {
	dir    string // of the clone
	url    string // that is pushed to
	branch string // with the source
	base   string // its tip when the drill began
	file   string // the marker's file in base, as git ls-tree has it; "": there was none
	tip    string // what the drill pushed last, else base
	id     string // of the drill, for what it commits
	// mine are the marker's files that the drill tried to push, as git ls-tree has them.
	mine map[string]bool
}

// trailer stands in the messages of commits that a drill makes, but for the one that undoes them; git interpret-trailers says what that is.
const trailer = "Garrison-Drill"

// gitTime is for one git command, a fetch or push among them.
const gitTime = 3 * time.Minute

// userConfig are the keys of a repository's own configuration that say who commits, and how the remote is reached.
const userConfig = `^(user|gpg|credential|url|http|ssh|commit\.gpgsign|core\.sshcommand|protocol)\.?`

// openRepo clones into a temporary folder, which close removes.
func openRepo(ctx context.Context, from, remote, branch, id string) (r *repo, err error) {
	r = &repo{branch: branch, id: id, mine: map[string]bool{}}
	if r.dir, err = os.MkdirTemp("", "garrison-drill-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	if from, err = filepath.Abs(from); err != nil {
		return nil, err
	}
	if r.url, err = runGit(ctx, from, nil, "remote", "get-url", "--push", remote); err != nil {
		r.url = remote // it is a URL, else fetching says what is wrong
	}
	if !strings.Contains(r.url, ":") && !filepath.IsAbs(r.url) {
		r.url = filepath.Join(from, r.url)
	}
	if _, err := runGit(ctx, from, nil, "clone", "--quiet", "--bare", from, r.dir); err != nil {
		return nil, err
	}
	own, _ := runGit(ctx, from, nil, "config", "--local", "--null", "--get-regexp", userConfig) // none is no error of ours
	for entry := range strings.SplitSeq(own, "\x00") {
		key, value, ok := strings.Cut(entry, "\n")
		if !ok {
			continue
		}
		if _, err := r.git(ctx, nil, "config", "--add", key, value); err != nil {
			return nil, err
		}
	}
	if shallow, err := r.git(ctx, nil, "rev-parse", "--is-shallow-repository"); err != nil {
		return nil, err
	} else if shallow == "true" { // what CI checks out: it does not tell who changed the marker's file
		if _, err := r.git(ctx, nil, "fetch", "--quiet", "--unshallow", "--no-tags", r.url, "refs/heads/"+r.branch); err != nil {
			return nil, err
		}
	}
	if r.base, err = r.fetch(ctx); err != nil {
		return nil, err
	}
	r.tip = r.base
	r.file, err = r.markerAt(ctx, r.base)
	return r, err
}

func (r *repo) close() error { return os.RemoveAll(r.dir) }

func (r *repo) git(ctx context.Context, stdin []byte, args ...string) (string, error) {
	return runGit(ctx, r.dir, stdin, args...)
}

// runGit runs git in a folder, without asking anybody for a password.
func runGit(ctx context.Context, dir string, stdin []byte, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, gitTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_TERMINAL_PROMPT=0", "GIT_INDEX_FILE="+filepath.Join(dir, "garrison-drill-index"))
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = 2 * time.Second
	return output(cmd)
}

// output is what a command prints, without white space around; its error says what it said.
func output(cmd *exec.Cmd) (string, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		text := password.ReplaceAllString(strings.Join(cmd.Args, " "), "//***@")
		err = fmt.Errorf("%.200s: %w: %s", text, err, password.ReplaceAllString(strings.TrimSpace(said.String()), "//***@"))
	}
	return strings.TrimSpace(string(out)), err
}

// password is what must not be shown of a URL.
var password = regexp.MustCompile(`//[^/@\s]+@`)

// fetch returns the source branch's tip, as the remote has it now.
func (r *repo) fetch(ctx context.Context) (string, error) {
	const at = "refs/garrison-drill/source"
	if _, err := r.git(ctx, nil, "fetch", "--quiet", "--no-tags", r.url, "+refs/heads/"+r.branch+":"+at); err != nil {
		return "", fleet.Errorf(fleet.Transient, fleet.CodeRemote, "%s of the fleet's repository cannot be fetched", r.branch).WithCause(err)
	}
	return r.git(ctx, nil, "rev-parse", at)
}

// markerAt is the marker's file in a commit, as git ls-tree has it; "" when it is not there.
func (r *repo) markerAt(ctx context.Context, commit string) (string, error) {
	return r.git(ctx, nil, "ls-tree", commit, markerFile)
}

// commitFile makes and pushes a commit on a tip with the marker's file, as git ls-tree has it; "" removes it.
func (r *repo) commitFile(ctx context.Context, tip, file, message string) (p pushed, err error) {
	if file == "" {
		file = "0 " + strings.Repeat("0", len(tip)) + "\t" + markerFile
	}
	if _, err := r.git(ctx, nil, "read-tree", tip); err != nil {
		return p, err
	}
	if _, err := r.git(ctx, []byte(file+"\n"), "update-index", "--index-info"); err != nil {
		return p, err
	}
	tree, err := r.git(ctx, nil, "write-tree")
	if err != nil {
		return p, err
	}
	args := []string{"commit-tree", tree, "-p", tip, "-m", message}
	if sign, _ := r.git(ctx, nil, "config", "--type=bool", "commit.gpgsign"); sign == "true" { // unset is an error, and no
		args = append(args, "-S")
	}
	if p.commit, err = r.git(ctx, nil, args...); err != nil {
		return p, err
	}
	p.at = time.Now()
	if _, err = r.git(ctx, nil, "push", "--quiet", r.url, p.commit+":refs/heads/"+r.branch); err != nil {
		if now, lookErr := r.fetch(ctx); lookErr == nil && now == p.commit { // it arrived; the answer did not
			r.tip = p.commit
			return p, nil
		}
		return p, fleet.Errorf("", fleet.CodeRemote, "the fleet's repository does not take a commit to %s", r.branch).WithCause(err).
			WithHint("a drill pushes as you do: may you push to %s, and did nobody else do so just now?", r.branch)
	}
	r.tip = p.commit
	return p, nil
}

// errMoved says that somebody else pushes to the branch.
type errMoved struct{ branch, to string }

func (e errMoved) Error() string {
	return fmt.Sprintf("somebody pushed %.12s to %s meanwhile: what is seen from now on would not be the drill's", e.to, e.branch)
}

// put pushes a marker on top of what the drill knows; with anything else there it pushes nothing.
func (r *repo) put(ctx context.Context, m marker, subject string) (pushed, error) {
	tip, err := r.fetch(ctx)
	if err != nil {
		return pushed{}, err
	}
	if tip != r.tip {
		return pushed{}, errMoved{r.branch, tip}
	}
	blob, err := r.git(ctx, m.bytes(), "hash-object", "-w", "--stdin")
	if err != nil {
		return pushed{}, err
	}
	file := "100644 blob " + blob + "\t" + markerFile
	r.mine[file] = true // also when it is not known whether the push arrived
	return r.commitFile(ctx, tip, file, fmt.Sprintf("%s\n\nBy garrison drill, which undoes it.\n\n%s: %s\n", subject, trailer, r.id))
}

// restore pushes a commit with the marker's file as it was, on top of whatever is there now. Nothing to restore is no error, and no commit; what
// somebody else made of the file meanwhile stays.
func (r *repo) restore(ctx context.Context) (commit string, err error) {
	for range 5 { // others may push at the same time
		var tip, now string
		if tip, err = r.fetch(ctx); err != nil {
			continue
		}
		if now, err = r.markerAt(ctx, tip); err != nil {
			return "", err
		}
		if now == r.file || !r.mine[now] {
			r.tip = tip
			return tip, nil
		}
		var p pushed
		if p, err = r.commitFile(ctx, tip, r.file, "Undo what garrison drill changed"); err == nil {
			return p.commit, nil
		}
	}
	return "", err
}

// leftBehind are the commits of drills that were not undone, newest first, and the marker's file before them.
func (r *repo) leftBehind(ctx context.Context) (commits []string, before string, err error) {
	out, err := r.git(ctx, nil, "log", "--format=%H %(trailers:key="+trailer+",valueonly,separator=%x2C)", r.base, "--", markerFile)
	if err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(out) {
		commit, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		if id == "" {
			before, err = r.markerAt(ctx, commit)
			break
		}
		commits = append(commits, commit)
	}
	return commits, before, err
}

// revert puts the marker's file back as it was before a drill that could not do so itself; of says how many commits of drills that undoes.
func (r *repo) revert(ctx context.Context) (commit string, of int, err error) {
	commits, before, err := r.leftBehind(ctx)
	if err != nil || len(commits) == 0 {
		return r.base, 0, err
	}
	r.mine[r.file] = true
	r.file = before
	commit, err = r.restore(ctx)
	return commit, len(commits), err
}

// released says whether a branch with releases has the marker's file of a commit: two of a drill's never have the same.
func (r *repo) released(ctx context.Context, branch, commit string) (bool, error) {
	const at = "refs/garrison-drill/release"
	if _, err := r.git(ctx, nil, "fetch", "--quiet", "--no-tags", r.url, "+refs/heads/"+branch+":"+at); err != nil {
		return false, fleet.Errorf(fleet.Transient, fleet.CodeRemote, "%s of the fleet's repository cannot be fetched", branch).WithCause(err)
	}
	there, err := r.markerAt(ctx, at)
	if err != nil {
		return false, err
	}
	here, err := r.markerAt(ctx, commit)
	return there == here, err
}

// releaseRefs are the release branch and tags, as the remote has them.
func (r *repo) releaseRefs(ctx context.Context, branch string) (string, error) {
	return r.git(ctx, nil, "ls-remote", r.url, "refs/heads/"+branch, "refs/tags/release-*")
}
