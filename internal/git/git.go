// Package git is the only package that runs git. It works on the object
// database of a repository (bare or not) and never on a work tree: fetching,
// reading blobs, composing trees and commits, signing and verifying tags, pushing
// several refs at once.
//
// What was fetched stands under refs/garrison/, so that nothing of the
// repository's own (branches, tags, index, work tree) is ever moved. Start at Open.
package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// Repo is a repository on this machine.
type Repo struct {
	Dir string // the git directory itself, absolute

	fromModules bool // its remotes' URLs come from a .gitmodules, which git trusts less
	allowFile   bool // for those: they may be on this machine
	ours        bool // nobody but Garrison works in it: a person's commit may hold a lock for as long as they write its message
}

// Open finds the repository that dir is in. It fails with CodeGit when there is none.
func Open(ctx context.Context, dir string) (*Repo, error) {
	out, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: []string{"-C", dir, "rev-parse", "--path-format=absolute", "--git-common-dir"}, Env: env()})
	if _, ran := proc.ExitCode(err); err != nil && !ran {
		return nil, err
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeGit, "%s is not in a git repository", dir).
			WithHint("run it inside the fleet's repository, or name it with --repo").WithCause(err)
	}
	return &Repo{Dir: strings.TrimSpace(string(out))}, nil
}

// Init opens the bare repository dir, which is Garrison's own, and makes it first if it is not there, or not whole.
func Init(ctx context.Context, dir string) (*Repo, error) { return initAt(ctx, dir, true) }

func initAt(ctx context.Context, dir string, bare bool) (*Repo, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	args := []string{"init", "--quiet"}
	if bare {
		args = append(args, "--bare")
	}
	if _, err := proc.Run(ctx, proc.Cmd{Program: "git", Args: append(args, dir), Env: env()}); err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeGit, "cannot make the repository %s", dir).WithCause(err)
	}
	if !bare {
		dir = filepath.Join(dir, ".git")
	}
	return &Repo{Dir: dir, ours: bare}, nil
}

// env keeps git from asking anybody anything, its messages in English, and objects what their names say.
func env() []string {
	return []string{"GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true", "SSH_ASKPASS=true", "SSH_ASKPASS_REQUIRE=never", "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0", "GIT_NO_REPLACE_OBJECTS=1"}
}

type call struct {
	args  []string
	stdin io.Reader
	env   []string
	most  int
	idle  bool // as whatever has the time
}

// Tidy removes what calls that were killed left behind. No other call may be under way.
func (r *Repo) Tidy() {
	for _, kind := range []string{tempIndex, tempTag, tempBlobs} {
		left, _ := filepath.Glob(filepath.Join(r.Dir, kind+"*"))
		for _, dir := range left {
			_ = os.RemoveAll(dir) // it only takes room
		}
	}
}

// Prefixes of directories that calls work in.
const (
	tempIndex = "garrison-index-"
	tempTag   = "garrison-tag-"
	tempBlobs = "garrison-blobs-" // of ciphertext
)

// run runs git. A failure has CodeGit and class host, and git's exit status in its chain.
func (r *Repo) run(ctx context.Context, c call) (string, error) {
	c.args = append([]string{"--git-dir", r.Dir}, c.args...)
	return r.git(ctx, c)
}

// git is run with all its arguments given. Without a repository (r is nil) it runs where there surely is none. A lock of a git that was killed, or
// cut off by a power cut, is removed when it is a minute old; until then it is the failure.
func (r *Repo) git(ctx context.Context, c call) (string, error) {
	out, err := r.once(ctx, c)
	if err == nil || r == nil || !r.ours || !strings.Contains(proc.Said(err), "Unable to create '"+r.Dir+"/") {
		return out, err
	}
	if swept, _ := r.Sweep(); swept == 0 {
		return out, err
	}
	if from, ok := c.stdin.(io.Seeker); ok {
		if _, err := from.Seek(0, io.SeekStart); err != nil {
			return "", err
		}
	}
	return r.once(ctx, c)
}

func (r *Repo) once(ctx context.Context, c call) (string, error) {
	cmd := proc.Cmd{Program: "git", Args: c.args, Env: append(env(), c.env...), Stdin: c.stdin, MaxStdout: c.most, Idle: c.idle}
	if r == nil {
		cmd.Dir = "/dev"
	}
	out, err := proc.Run(ctx, cmd)
	if _, ran := proc.ExitCode(err); ran {
		where := "git fails"
		if r != nil {
			where += " in " + r.Dir
			if full(r.Dir) {
				return "", fleet.Errorf(fleet.Local, fleet.CodeGit, "%s: no space is left there", where).
					WithHint("make room on the disk, then run it again").WithCause(errors.Join(errFull, err))
			}
		}
		return "", fleet.Errorf(fleet.Local, fleet.CodeGit, "%s", where).WithCause(err)
	}
	return string(out), err
}

