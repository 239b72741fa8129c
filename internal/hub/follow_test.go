package hub_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/hub"
)

// published is a remote with releases, and what a Follower of it did.
type published struct {
	t    *testing.T
	dir  string
	repo *git.Repo
	tree string
	log  logBuffer

	mu     sync.Mutex
	wakes  int
	newest []int
}

func newPublished(t *testing.T) *published {
	t.Helper()
	p := &published{t: t, dir: t.TempDir()}
	var err error
	p.repo, err = git.Init(t.Context(), filepath.Join(p.dir, "origin.git"))
	must(t, err)
	for _, key := range []string{"release", "stranger"} {
		must(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(p.dir, key)).Run())
	}
	public, err := os.ReadFile(filepath.Join(p.dir, "release.pub"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.dir, "signers"), []byte("garrison "+string(public)), 0o600))
	out, err := exec.Command("sh", "-c", "git --git-dir "+p.repo.Dir+" mktree </dev/null").Output()
	must(t, err)
	p.tree = strings.TrimSpace(string(out))
	return p
}

// make makes a release that is signed by a key, and returns its commit.
func (p *published) make(n int, key string) string {
	p.t.Helper()
	when := time.Unix(1_780_000_000+int64(n), 0)
	commit, err := p.repo.WriteCommit(p.t.Context(), git.Commit{Tree: p.tree, Message: fmt.Sprint("release ", n), When: when})
	must(p.t, err)
	m := fleet.Manifest{Schema: fleet.ManifestSchema, Number: n, CreatedAt: when, Source: fleet.Source{Commit: commit, Branch: "main"}, Manual: []string{"joker"}}
	message, err := m.TagMessage()
	must(p.t, err)
	_, err = p.repo.SignTag(p.t.Context(), "refs/tags/"+m.Name(), m.Name(), commit, message, filepath.Join(p.dir, key), when)
	must(p.t, err)
	return commit
}

func (p *published) point(branch, commit string) {
	p.t.Helper()
	must(p.t, p.repo.UpdateRef(p.t.Context(), "refs/heads/"+branch, commit))
}

// follow runs a Follower until stop is called, or the test ends.
func (p *published) follow(poll time.Duration, change func(*hub.FollowOptions)) (f *hub.Follower, stop func()) {
	p.t.Helper()
	repo, err := git.Init(p.t.Context(), filepath.Join(p.t.TempDir(), "repo.git"))
	must(p.t, err)
	o := hub.FollowOptions{Remote: git.Remote{URL: p.repo.Dir}, Repo: repo, Branch: "release", Signers: filepath.Join(p.dir, "signers"), Poll: poll,
		Wake:   func() { p.mu.Lock(); defer p.mu.Unlock(); p.wakes++ },
		Newest: func(m *fleet.Manifest) { p.mu.Lock(); defer p.mu.Unlock(); p.newest = append(p.newest, m.Number) },
		Log:    slog.New(slog.NewTextHandler(&p.log, nil))}
	if change != nil {
		change(&o)
	}
	f = hub.NewFollower(o)
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); f.Run(ctx) }()
	stop = func() { cancel(); <-done }
	p.t.Cleanup(stop)
	return f, stop
}

// seen waits until agents have been woken so often, and those releases been seen.
func (p *published) seen(wakes int, newest ...int) {
	p.t.Helper()
	until(p.t, fmt.Sprint(wakes, " wakes, releases ", newest), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.wakes == wakes && slices.Equal(p.newest, newest)
	})
}

// TestFollows: agents are woken for whatever they follow, once, and the newest release is known; what nobody signed is passed over.
func TestFollows(t *testing.T) {
	p := newPublished(t)
	f, stop := p.follow(time.Hour, nil)
	p.seen(1) // whoever had connected before it looked
	first := p.make(1, "release")
	p.point("release", first)
	f.Hint(time.Now())
	p.seen(2, 1)
	p.point("main", p.make(2, "release")) // concerns nobody
	f.Hint(time.Now())
	p.point("release-joker-test", first)
	time.Sleep(50 * time.Millisecond)
	f.Hint(time.Now())
	p.seen(3, 1)
	must(t, exec.Command("git", "--git-dir", p.repo.Dir, "update-ref", "-d", "refs/heads/release-joker-test").Run())
	f.Hint(time.Now())
	p.seen(4, 1)

	// What was published from here is not heard of twice.
	third := p.make(3, "release")
	p.point("release", third)
	f.Moved(fleet.ReleaseRef{Number: 3, Commit: third})
	p.seen(5, 1, 3)
	f.Moved(fleet.ReleaseRef{Number: 3, Commit: third})
	f.Moved(fleet.ReleaseRef{Test: "release-joker-test-1", Commit: third})
	f.Hint(time.Now())
	until(t, "the test branch, which is not there, was looked for", func() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.wakes == 7 })

	p.point("release", p.make(4, "stranger"))
	f.Hint(time.Now())
	until(t, "it complains", func() bool { return strings.Contains(p.log.String(), "points at what is no release") })
	p.seen(8, 1, 3) // agents shall see for themselves
	p.point("release", first)
	f.Hint(time.Now())
	until(t, "it complains", func() bool { return strings.Contains(p.log.String(), "went back") })
	p.seen(9, 1, 3)
	p.point("release", p.make(5, "release"))
	f.Hint(time.Now())
	p.seen(10, 1, 3, 5)
	stop()
}

