package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/git/gittest"
	"github.com/garrison-nix/garrison/internal/ledger"
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

var do = gittest.Do

// origin is a bare repository with three commits on its release branch, and one on main that no release has.
type origin struct {
	dir      string
	releases []string
	other    string
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	o := &origin{dir: filepath.Join(t.TempDir(), "origin.git")}
	clone := filepath.Join(t.TempDir(), "clone")
	do(t, "", "git", "init", "--quiet", "--bare", "--initial-branch=main", o.dir)
	do(t, "", "git", "clone", "--quiet", o.dir, clone)
	for i := range 3 {
		do(t, clone, "git", "commit", "--quiet", "--allow-empty", "-m", fmt.Sprint("release ", i+1))
		o.releases = append(o.releases, do(t, clone, "git", "rev-parse", "HEAD"))
	}
	do(t, clone, "git", "push", "--quiet", "origin", "HEAD:refs/heads/release")
	do(t, clone, "git", "commit", "--quiet", "--allow-empty", "-m", "not released")
	o.other = do(t, clone, "git", "rev-parse", "HEAD")
	do(t, clone, "git", "push", "--quiet", "origin", "HEAD:refs/heads/main", "HEAD:refs/heads/release-web-test")
	return o
}

// refs are what the origin has, but main and release.
func (o *origin) refs(t testing.TB) string {
	t.Helper()
	return do(t, o.dir, "git", "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/heads/release-r*")
}

func newBook(t testing.TB, url string) ledger.Book {
	t.Helper()
	repo, err := git.Init(t.Context(), filepath.Join(t.TempDir(), "mine"))
	must(t, err)
	return ledger.Book{Repo: repo, Remote: git.Remote{URL: url}, Release: "release"}
}

// first gives the first ring a release.
func first(p ledger.Page, to string, n int) *ledger.Entry {
	e := &ledger.Entry{By: "Ann <ann@example.org>", Summary: fmt.Sprintf("release-%d to canary", n), Reason: "because", Ledger: p.Ledger,
		Advances: []ledger.Advance{{Branch: "release-ring-canary", From: p.Rings["release-ring-canary"], To: to}}}
	e.Ledger.Promoted("release-ring-canary", fleet.Promotion{Release: n, At: time.Unix(1_790_000_000, 0).UTC(), By: e.By})
	return e
}

func act(t testing.TB, b ledger.Book, to string, n int) (ledger.Page, error) {
	t.Helper()
	return b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) { return first(p, to, n), nil })
}

func wantCode(t testing.TB, err error, code fleet.Code) {
	t.Helper()
	if fleet.CodeOf(err) != code {
		t.Fatalf("got %v, want %s", err, code)
	}
}

func TestActs(t *testing.T) {
	o := newOrigin(t)
	b := newBook(t, o.dir)
	p, err := b.Read(t.Context())
	must(t, err)
	if p.Tip != "" || len(p.Rings) != 0 || p.Newest != o.releases[2] || len(p.Ledger.Promotions) != 0 {
		t.Fatalf("of a fleet without a roll-out: %+v", p)
	}
	for n, to := range o.releases {
		after, err := act(t, b, to, n+1)
		must(t, err)
		there, err := newBook(t, o.dir).Read(t.Context())
		must(t, err)
		if after.Tip != there.Tip || after.Rings["release-ring-canary"] != to || there.Rings["release-ring-canary"] != to || len(there.Rings) != 1 {
			t.Fatalf("after %d: %+v, there %+v", n+1, after, there)
		}
		if of := there.Ledger.Promotions["release-ring-canary"]; len(of) != n+1 || of[n].Release != n+1 {
			t.Fatalf("the ledger says %+v", of)
		}
	}
	log := do(t, o.dir, "git", "log", "--format=%an <%ae>|%s|%b", "release-rollout")
	if want := "Ann <ann@example.org>|release-3 to canary|because"; !strings.HasPrefix(log, want) || strings.Count(log, "Ann") != 3 {
		t.Errorf("git log says %s", log)
	}
	if files := do(t, o.dir, "git", "ls-tree", "-r", "--name-only", "release-rollout"); files != fleet.LedgerPath {
		t.Errorf("the branch has %s", files)
	}
	// What would change nothing is no commit.
	before := o.refs(t)
	after, err := b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) { return &ledger.Entry{Summary: "x", Ledger: p.Ledger}, nil })
	must(t, err)
	if o.refs(t) != before || after.Rings["release-ring-canary"] != o.releases[2] {
		t.Error("nothing was changed, and yet something was written")
	}
}

