package git_test

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
)

func TestMain(m *testing.M) {
	gittest.Env()
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t testing.TB, err error, class fleet.Class, code fleet.Code) {
	t.Helper()
	if fleet.CodeOf(err) != code || fleet.ClassOf(err) != class {
		t.Fatalf("got %s, %s, want %s, %s: %v", fleet.CodeOf(err), fleet.ClassOf(err), code, class, err)
	}
}

var do = gittest.Do

// newClone is a repository with a work tree and one commit, whose origin is a bare repository.
func newClone(t testing.TB) (dir, origin string) {
	t.Helper()
	origin, dir = filepath.Join(t.TempDir(), "origin.git"), filepath.Join(t.TempDir(), "clone")
	do(t, "", "git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
	do(t, "", "git", "clone", "--quiet", origin, dir)
	must(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("a\n"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "sub/it's \"ü\"\tb"), nil, 0o755))
	must(t, os.Symlink("a", filepath.Join(dir, "link")))
	commit(t, dir, "First")
	return dir, origin
}

func commit(t testing.TB, dir, subject string) string {
	t.Helper()
	do(t, dir, "git", "add", "--all")
	do(t, dir, "git", "commit", "--quiet", "--allow-empty", "-m", subject)
	do(t, dir, "git", "push", "--quiet", "origin", "HEAD")
	return do(t, dir, "git", "rev-parse", "HEAD")
}

func open(t testing.TB, dir string) *git.Repo {
	t.Helper()
	r, err := git.Open(t.Context(), dir)
	must(t, err)
	return r
}

func TestOpen(t *testing.T) {
	dir, _ := newClone(t)
	worktree := filepath.Join(t.TempDir(), "tree")
	do(t, dir, "git", "worktree", "add", "--quiet", "--detach", worktree)
	t.Setenv("GIT_DIR", "/somewhere/else") // as a hook has it
	for _, d := range []string{dir, filepath.Join(dir, "sub"), worktree} {
		if r := open(t, d); r.Dir != filepath.Join(dir, ".git") {
			t.Errorf("%s is in %s", d, r.Dir)
		}
	}
	_, err := git.Open(t.Context(), t.TempDir())
	wantCode(t, err, fleet.Bad, fleet.CodeGit)
	t.Setenv("PATH", t.TempDir())
	_, err = git.Open(t.Context(), dir)
	wantCode(t, err, fleet.Local, fleet.CodeMissingTool)
}

func TestInitMendsWhatIsNotWhole(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "r.git")
	r, err := git.Init(t.Context(), dir)
	must(t, err)
	blob, err := r.WriteBlob(t.Context(), []byte("x"))
	must(t, err)
	must(t, os.RemoveAll(filepath.Join(dir, "refs"))) // killed in the middle
	r, err = git.Init(t.Context(), dir)
	must(t, err)
	if b, err := r.ReadBlob(t.Context(), blob); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestObjects(t *testing.T) {
	dir, _ := newClone(t)
	do(t, dir, "git", "config", "log.showSignature", "true")
	r, ctx := open(t, dir), t.Context()
	blobs, err := r.Blobs(ctx, "HEAD")
	must(t, err)
	if names := slices.Sorted(maps.Keys(blobs)); !slices.Equal(names, []string{"a", "sub/it's \"ü\"\tb"}) {
		t.Errorf("the tree has %q", names)
	}
	new1, err := r.WriteBlob(ctx, []byte("new\n"))
	must(t, err)
	tree, err := r.TreeWith(ctx, "HEAD", map[string]string{"a": new1, "x/y/z": new1})
	must(t, err)
	when := time.Unix(1_700_000_000, 0).UTC()
	head := do(t, dir, "git", "rev-parse", "HEAD")
	c := git.Commit{Tree: tree, Parents: []string{head}, Message: "Sub\x1bject\n\nBody\n", When: when}
	id, err := r.WriteCommit(ctx, c)
	must(t, err)
	if again, err := r.WriteCommit(ctx, c); err != nil || again != id {
		t.Errorf("the same commit is %s and %s, %v", id, again, err)
	}
	info, err := r.CommitInfo(ctx, id)
	if err != nil || info.Subject != "Sub ject" || info.Tree != tree || !info.When.Equal(when) || !slices.Equal(info.Parents, []string{head}) {
		t.Errorf("%+v, %v", info, err)
	}
	for path, want := range map[string]string{"a": "new\n", "x/y/z": "new\n", "link": "a"} {
		if b, ok, err := r.ReadFile(ctx, id, path); err != nil || !ok || string(b) != want {
			t.Errorf("%s: %q, %v, %v", path, b, ok, err)
		}
	}
	if _, ok, err := r.ReadFile(ctx, id, "nowhere"); ok || err != nil {
		t.Errorf("a file that is not there: %v, %v", ok, err)
	}
	if _, ok, err := r.Resolve(ctx, strings.Repeat("a", 40)+"^{commit}"); ok || err != nil {
		t.Errorf("a commit that is not there: %v, %v", ok, err)
	}
	for pair, want := range map[[2]string]bool{{head, id}: true, {id, head}: false, {id, id}: true} {
		if got, err := r.IsAncestor(ctx, pair[0], pair[1]); err != nil || got != want {
			t.Errorf("%v: %v, %v", pair, got, err)
		}
	}
	_, err = r.IsAncestor(ctx, strings.Repeat("a", 40), id)
	wantCode(t, err, fleet.Local, fleet.CodeGit)
	if status := do(t, dir, "git", "status", "--porcelain"); status != "" {
		t.Errorf("the work tree was touched: %s", status)
	}
}