// errFull says that git failed where there is no space left. What it says itself then may be anything.
var errFull = errors.New("no space left")

// full says whether the disk that a folder is on has no room for as much as a few refs.
func full(dir string) bool {
	const least = 64 << 10
	var fs unix.Statfs_t
	return unix.Statfs(dir, &fs) == nil && fs.Blocks > 0 && fs.Bavail*uint64(fs.Bsize) < least
}

func (r *Repo) line(ctx context.Context, args ...string) (string, error) {
	out, err := r.run(ctx, call{args: args})
	return strings.TrimSpace(out), err
}

// Resolve returns the object name that rev (peeled as it says, like "x^{commit}") has,
// and false if there is no such thing.
func (r *Repo) Resolve(ctx context.Context, rev string) (string, bool, error) {
	out, err := r.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev)
	if code, ok := proc.ExitCode(err); ok && code == 1 {
		return "", false, nil
	}
	return out, err == nil, err
}

// IsAncestor says whether commit a is b or an ancestor of b.
func (r *Repo) IsAncestor(ctx context.Context, a, b string) (bool, error) {
	_, err := r.run(ctx, call{args: []string{"merge-base", "--is-ancestor", a, b}})
	if code, ok := proc.ExitCode(err); ok && code == 1 {
		return false, nil
	}
	return err == nil, err
}

// UpdateRef points ref at an object; an empty object deletes it.
func (r *Repo) UpdateRef(ctx context.Context, ref, object string) error {
	args := []string{"update-ref", ref, object}
	if object == "" {
		args = []string{"update-ref", "-d", ref}
	}
	_, err := r.run(ctx, call{args: args})
	return err
}

// UpdateRefs points refs at objects, all or none; an empty object deletes.
func (r *Repo) UpdateRefs(ctx context.Context, objects map[string]string) error {
	var lines strings.Builder
	for ref, object := range objects {
		if object == "" {
			fmt.Fprintf(&lines, "delete %s\n", ref)
		} else {
			fmt.Fprintf(&lines, "update %s %s\n", ref, object)
		}
	}
	_, err := r.run(ctx, call{args: []string{"update-ref", "--stdin"}, stdin: strings.NewReader(lines.String())})
	return err
}

// Ref is what a ref points at: ID is the tag itself where it is an annotated one, Commit what it leads to.
type Ref struct{ ID, Commit string }

// Refs lists the refs below prefix (which ends in a slash), by their names without it.
func (r *Repo) Refs(ctx context.Context, prefix string) (map[string]Ref, error) {
	out, err := r.run(ctx, call{args: []string{"for-each-ref", "--format=%(objectname) %(*objectname) %(refname)", prefix}})
	if err != nil {
		return nil, err
	}
	refs := map[string]Ref{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 2 { // not an annotated tag
			f = []string{f[0], f[0], f[1]}
		}
		refs[strings.TrimPrefix(f[2], prefix)] = Ref{ID: f[0], Commit: f[1]}
	}
	return refs, nil
}

// CommitInfo is what a release says of a commit.
type CommitInfo struct {
	Parents []string
	Tree    string
	Subject string
	When    time.Time // the committer's
	By      string    // the committer's address
	Author  string    // the author's name
}

// CommitInfo reads a commit.
func (r *Repo) CommitInfo(ctx context.Context, rev string) (CommitInfo, error) {
	out, err := r.run(ctx, call{args: []string{"-c", "log.showSignature=false", "log", "-1", "--format=%P%n%T%n%ct%n%ce%n%an%n%s", "--end-of-options", rev}})
	if err != nil {
		return CommitInfo{}, err
	}
	f := strings.SplitN(out, "\n", 6)
	if len(f) < 6 {
		return CommitInfo{}, fmt.Errorf("git log of %s said %q", rev, out)
	}
	sec, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		return CommitInfo{}, fmt.Errorf("git log of %s: %w", rev, err)
	}
	return CommitInfo{Parents: strings.Fields(f[0]), Tree: f[1], When: time.Unix(sec, 0).UTC(), By: f[3], Author: printable(f[4]), Subject: printable(f[5])}, nil
}

// printable is s without what a terminal would act on.
func printable(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s))
}