// A ring goes forward only, and nowhere but to releases; what is refused changes nothing.
func TestRefused(t *testing.T) {
	o := newOrigin(t)
	b := newBook(t, o.dir)
	_, err := act(t, b, o.releases[1], 2)
	must(t, err)
	before := o.refs(t)
	for name, to := range map[string]string{"back": o.releases[0], "no release": o.other} {
		t.Run(name, func(t *testing.T) {
			_, err := act(t, b, to, 9)
			wantCode(t, err, fleet.CodeForcePushed)
		})
	}
	_, err = b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
		e := first(p, o.releases[2], 3)
		e.Advances[0].Branch = "main"
		return e, nil
	})
	wantCode(t, err, fleet.CodeInvalid)
	_, err = b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
		e := first(p, o.releases[2], 3)
		e.Ledger.Paused = &fleet.RolloutOrder{Reason: strings.Repeat("x", fleet.MaxLedgerBytes)}
		return e, nil
	})
	wantCode(t, err, fleet.CodeInvalid)
	if o.refs(t) != before {
		t.Error("something moved all the same")
	}
}

// Publishing moves other refs in the same push, and the ring goes to what the release branch is to point at.
func TestWith(t *testing.T) {
	o := newOrigin(t)
	b := newBook(t, o.dir)
	p, err := b.Read(t.Context())
	must(t, err)
	must(t, b.Repo.Fetch(t.Context(), o.dir, "+refs/heads/main:refs/garrison/heads/main"))
	e := first(p, o.other, 4)
	e.With = []git.Move{{Ref: "refs/heads/release", From: p.Newest, To: o.other}}
	after, err := b.Write(t.Context(), p, *e)
	must(t, err)
	if after.Newest != o.other || after.Rings["release-ring-canary"] != o.other || do(t, o.dir, "git", "rev-parse", "release") != o.other {
		t.Errorf("after it: %+v", after)
	}
}

// Of two who read the same page, the later one has to read again; nothing of its act is there.
func TestLostRace(t *testing.T) {
	o := newOrigin(t)
	b, other := newBook(t, o.dir), newBook(t, o.dir)
	p, err := b.Read(t.Context())
	must(t, err)
	_, err = act(t, other, o.releases[0], 1)
	must(t, err)
	before := o.refs(t)
	_, err = b.Write(t.Context(), p, *first(p, o.releases[1], 2))
	wantCode(t, err, fleet.CodeRace)
	// A freeze alone loses the same way, though it moves no ring.
	frozen := ledger.Entry{Summary: "freeze", Ledger: fleet.Ledger{Freeze: &fleet.RolloutOrder{Reason: "x"}}}
	_, err = b.Write(t.Context(), p, frozen)
	wantCode(t, err, fleet.CodeRace)
	if o.refs(t) != before {
		t.Error("something moved all the same")
	}
}

// Many writers at once, from repositories of their own and from one that they share: every act is in the ledger, once, and the branch is a line.
func TestManyWriters(t *testing.T) {
	o := newOrigin(t)
	shared := newBook(t, o.dir)
	books := []ledger.Book{shared, shared, newBook(t, o.dir), newBook(t, o.dir)}
	var all sync.WaitGroup
	for i, b := range books {
		all.Go(func() {
			for k := range 3 {
				for { // Tries may be too few where so many write without end
					_, err := b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
						l := p.Ledger
						l.Approved = append(l.Approved[:len(l.Approved):len(l.Approved)], fleet.RolloutOrder{By: fmt.Sprint(i, "/", k)})
						return &ledger.Entry{By: "Ann <ann@example.org>", Summary: fmt.Sprint("approve ", i, k), Ledger: l}, nil
					})
					if err == nil {
						break
					}
					if fleet.CodeOf(err) != fleet.CodeRace {
						t.Errorf("%d/%d: %v", i, k, err)
						return
					}
				}
			}
		})
	}
	all.Wait()
	p, err := newBook(t, o.dir).Read(t.Context())
	must(t, err)
	seen := map[string]int{}
	for _, a := range p.Ledger.Approved {
		seen[a.By]++
	}
	if len(seen) != 12 || len(p.Ledger.Approved) != 12 {
		t.Errorf("the ledger has %v", seen)
	}
	if n := do(t, o.dir, "git", "rev-list", "--count", "release-rollout"); n != "12" {
		t.Errorf("%s commits", n)
	}
}

// Whatever is killed between commit and push leaves nothing at the remote, and the next act goes as ever.
func TestKilledBeforePush(t *testing.T) {
	o := newOrigin(t)
	before := o.refs(t)
	ctx, kill := context.WithCancelCause(t.Context())
	dead := errors.New("killed")
	url := gittest.HTTP(t, filepath.Dir(o.dir), "", "", func(http.ResponseWriter, *http.Request, http.Handler) { kill(dead) }) + "/origin.git"
	b := newBook(t, url)
	do(t, o.dir, "git", "config", "http.receivepack", "true")
	_, err := b.Change(ctx, func(p ledger.Page) (*ledger.Entry, error) { return first(p, o.releases[0], 1), nil })
	if err == nil || ctx.Err() == nil || o.refs(t) != before {
		t.Fatalf("%v; %s", err, o.refs(t))
	}
	b.Remote.URL = o.dir
	_, err = act(t, b, o.releases[0], 1)
	must(t, err)
}

