package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// trial is a test release that can be made false.
type trial struct {
	host, key string // joker and release unless given
	base      int
	ref       string // as which its tag is known; its name unless given
}

// try makes test release n with a variant and moves joker's test branch to it.
func (b *box) try(n int, variant string, t trial) string {
	b.t.Helper()
	ctx := testContext(b.t)
	when := time.Unix(1_790_000_000+int64(n), 0)
	if t.host == "" {
		t.host = "joker"
	}
	if t.key == "" {
		t.key = "release"
	}
	commit, err := b.origin.WriteCommit(ctx, git.Commit{Tree: b.tree, Parents: []string{b.tip}, Message: fmt.Sprintf("test %d of %s by %s", n, variant, t.key), When: when})
	if err != nil {
		b.t.Fatal(err)
	}
	m := *b.lab.manifest
	m.Number, m.CreatedAt, m.Manual, m.Test, m.Base = n, when, nil, t.host, t.base
	m.Hosts = map[string]fleet.Entry{t.host: b.lab.manifest.Hosts[variant]}
	message, err := m.TagMessage()
	if err != nil {
		b.t.Fatal(err)
	}
	if t.ref == "" {
		t.ref = m.Name()
	}
	if _, err := b.origin.SignTag(ctx, "refs/tags/"+t.ref, m.Name(), commit, message, b.lab.key(t.key), when); err != nil {
		b.t.Fatal(err)
	}
	b.pointTest(commit)
	return commit
}

// pointTest moves joker's test branch; "" deletes it.
func (b *box) pointTest(commit string) {
	b.t.Helper()
	if err := b.origin.UpdateRef(testContext(b.t), "refs/heads/release-joker-test", commit); err != nil {
		b.t.Fatal(err)
	}
}

// testing waits until a test release runs, while what was confirmed is what boots.
func (b *box) testing(n int, variant, confirmed string) fleet.Status {
	b.t.Helper()
	name := fleet.TestTagName("joker", n)
	s := b.await(name+" runs", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseTesting && s.Test != nil && s.Test.Test == name && s.Systems.Current == b.lab.out(variant)
	})
	if s.Drift || s.Active.OutPath != b.lab.out(confirmed) || s.Last.Result != fleet.Tested || s.Last.Release.Name() != name {
		b.t.Errorf("drift %v, active %+v, last %+v", s.Drift, s.Active, s.Last)
	}
	b.systems(variant, confirmed)
	return s
}

// back waits until what was confirmed runs again.
func (b *box) back(variant string) {
	b.t.Helper()
	b.await("it is back at "+variant, func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Test == nil && s.Systems.Current == b.lab.out(variant)
	})
	b.runs(variant)
}

// ignores waits until a tip is ignored for a reason, with which nothing else is wrong.
func (b *box) ignores(tip string, code fleet.Code) {
	b.t.Helper()
	s := b.await(fmt.Sprintf("%.12s is ignored", tip), func(s fleet.Status) bool {
		return s.Remotes[0].Ignored != nil && s.Remotes[0].Ignored.Tip == tip
	})
	if f := s.Remotes[0].Ignored.Failure; f.Code != code || s.Refused != nil || s.Failure != nil {
		b.t.Errorf("ignored for %+v; refused %+v, failure %+v", f, s.Refused, s.Failure)
	}
}

// A test release is tried while its branch is there, and is never what boots: the next push is tried, too, and with the branch, or
// with a newer release, it ends.
func TestTestBranch(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.try(1, "good2", trial{base: 1})
	b.testing(1, "good2", "good1")
	b.says(4, "testing: tries release-joker-test-1")
	b.orders(0, "explain", "tries release-joker-test-1", "No boot takes it: release-1")
	b.restartAgent()
	b.testing(1, "good2", "good1")
	b.try(2, "good3", trial{base: 1})
	b.testing(2, "good3", "good1")
	b.pointTest("")
	b.back("good1")
	b.says(0)

	// A boot ends it, and the agent does not begin again by itself.
	b.try(3, "good2", trial{base: 1})
	b.testing(3, "good2", "good1")
	b.reboot()
	b.back("good1")
	b.must("sleep 3") // three looks
	b.back("good1")

	// Merged: the release has what was tried.
	b.try(4, "good2", trial{base: 1})
	b.testing(4, "good2", "good1")
	b.deploy("good2")
	b.ignores(b.ref("release-joker-test"), fleet.CodeNotDescendant)
	b.says(0)
	b.pointTest("")
	b.await("nothing is ignored", func(s fleet.Status) bool { return s.Remotes[0].Ignored == nil })

	// Overtaken by a release that changes nothing here: what was confirmed comes back all the same.
	b.try(5, "good3", trial{base: 2})
	b.testing(5, "good3", "good2")
	b.publish("good2")
	b.back("good2")
}

// A test that fails is rolled back and held; releases go on.
func TestTestFails(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	b.try(1, "fails", trial{base: 1})
	s := b.await("it is held", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld })
	if s.Last.Result != fleet.RolledBack || s.Target.Release.Name() != "release-joker-test-1" || s.Drift {
		t.Errorf("%+v, target %+v", s.Last, s.Target)
	}
	b.runs("good1")
	b.deploy("good2")
	b.try(2, "reboot", trial{base: 2}) // which takes effect at a boot
	s = b.await("it is held", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld })
	if s.Last.Result != fleet.RolledBack || !strings.Contains(s.Failure.Message, "cannot be tried") {
		t.Errorf("%+v", s.Last)
	}
	b.runs("good2")
	b.pointTest("")
	b.back("good2")
}

// What is no test release for this host on the newest release is ignored, with a word in the status, and stops no release.
func TestFalseTests(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	tip := b.make(900, "good2", signed{ref: "elsewhere", parents: []string{b.tip}}) // without a tag of a test
	b.pointTest(tip)
	b.ignores(tip, fleet.CodeUnsigned)
	b.ignores(b.try(1, "good2", trial{base: 1, key: "stranger"}), fleet.CodeUnknownKey)
	b.ignores(b.try(2, "good2", trial{base: 1, host: "ratched", ref: "release-joker-test-2"}), fleet.CodeReplayed)
	b.ignores(b.try(3, "good2", trial{base: 7}), fleet.CodeNotDescendant)
	b.runs("good1")
	b.deploy("good2")
	b.runs("good2")
	old := b.try(4, "good3", trial{base: 2})
	b.testing(4, "good3", "good2")
	b.try(5, "good1", trial{base: 2})
	b.testing(5, "good1", "good2")
	b.pointTest(old)
	b.ignores(old, fleet.CodeReplayed)
	b.systems("good1", "good2")
	// What is no release is not taken for one: the release branch at a test's commit.
	b.point(old)
	s := b.await("it is refused", func(s fleet.Status) bool { return s.Refused != nil })
	if s.Refused.Failure.Code != fleet.CodeUnsigned {
		t.Errorf("%+v", s.Refused)
	}
}

func (b *box) ref(branch string) string {
	b.t.Helper()
	id, _, err := b.origin.Resolve(testContext(b.t), "refs/heads/"+branch)
	if err != nil {
		b.t.Fatal(err)
	}
	return id
}
