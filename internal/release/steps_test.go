package release_test

import (
	"bytes"
	"errors"
	"fmt"
	"go/build"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// shim stands in for a program that garrison runs. It counts garrison's calls, and does $DO before or after one of them.
const shim = `#!/bin/sh
PATH=$REAL_PATH
read -r caller < /proc/$PPID/comm
[ "$caller" = garrison ] || exec %[1]s "$@"
echo "%[1]s $1 $2 $3 $4 $5" >> "$CALLS"
n=$(wc -l < "$CALLS")
if [ "$n-before" = "$AT" ]; then eval "$DO"; fi
%[1]s "$@"
code=$?
if [ "$n-after" = "$AT" ]; then eval "$DO"; fi
exit $code
`

// stepper releases by the built program, with shims on its PATH.
type stepper struct {
	*world
	env []string
}

func newStepper(t *testing.T) *stepper {
	w := newWorld(t, nixtest.System(t))
	s := &stepper{world: w}
	bin := filepath.Join(w.dir, "bin")
	w.must(os.MkdirAll(filepath.Join(w.dir, "shims"), 0o755))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(bin, "garrison"), "../../cmd/garrison")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOPATH="+build.Default.GOPATH, "XDG_CACHE_HOME="+os.Getenv("NIXTEST_CACHE")) // tests have another home
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	for _, program := range []string{"git", "nix", "nix-store", "ssh-keygen"} {
		w.must(os.WriteFile(filepath.Join(w.dir, "shims", program), []byte(fmt.Sprintf(shim, program)), 0o755))
	}
	w.must(os.WriteFile(filepath.Join(w.dir, "token"), []byte(cachetest.PushToken), 0o600))
	s.env = append(os.Environ(), "REAL_PATH="+os.Getenv("PATH"), "PATH="+filepath.Join(w.dir, "shims")+":"+os.Getenv("PATH"))
	return s
}

// at goes on with a copy of the origin, of that name.
func (s *stepper) at(name string) (origin string) {
	origin = filepath.Join(s.dir, name)
	s.must(os.CopyFS(origin, os.DirFS(s.origin)))
	s.do("git", "remote", "set-url", "origin", origin)
	s.origin = origin
	return origin
}

// attempt is one way for releases to go: an origin as it was, an empty repository, store and cache.
type attempt struct {
	*world
	s    *stepper
	env  []string
	args []string
}

func (s *stepper) attempt(t *testing.T, template string) *attempt {
	w := *s.world
	a := &attempt{world: &w, s: s}
	w.t, w.dir = t, t.TempDir()
	w.origin = filepath.Join(w.dir, "origin.git")
	w.must(os.CopyFS(w.origin, os.DirFS(template)))
	w.cache = cachetest.NewServer(t, nil)
	w.repo = w.newRepo("ci.git")
	w.nix = nixtest.Elsewhere(t, s.nix)
	a.env = slices.Concat(s.env, []string{"NIX_REMOTE=" + w.nix.Store})
	a.args = []string{"release", "--repo", w.repo.Dir, "--remote", w.origin, "--key", w.key, "--identity", filepath.Join(s.dir, "editor"),
		"--cache", w.cache.CacheURL(), "--cache-token-file", filepath.Join(s.dir, "token"), "--jobs", "1"}
	return a
}

// run runs garrison; kill is like "7-before", or "" for a run that nobody disturbs. It returns garrison's calls, and whether it was killed.
func (a *attempt) run(kill string) (calls []string, killed bool) {
	a.t.Helper()
	calls, out, err := a.start(kill, "kill -9 $PPID; exit 1")
	var exit *exec.ExitError
	killed = errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if err != nil && !killed {
		a.t.Fatalf("%s: %v\n%s", kill, err, out)
	}
	return calls, killed
}

