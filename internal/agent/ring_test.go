package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ringsOf are rings of which the one of a step is the second.
func ringsOf(s fleet.Step) []fleet.Ring {
	return []fleet.Ring{{Name: "canary", Batches: 1, SoakSeconds: 3600}, {Name: s.Ring, Batches: max(s.Batch, 2)}}
}

var late = fleet.Step{Ring: "late", Batch: 1}

// promote moves the branch of a step of the roll-out.
func (b *box) promote(s fleet.Step, commit string) {
	b.t.Helper()
	b.move(fleet.RingBranch("release", s.Ring, s.Batch), commit)
}

// given waits until a release was given to the host, and activated, while another is the newest.
func (b *box) given(n int, variant string, ahead int) fleet.Status {
	b.t.Helper()
	s := b.await(fleet.TagName(n)+" is what the ring has", func(s fleet.Status) bool {
		return s.Newest != nil && s.Newest.Number == n && s.Phase == fleet.PhaseIdle && s.Systems.Current == b.lab.out(variant) &&
			(s.Ahead == nil && ahead == 0 || s.Ahead != nil && s.Ahead.Release.Number == ahead)
	})
	if s.Refused != nil || s.Failure != nil || s.Drift {
		b.t.Errorf("refused %+v, failure %+v, drift %v", s.Refused, s.Failure, s.Drift)
	}
	b.runs(variant)
	return s
}

// TestRing: a host follows the branch of its ring, whatever the newest release is, straight to where that points; a branch that is not there gives it
// nothing, and one that is behind leaves it where it is.
func TestRing(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.step = late
	b.publish("good1")
	one := b.tip
	s := b.await("release-1 is ahead", func(s fleet.Status) bool { return s.Ahead != nil })
	if s.Phase != fleet.PhaseNew || s.Newest != nil || s.Ring != "late" || s.Batch != 1 || s.Boot == "" || s.Ahead.OutPath != b.lab.out("good1") {
		t.Errorf("%+v", s)
	}
	b.promote(late, one)
	b.given(1, "good1", 0)

	b.publish("good2")
	two := b.tip
	b.given(1, "good1", 2)
	b.publish("good3")
	b.given(1, "good1", 3)
	b.restartAgent()
	b.given(1, "good1", 3)
	b.promote(late, two)
	b.given(2, "good2", 3)
	b.promote(late, b.tip)
	b.given(3, "good3", 0)
	b.promote(late, one)
	b.must("sleep 2")
	b.given(3, "good3", 0)

	// To another batch of the ring, which is behind, and further on with that.
	b.step.Batch = 2
	b.promote(b.step, two)
	b.publish("good1")
	b.given(3, "good3", 4)
	b.promote(late, b.tip)
	b.must("sleep 2")
	b.given(3, "good3", 4)
	b.promote(b.step, b.tip)
	b.given(4, "good1", 0)

	// Rings are given up, and made again.
	b.step = fleet.Step{}
	b.publish("good2")
	if s := b.given(5, "good2", 0); s.Ring != "" || s.Batch != 0 {
		t.Errorf("ring %q, batch %d", s.Ring, s.Batch)
	}
	b.step = fleet.Step{Ring: "first", Batch: 1}
	b.publish("good3")
	b.given(5, "good2", 6)
	b.promote(b.step, b.tip)
	b.given(6, "good3", 0)
	for _, d := range b.history(3) {
		if d.Result != fleet.Committed {
			t.Errorf("%+v", d)
		}
	}
	if log := b.must("cat /var/log/agent.log"); strings.Contains(log, "level=ERROR") {
		t.Errorf("%s", log)
	}
}