// The remote did it, and its answer was lost: that is no error, and is not done twice.
func TestAnswerLost(t *testing.T) {
	o := newOrigin(t)
	do(t, o.dir, "git", "config", "http.receivepack", "true")
	url := gittest.HTTP(t, filepath.Dir(o.dir), "u", "secret", func(w http.ResponseWriter, r *http.Request, push http.Handler) {
		push.ServeHTTP(discard{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	}) + "/origin.git"
	credentials := filepath.Join(t.TempDir(), "credentials")
	must(t, os.WriteFile(credentials, []byte("u:secret\n"), 0o600))
	b := newBook(t, strings.Replace(url, "u:secret@", "", 1))
	b.Remote.CredentialsFile = credentials
	p, err := act(t, b, o.releases[0], 1)
	must(t, err)
	if n := do(t, o.dir, "git", "rev-list", "--count", "release-rollout"); n != "1" || len(p.Ledger.Promotions["release-ring-canary"]) != 1 {
		t.Errorf("%s commits, %+v", n, p.Ledger)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// A forge that refuses one of the branches refuses all of the act.
func TestProtected(t *testing.T) {
	o := newOrigin(t)
	hook := filepath.Join(o.dir, "hooks/update")
	must(t, os.WriteFile(hook, []byte("#!/bin/sh\ncase $1 in *-ring-*) echo protected >&2; exit 1;; esac\n"), 0o755))
	before := o.refs(t)
	_, err := act(t, newBook(t, o.dir), o.releases[0], 1)
	wantCode(t, err, fleet.CodeUnauthorized)
	if o.refs(t) != before {
		t.Error("a part of the act is there")
	}
}

func TestRemoteAway(t *testing.T) {
	b := newBook(t, filepath.Join(t.TempDir(), "gone.git"))
	_, err := b.Read(t.Context())
	wantCode(t, err, fleet.CodeRemote)
}

// What somebody wrote by hand stops what would build on it, with a word on how to go on.
func TestDamagedLedger(t *testing.T) {
	o := newOrigin(t)
	for name, text := range map[string]string{"garbage": "{", "a newer schema": `{"schema": 99}`, "twice": `{"schema": 1} {}`} {
		t.Run(name, func(t *testing.T) {
			clone := filepath.Join(t.TempDir(), "c")
			do(t, "", "git", "clone", "--quiet", o.dir, clone)
			do(t, clone, "git", "checkout", "--quiet", "--orphan", "x")
			must(t, os.WriteFile(filepath.Join(clone, fleet.LedgerPath), []byte(text), 0o644))
			do(t, clone, "git", "add", "--all")
			do(t, clone, "git", "commit", "--quiet", "-m", "by hand")
			do(t, clone, "git", "push", "--quiet", "--force", "origin", "HEAD:refs/heads/release-rollout")
			before := o.refs(t)
			_, err := act(t, newBook(t, o.dir), o.releases[0], 1)
			wantCode(t, err, fleet.CodeInvalid)
			if o.refs(t) != before {
				t.Error("something moved all the same")
			}
		})
	}
}

func TestByName(t *testing.T) {
	o := newOrigin(t)
	clone := filepath.Join(t.TempDir(), "c")
	do(t, "", "git", "clone", "--quiet", o.dir, clone)
	repo, err := git.Open(t.Context(), clone)
	must(t, err)
	own := do(t, clone, "git", "for-each-ref", "refs/remotes", "refs/heads", "refs/tags")
	b := ledger.Book{Repo: repo, Remote: git.Remote{URL: "origin"}, Release: "release"}
	_, err = act(t, b, o.releases[0], 1)
	must(t, err)
	if after := do(t, clone, "git", "for-each-ref", "refs/remotes", "refs/heads", "refs/tags"); after != own {
		t.Errorf("the clone's own refs were moved:\n%s\n%s", own, after)
	}
	who, err := repo.Person(t.Context())
	must(t, err)
	if who != "Editor <editor@example.org>" {
		t.Errorf("by %q", who)
	}
}

func TestSSH(t *testing.T) {
	o, s := newOrigin(t), gittest.SSH(t)
	b := newBook(t, "")
	b.Remote = git.Remote{URL: s.URL + o.dir, SSHKeyFile: s.Key, KnownHostsFile: s.KnownHosts}
	p, err := act(t, b, o.releases[0], 1)
	must(t, err)
	if p.Rings["release-ring-canary"] != o.releases[0] || !strings.Contains(o.refs(t), p.Tip) {
		t.Errorf("%+v, %s", p, o.refs(t))
	}
	b.Remote.SSHKeyFile = s.OtherKey
	_, err = act(t, b, o.releases[1], 2)
	wantCode(t, err, fleet.CodeUnauthorized)
}