// TestReadBlobs reads what is hard to tell apart in a stream.
func TestReadBlobs(t *testing.T) {
	r, err := git.Init(t.Context(), t.TempDir())
	must(t, err)
	want := map[string][]byte{}
	var ids []string
	for _, s := range []string{"", "\n", "a", "a\n", "aaaa missing\nbbbb blob 3\nccc\n", strings.Repeat("\x00\xff", 70_000)} {
		id, err := r.WriteBlob(t.Context(), []byte(s))
		must(t, err)
		want[id] = []byte(s)
		ids = append(ids, id, strings.Repeat("0", 39)+"1")
	}
	again, err := git.Init(t.Context(), t.TempDir())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(again.Dir, "info/attributes"), []byte("* text=auto eol=crlf\n"), 0o644)) // applies to files, not to us
	var names []string
	var contents [][]byte
	for id, content := range want {
		names, contents = append(names, id), append(contents, content)
	}
	if got, err := again.WriteBlobs(t.Context(), contents); err != nil || !slices.Equal(got, names) {
		t.Errorf("many at once: %v, %v", got, err)
	}
	if got, err := again.ReadBlobs(t.Context(), names); err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("written are %d of %d, %v", len(got), len(want), err)
	}
	if none, err := again.WriteBlobs(t.Context(), nil); err != nil || none != nil {
		t.Errorf("%v, %v", none, err)
	}
	if left, _ := filepath.Glob(filepath.Join(again.Dir, "garrison-*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
	got, err := r.ReadBlobs(t.Context(), ids)
	if err != nil || !maps.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("got %d of %d, %v", len(got), len(want), err)
	}
	if got, err := r.ReadBlobs(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestReadBlobsDamaged exchanges and breaks objects: they are as if they were not there.
func TestReadBlobsDamaged(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		dir := filepath.Join(t.TempDir(), "r.git")
		do(t, "", "git", "init", "--quiet", "--bare", "--object-format="+format, dir)
		r := &git.Repo{Dir: dir}
		ids, err := r.WriteBlobs(t.Context(), [][]byte{[]byte("good"), []byte("other"), []byte("cut")})
		must(t, err)
		object := func(i int) string { return filepath.Join(dir, "objects", ids[i][:2], ids[i][2:]) }
		other, err := os.ReadFile(object(0))
		must(t, err)
		for i, data := range map[int][]byte{1: other, 2: nil} {
			must(t, os.Remove(object(i)))
			must(t, os.WriteFile(object(i), data, 0o444))
		}
		got, err := r.ReadBlobs(t.Context(), ids)
		if err != nil || len(got) != 1 || string(got[ids[0]]) != "good" {
			t.Errorf("%s: %q, %v", format, got, err)
		}
	}
}

func TestTidy(t *testing.T) {
	dir, _ := newClone(t)
	r := open(t, dir)
	left := filepath.Join(r.Dir, "garrison-index-123")
	must(t, os.Mkdir(left, 0o700))
	r.Tidy()
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://example.org/r.git":                       "https://example.org/r.git",
		"https://user:pa@ss@example.org/r":                "https://…@example.org/r",
		"https://ghp_token@example.org/r":                 "https://…@example.org/r",
		"fatal: unable to access 'HTTPS://u:p@h/r/': 403": "fatal: unable to access 'HTTPS://…@h/r/': 403",
		"http://u:p@h/ and https://t@i/":                  "http://…@h/ and https://…@i/",
		"ssh://git@example.org/r":                         "ssh://git@example.org/r",
		"ssh://git:secret@example.org/r":                  "ssh://…@example.org/r",
		"git@example.org:r":                               "git@example.org:r",
		"git+https://t@h/r?ref=x":                         "git+https://…@h/r?ref=x",
		"see https://h/path mail a@b":                     "see https://h/path mail a@b",
		"0https://t@h":                                    "0https://…@h",
	} {
		if got := git.Redact(in); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func FuzzRedact(f *testing.F) {
	f.Add("https://", "user", "pass", "host")
	f.Fuzz(func(t *testing.T, before, user, pass, host string) {
		for _, s := range []string{user, pass, host} {
			if s == "" || strings.ContainsAny(s, "/@:'\" \t\n\v\f\r\u0085\u00a0") {
				return
			}
		}
		secret := "s3cret" + pass
		if out := git.Redact(before + "https://" + user + ":" + secret + "@" + host); strings.Contains(out, secret) && !strings.Contains(before, secret) {
			t.Errorf("%q", out)
		}
	})
}

func TestAuthor(t *testing.T) {
	dir, _ := newClone(t)
	r := open(t, dir)
	tree, err := r.TreeOf(t.Context(), "rollout.json", []byte("{}\n"))
	must(t, err)
	for author, want := range map[string]string{
		"":                               "Garrison <garrison@localhost>",
		"Ann Lee <ann@example.org>":      "Ann Lee <ann@example.org>",
		"token ann":                      "token ann <garrison@localhost>",
		" <x@example.org>":               "Garrison <garrison@localhost>",
		"A\nB> <evil <x>\n@example.org>": "AB <evil x@example.org>",
	} {
		id, err := r.WriteCommit(t.Context(), git.Commit{Tree: tree, Message: "m\n", When: time.Unix(1e9, 0), Author: author})
		must(t, err)
		if got := do(t, dir, "git", "log", "-1", "--format=%an <%ae>", id); got != want {
			t.Errorf("%q: %q", author, got)
		}
		if by := do(t, dir, "git", "log", "-1", "--format=%cn", id); by != "Garrison" {
			t.Errorf("committed by %q", by)
		}
		if files := do(t, dir, "git", "ls-tree", "-r", "--name-only", id); files != "rollout.json" {
			t.Errorf("it has %q", files)
		}
	}
}
