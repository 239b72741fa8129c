package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// A failure in a ring that has passed the release already stops it further on.
func TestLateFailureStops(t *testing.T) {
	s := underWay("a: 1; b: 1; c: 1")
	s.allTake(12)
	s.expect(t, "b.1=12")
	s.Now = s.Now.Add(time.Minute)
	s.takes("b1x", 12, s.Now)
	s.says("a1x").Reboot = &fleet.Reboot{Failure: &fleet.Failure{Message: "sshd is down"}}
	s.expect(t, "", "paused: paused: a1x is not well since it was to reboot for release-12: sshd is down")
	s.says("a1x").Reboot = nil
	s.expect(t, "c.1=12")
}

// A ring is passed by all of its batches, and by what they have now.
func TestRingsWhole(t *testing.T) {
	a1, a2, b := fleet.Step{Ring: "a", Batch: 1}, fleet.Step{Ring: "a", Batch: 2}, fleet.Step{Ring: "b", Batch: 1}
	s := newStand("a: 1 1; b: 1; c: 1")
	s.everywhere(11)
	s.publish(12).Rings[0].Manual = true
	s.Tips[a2] = 12
	s.promoted(a2, 12, s.Now)
	s.pass(time.Minute)
	s.takes("a2x", 12, s.Now)
	s.expect(t, "")
	s.Tips[a1] = 12
	s.takes("a1x", 12, s.Now)
	s.expect(t, "b.1=12")
	s.takes("b1x", 12, s.Now)
	// Somebody set b's branch back, and it is to wait for a word.
	s.Tips[b], s.Newest.Rings[1].Manual = 11, true
	s.expect(t, "")
}

// An abort at once is one move for each step, also for one that had something else coming.
func TestAbortOvertakes(t *testing.T) {
	s := underWay("a: 1; b: 1")
	s.Tips[fleet.Step{Ring: "b", Batch: 1}] = 10
	s.Ledger.Promotions["release-ring-b"] = nil
	s.Ledger.Aborted = s.order(12)
	s.Ledger.Aborted.To, s.Ledger.Aborted.AtOnce = 11, true
	s.publish(13).RollbackTo = 11
	s.expect(t, "a.1=13 b.1=13")
}

// What somebody took back from a step does not go on from there.
func TestTakenBack(t *testing.T) {
	b1, b2 := fleet.Step{Ring: "b", Batch: 1}, fleet.Step{Ring: "b", Batch: 2}
	s := underWay("a: 1; b: 1 1")
	s.promoted(b1, 12, s.Now)
	s.Tips[b1], s.Tips[b2] = 11, 10
	s.expect(t, "b.2=11")
}

// An abort at once is over when its release was made: what goes back to the same release later waits at each gate like any other.
func TestAbortIsOver(t *testing.T) {
	s := underWay("a: 1; b: 1")
	s.Ledger.Aborted = s.order(12)
	s.Ledger.Aborted.To, s.Ledger.Aborted.AtOnce, s.Ledger.Aborted.Made = 11, true, 13
	s.publish(13).RollbackTo = 11
	s.expect(t, "a.1=13 b.1=13")
	s.everywhere(13)
	s.publish(14)
	s.everywhere(14)
	s.pass(day)
	later := s.publish(15)
	delete(s.Releases, 13) // nobody has it any more
	later.RollbackTo = 11
	later.Rings[0].Manual = true
	if kept := rollout.First(later, s.Ledger, s.Now); !strings.Contains(kept, "waits for a person's word") {
		t.Errorf("it is given to the first step as it is published: kept by %q", kept)
	}
	s.expect(t, "")
}

// An abort may be made by the very release that it was ordered about: that one goes on.
func TestAbortMadeBefore(t *testing.T) {
	s := underWay("a: 1; b: 1")
	s.Newest.RollbackTo = 11
	s.Ledger.Aborted = s.order(12)
	s.Ledger.Aborted.To = 11
	s.allTake(12)
	s.expect(t, "")
	s.Ledger.Aborted.Made = 12
	s.expect(t, "b.1=12")
}