// TestFollowsWithoutHints: what nobody says is seen by polling, also after the remote was away.
func TestFollowsWithoutHints(t *testing.T) {
	p := newPublished(t)
	p.point("release", p.make(1, "stranger"))
	p.follow(20*time.Millisecond, func(f *hub.FollowOptions) { f.Signers = "" })
	p.seen(1, 1)
	must(t, os.Rename(p.repo.Dir, p.repo.Dir+".away"))
	until(t, "it complains", func() bool { return strings.Contains(p.log.String(), "cannot see what is published") })
	must(t, os.Rename(p.repo.Dir+".away", p.repo.Dir))
	p.point("release", p.make(2, "stranger"))
	p.seen(2, 1, 2)
}

func TestConcerns(t *testing.T) {
	f := hub.NewFollower(hub.FollowOptions{Branch: "release"})
	for ref, want := range map[string]bool{
		"refs/heads/release": true, "refs/heads/release-joker-test": true, "refs/heads/main": false, "refs/heads/joker-test": false, "refs/heads/release-test": false,
		"refs/tags/release-1": false, "release": false, "": false, "refs/heads/release-": false, "refs/heads/releases": false,
	} {
		if got := f.Concerns(ref); got != want {
			t.Errorf("Concerns(%q) is %v", ref, got)
		}
	}
}

// TestPastReleases: which releases there were is read from git by a hub that was away or is made anew; of those that nobody was told of there are events.
func TestPastReleases(t *testing.T) {
	p := newPublished(t)
	for n := 1; n <= 4; n++ {
		p.make(n, "release")
	}
	p.make(5, "stranger")
	p.point("release", p.make(6, "release"))
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "repo.git")
	again := func(dir string, remote string) (stop func()) {
		t.Helper()
		repo, err := git.Init(t.Context(), dir)
		must(t, err)
		_, stop = p.follow(time.Hour, func(f *hub.FollowOptions) { f.Hub, f.Repo, f.Remote.URL, f.Newest = w.Hub, repo, remote, w.SetNewest })
		return stop
	}
	kept := func(want string) {
		t.Helper()
		until(t, "releases "+want+" are kept", func() bool {
			list, err := w.store.Releases(t.Context(), 0, 100)
			must(t, err)
			var numbers []int
			for _, r := range list {
				numbers = append(numbers, r.Release.Number)
				if r.Release.Tag == "" || r.Release.Commit == "" || r.CreatedAt.Unix() != 1_780_000_000+int64(r.Release.Number) || len(r.Manual) != 1 || r.SeenAt.IsZero() {
					t.Errorf("%+v", r)
				}
			}
			return fmt.Sprint(numbers) == want
		})
	}
	told := func() (subjects string) {
		events, err := w.store.Events(t.Context(), []string{fleet.EventReleased}, 0, 100)
		must(t, err)
		for _, e := range events {
			subjects += " " + e.Subject
		}
		return subjects
	}
	stop := again(dir, p.repo.Dir)
	kept("[6 4 3 2 1]")
	stop()
	if got := told(); got != " release-6" {
		t.Errorf("a new hub told of%s", got)
	}
	p.make(7, "release")
	p.point("release", p.make(8, "release"))
	stop = again(dir, p.repo.Dir)
	kept("[8 7 6 4 3 2 1]")
	stop()
	if got := told(); got != " release-6 release-7 release-8" {
		t.Errorf("after it was away it told of%s", got)
	}
	if refs, err := exec.Command("git", "--git-dir", dir, "for-each-ref", "--format=%(refname)").Output(); err != nil || string(refs) != "refs/garrison/published/newest\n" {
		t.Errorf("it leaves %s, %v", refs, err)
	}

	// Until when its key may sign is known, and that the remote is seen.
	public, err := os.ReadFile(filepath.Join(p.dir, "release.pub"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(p.dir, "signers"), []byte("garrison valid-before=\"20990101\" "+string(public)), 0o600))
	repo, err := git.Init(t.Context(), dir)
	must(t, err)
	f, stop := p.follow(time.Hour, func(f *hub.FollowOptions) { f.Repo = repo })
	until(t, "it has looked", func() bool { return !f.Contact().LastOK.IsZero() })
	if c, ok := f.Signer(t.Context()); !ok || c.Ends.Year() != 2099 || f.Contact().Failure != nil {
		t.Errorf("%+v, %v, %+v", c, ok, f.Contact())
	}
	stop()

	// Before the remote answers, the newest release is what it was.
	w = newWorld(t)
	again(dir, filepath.Join(t.TempDir(), "away"))
	until(t, "it remembers", func() bool { m := w.Newest(); return m != nil && m.Number == 8 })
	if s, found, err := w.Host(t.Context(), "joker"); err != nil || !found || s.Phase != fleet.PhaseManual {
		t.Errorf("%+v, %v, %v", s, found, err)
	}
	if hosts, err := w.Hosts(t.Context()); err != nil || len(hosts) != 1 {
		t.Errorf("%+v, %v", hosts, err)
	}
}