// Blobs lists the files of a commit's tree: path → blob. Links and submodules are left out.
func (r *Repo) Blobs(ctx context.Context, commit string) (map[string]string, error) {
	all, err := r.tree(ctx, commit)
	files := map[string]string{}
	for path, e := range all {
		if strings.HasPrefix(e.mode, "100") {
			files[path] = e.id
		}
	}
	return files, err
}

// treeEntry is what a path in a tree is: a file's blob, a link, a submodule's commit.
type treeEntry struct{ mode, id string }

// tree lists all that is in a commit's tree, by path.
func (r *Repo) tree(ctx context.Context, commit string) (map[string]treeEntry, error) {
	out, err := r.run(ctx, call{args: []string{"ls-tree", "-r", "-z", "--full-tree", commit}, most: 256 << 20})
	if err != nil {
		return nil, err
	}
	files := map[string]treeEntry{}
	for entry := range strings.SplitSeq(out, "\x00") {
		meta, path, ok := strings.Cut(entry, "\t")
		if f := strings.Fields(meta); ok && len(f) == 3 {
			files[path] = treeEntry{f[0], f[2]}
		}
	}
	return files, nil
}

// ReadFile reads path in a commit, and false if it is not there.
func (r *Repo) ReadFile(ctx context.Context, commit, path string) ([]byte, bool, error) {
	id, ok, err := r.Resolve(ctx, commit+":"+path)
	if err != nil || !ok {
		return nil, false, err
	}
	b, err := r.ReadBlob(ctx, id)
	return b, err == nil, err
}

// ReadBlob reads a blob of at most 64 MiB.
func (r *Repo) ReadBlob(ctx context.Context, id string) ([]byte, error) {
	out, err := r.run(ctx, call{args: []string{"cat-file", "blob", id}})
	return []byte(out), err
}

// maxBatch bounds what ReadBlobs reads, in bytes.
const maxBatch = 256 << 20

// ReadBlobs reads many blobs by one process. Those that are not there, are no blobs, or do not hash to their names are left out.
func (r *Repo) ReadBlobs(ctx context.Context, ids []string) (map[string][]byte, error) {
	blobs := map[string][]byte{}
	if len(ids) == 0 {
		return blobs, nil
	}
	out, err := r.run(ctx, call{args: []string{"cat-file", "--batch"}, stdin: strings.NewReader(strings.Join(ids, "\n") + "\n"), most: maxBatch})
	if err != nil {
		return nil, err
	}
	for out != "" { // "<id> blob <size>\n<content>\n", or "<id> missing\n"
		head, rest, _ := strings.Cut(out, "\n")
		out = rest
		f := strings.Fields(head)
		if len(f) != 3 {
			continue
		}
		size, err := strconv.Atoi(f[2])
		if err != nil || size < 0 || size >= len(rest) {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeGit, "git cat-file said %.100q", head)
		}
		if f[1] == "blob" && hashesTo(f[0], rest[:size]) {
			blobs[f[0]] = []byte(rest[:size])
		}
		out = rest[size+1:]
	}
	return blobs, nil
}

// hashesTo says whether a blob's name is that of its content. git itself takes a damaged object as it is, unless it cannot unpack it.
func hashesTo(id, content string) bool {
	h := sha1.New()
	if len(id) == hex.EncodedLen(sha256.Size) {
		h = sha256.New()
	}
	fmt.Fprintf(h, "blob %d\x00%s", len(content), content)
	return hex.EncodeToString(h.Sum(nil)) == id
}

// WriteBlob stores data and returns its object name.
func (r *Repo) WriteBlob(ctx context.Context, data []byte) (string, error) {
	out, err := r.run(ctx, call{args: []string{"hash-object", "-w", "--stdin"}, stdin: bytes.NewReader(data)})
	return strings.TrimSpace(out), err
}

// WriteBlobs stores many blobs by one process and returns their object names in the same order. After an error
// some of them may be there; nothing leads to them.
func (r *Repo) WriteBlobs(ctx context.Context, blobs [][]byte) ([]string, error) {
	if len(blobs) == 0 {
		return nil, nil
	}
	dir, err := os.MkdirTemp(r.Dir, tempBlobs)
	if err != nil {
		return nil, cannotWrite(r.Dir, err)
	}
	defer os.RemoveAll(dir)
	var paths strings.Builder
	for i, data := range blobs {
		file := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(file, data, 0o600); err != nil {
			return nil, cannotWrite(r.Dir, err)
		}
		fmt.Fprintln(&paths, file)
	}
	out, err := r.run(ctx, call{args: []string{"hash-object", "-w", "--no-filters", "--stdin-paths"}, stdin: strings.NewReader(paths.String())})
	ids := strings.Fields(out)
	if err == nil && len(ids) != len(blobs) {
		err = fleet.Errorf(fleet.Local, fleet.CodeGit, "git hash-object named %d of %d blobs", len(ids), len(blobs))
	}
	return ids, err
}

