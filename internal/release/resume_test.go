package release_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// victim is what a process that is going to be killed needs to know.
type victim struct {
	Repo, Origin, Key, Editor, Cache string
	After                            int // the event of the timeline in which it dies
	Use                              int // or the use of the editor's key
}

const victimVar = "GARRISON_TEST_VICTIM"

// atEvent calls f in the n-th event (a stage begins, a stage ends) of a run.
func atEvent(ctx context.Context, n int, f func()) context.Context {
	seen := 0
	return proc.WithTimeline(ctx, &proc.Timeline{OnStage: func(fleet.StageTime, bool) {
		if seen++; seen == n {
			f()
		}
	}})
}

// TestVictim is not a test of its own, but the process that others kill.
func TestVictim(t *testing.T) {
	var v victim
	text := os.Getenv(victimVar)
	if text == "" {
		return
	}
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	editor, err := age.ParseX25519Identity(v.Editor)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, nix: nixtest.System(t)}
	ctx := atEvent(t.Context(), v.After, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	_, err = release.Run(ctx, release.Options{Repo: &git.Repo{Dir: v.Repo}, Remote: v.Origin, SigningKey: v.Key, Nix: w.nix,
		Identities: identitiesOf(deadly{editor, &v.Use}), Cache: w.pushTo(v.Cache, cachetest.PushToken, nil)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("it came to its end")
}

// Events of a first release: two for each stage, and evaluate and re-key come twice.
const events = 2 * 8

// TestKilled kills release after release with SIGKILL, each an event later than the one before in the same repository.
// Nothing is published until the last but one, and what is published in the end is whole.
func TestKilled(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	before := w.refs()
	for n := 1; n <= events; n++ {
		v, err := json.Marshal(victim{w.repo.Dir, w.origin, w.key, w.editor.String(), w.cache.CacheURL(), n, 0})
		w.must(err)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$")
		cmd.Env = append(os.Environ(), victimVar+"="+string(v))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("event %d: it was not killed: %v\n%s", n, err, out)
		}
		if published := w.refs() != before; published != (n == events) {
			t.Fatalf("event %d: published is %v", n, published)
		}
	}
	last, err := release.Run(t.Context(), w.options())
	w.must(err)
	if last.State != fleet.RunUnchanged || last.Release.Number != 1 {
		t.Errorf("%+v", last)
	}
	w.wantWhole(last)
	w.change("The next one")
	w.release()
	left, err := filepath.Glob(filepath.Join(w.repo.Dir, "garrison-*-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestCanceled stops a release in each event but the last; what it ran has ended when it returns.
func TestCanceled(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	before := w.refs()
	stop := errors.New("somebody pressed Ctrl-C")
	for n := 1; n < events; n++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := release.Run(atEvent(ctx, n, func() { cancel(stop) }), w.options())
		if !errors.Is(err, stop) && !errors.Is(err, context.Canceled) {
			t.Errorf("event %d: %v", n, err)
		}
		if w.refs() != before {
			t.Fatalf("event %d: it was published", n)
		}
	}
	w.release()
}