// start runs garrison to its end, while a script is run at one of its calls, like "7-before". It returns garrison's calls and what it said.
func (a *attempt) start(at, script string) (calls []string, out []byte, err error) {
	a.t.Helper()
	file := filepath.Join(a.dir, "calls")
	a.must(os.WriteFile(file, nil, 0o644))
	cmd := exec.CommandContext(a.t.Context(), filepath.Join(a.s.dir, "bin/garrison"), a.args...)
	cmd.Env = slices.Concat(a.env, []string{"AT=" + at, "DO=" + script, "CALLS=" + file})
	out, err = cmd.CombinedOutput()
	said, rerr := os.ReadFile(file)
	a.must(rerr)
	return strings.Split(strings.TrimSpace(string(said)), "\n"), out, err
}

// published is the newest release at the origin, nil if there is none; its closures must be in the cache, if it is the one that was to be made and they are looked at.
func (a *attempt) published(number int, whole bool) (commit string, m *fleet.Manifest) {
	a.t.Helper()
	origin := &git.Repo{Dir: a.origin}
	tags, err := origin.Refs(a.t.Context(), "refs/tags/")
	a.must(err)
	if len(tags) == 0 {
		return "", nil
	}
	tag, err := origin.ReadTag(a.t.Context(), tags[fleet.TagName(len(tags))].ID)
	a.must(err)
	if m, err = fleet.ParseTagMessage(tag.Message); err != nil {
		a.t.Fatal(err)
	}
	if tip := a.do("git", "--git-dir", a.origin, "rev-parse", "release"); tip != tag.Commit {
		a.t.Fatalf("release is %s, %s is %s", tip, tag.Name, tag.Commit)
	}
	if m.Number == number && whole {
		a.wantInCache(m)
	}
	return tag.Commit, m
}

// TestKilledAtEveryCall kills garrison before and after every program that it runs, for a first release, which re-keys, and for the
// next. Each time the origin has what it had or the whole release, and the run after that makes what an undisturbed one makes: the same number, and,
// where nothing is encrypted anew, the same commit.
func TestKilledAtEveryCall(t *testing.T) {
	s := newStepper(t)
	first := s.origin
	next := s.at("next.git")
	s.world.release() // by the library; the next is the program's
	s.change("Next")
	for name, c := range map[string]struct {
		template string
		number   int
	}{"first": {first, 1}, "next": {next, 2}} {
		t.Run(name, func(t *testing.T) {
			undisturbed := s.attempt(t, c.template)
			calls, _ := undisturbed.run("")
			want, m := undisturbed.published(c.number, true)
			if m == nil || m.Number != c.number {
				t.Fatalf("undisturbed: %+v", m)
			}
			for n := 1; n <= len(calls); n++ {
				t.Run(strconv.Itoa(n), func(t *testing.T) {
					t.Parallel()
					a := s.attempt(t, c.template)
					refs := a.refs()
					for _, when := range []string{"before", "after"} {
						said, killed := a.run(fmt.Sprintf("%d-%s", n, when))
						_, got := a.published(c.number, when == "after")
						if whole := got != nil && got.Number == c.number; !whole && a.refs() != refs {
							t.Fatalf("killed %s %s: the origin has\n%s\nand had\n%s", when, said[len(said)-1], a.refs(), refs)
						} else if !whole && !killed {
							t.Fatalf("it was not killed %s call %d, and published nothing: %q", when, n, said)
						}
					}
					a.run("")
					commit, got := a.published(c.number, true)
					if got.Number != c.number || c.number > 1 && commit != want {
						t.Errorf("afterwards release %d is %s, undisturbed %d is %s", got.Number, commit, c.number, want)
					}
					again := a.refs()
					if n == len(calls) { // once is enough: it only looks
						a.run("")
					}
					if a.refs() != again || bytes.Count([]byte(again), []byte("refs/tags/")) != c.number {
						t.Errorf("published twice: %s", a.refs())
					}
				})
			}
		})
	}
}