func cannotWrite(dir string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, "cannot write to %s", dir).WithHint("check its owner, and the free space").WithCause(err)
}

// TreeWith returns the tree of commit with the files (path → blob) put in place of what is there.
func (r *Repo) TreeWith(ctx context.Context, commit string, files map[string]string) (string, error) {
	index, done, err := r.tempIndex(ctx, commit)
	if err != nil {
		return "", err
	}
	defer done()
	var lines strings.Builder
	for path, blob := range files {
		fmt.Fprintf(&lines, "100644 %s\t%s\x00", blob, path)
	}
	if _, err := r.run(ctx, call{args: []string{"update-index", "-z", "--index-info"}, env: index, stdin: strings.NewReader(lines.String())}); err != nil {
		return "", err
	}
	out, err := r.run(ctx, call{args: []string{"write-tree"}, env: index})
	return strings.TrimSpace(out), err
}

// tempIndex makes an index of a commit's tree, names it to git by the environment, and removes it when done is called.
func (r *Repo) tempIndex(ctx context.Context, commit string) (env []string, done func(), err error) {
	dir, err := os.MkdirTemp(r.Dir, tempIndex)
	if err != nil {
		return nil, nil, err
	}
	env = []string{"GIT_INDEX_FILE=" + filepath.Join(dir, "index")}
	if _, err := r.run(ctx, call{args: []string{"read-tree", commit}, env: env}); err != nil {
		os.RemoveAll(dir)
		return nil, nil, err
	}
	return env, func() { os.RemoveAll(dir) }, nil
}

// Commit is a commit to write. Equal values give the same object.
type Commit struct {
	Tree    string
	Parents []string
	Message string
	When    time.Time
	Key     string // SSH private key that signs it, a file; "" leaves it unsigned
	Author  string // "Name <address>", or a name alone; "" is Garrison, who always is the committer
}

// Address is the committer's of what Garrison commits.
const Address = "garrison@localhost"

// identity is who commits and tags on Garrison's behalf.
func identity(when time.Time) []string {
	date := fmt.Sprintf("%d +0000", when.Unix())
	return []string{
		"GIT_AUTHOR_NAME=Garrison", "GIT_AUTHOR_EMAIL=" + Address, "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=Garrison", "GIT_COMMITTER_EMAIL=" + Address, "GIT_COMMITTER_DATE=" + date,
	}
}

// WriteCommit stores c and returns its object name.
func (r *Repo) WriteCommit(ctx context.Context, c Commit) (string, error) {
	args := []string{"-c", "commit.gpgSign=false", "-c", "gpg.format=ssh", "-c", "gpg.ssh.program=ssh-keygen", "commit-tree", c.Tree}
	if c.Key != "" {
		args = append(args, "-S"+c.Key)
	}
	for _, p := range c.Parents {
		args = append(args, "-p", p)
	}
	by := identity(c.When)
	name, address, _ := strings.Cut(c.Author, " <")
	if name = withoutMarks(name); name != "" {
		by = append(by, "GIT_AUTHOR_NAME="+name, "GIT_AUTHOR_EMAIL="+cmp.Or(withoutMarks(address), Address))
	}
	out, err := r.run(ctx, call{args: args, stdin: strings.NewReader(c.Message), env: by})
	return strings.TrimSpace(out), err
}

// withoutMarks is s without what ends a name or an address in a commit.
func withoutMarks(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '<' || r == '>' {
			return -1
		}
		return r
	}, s))
}

// TreeOf stores a tree that has one file at its root and nothing else, and returns its object name.
func (r *Repo) TreeOf(ctx context.Context, name string, data []byte) (string, error) {
	blob, err := r.WriteBlob(ctx, data)
	if err != nil {
		return "", err
	}
	out, err := r.run(ctx, call{args: []string{"mktree", "-z"}, stdin: strings.NewReader("100644 blob " + blob + "\t" + name + "\x00")})
	return strings.TrimSpace(out), err
}

// Person is who works in the repository, as git knows them: "Name <address>"; "" when it was not told.
func (r *Repo) Person(ctx context.Context) (string, error) {
	out, err := r.line(ctx, "var", "GIT_AUTHOR_IDENT")
	if _, ran := proc.ExitCode(err); ran {
		return "", nil
	}
	who, _, _ := strings.Cut(out, "> ")
	return who + ">", err
}
