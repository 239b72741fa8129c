package rollout_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// standing is a fleet of three rings, the second in two batches: release 9 is in the first ring, 8 in the second, 7 in the third.
func standing() rollout.Standing {
	s := rollout.Standing{Branch: "release", Now: noon, Releases: map[int]bool{6: true, 7: true, 8: true, 9: true},
		Newest: &fleet.Manifest{Number: 9, Rings: []fleet.Ring{{Name: "a", Batches: 1}, {Name: "b", Batches: 2}, {Name: "c", Batches: 1, Manual: true}}},
		Tips:   map[fleet.Step]int{{Ring: "a", Batch: 1}: 9, {Ring: "b", Batch: 1}: 8, {Ring: "b", Batch: 2}: 8, {Ring: "c", Batch: 1}: 7}}
	for step, n := range s.Tips {
		s.Ledger.Promoted(fleet.RingBranch("release", step.Ring, step.Batch), fleet.Promotion{Release: n})
	}
	return s
}

func TestCarry(t *testing.T) {
	until := noon.Add(1e12)
	for name, c := range map[string]struct {
		command fleet.RolloutCommand
		summary string
		moves   string
		code    fleet.Code
	}{
		"pause":              {fleet.RolloutCommand{Act: "pause"}, "pause at release-9", "", ""},
		"resume":             {fleet.RolloutCommand{Act: "resume", Release: 8}, "resume with release-8", "", ""},
		"freeze":             {fleet.RolloutCommand{Act: "freeze", Until: &until}, "freeze until 2026-11-30 12:16 UTC", "", ""},
		"freeze without end": {fleet.RolloutCommand{Act: "freeze"}, "", "", fleet.CodeUsage},
		"unfreeze":           {fleet.RolloutCommand{Act: "unfreeze"}, "", "", fleet.CodeNotNow},
		"abort":              {fleet.RolloutCommand{Act: "abort"}, "abort release-9: back to release-7", "", ""},
		"abort to":           {fleet.RolloutCommand{Act: "abort", To: 6, AtOnce: true}, "abort release-9: back to release-6 at once", "", ""},
		"abort to what":      {fleet.RolloutCommand{Act: "abort", To: 5}, "", "", fleet.CodeNotFound},
		"a word":             {fleet.RolloutCommand{Act: "promote", Ring: "c"}, "release-8 may go to ring c", "", ""},
		"a word for another": {fleet.RolloutCommand{Act: "promote", Ring: "c", Release: 9}, "release-9 may go to ring c", "", ""},
		"by force":           {fleet.RolloutCommand{Act: "promote", Ring: "b", Release: 9, Force: true}, "release-9 goes to ring b, whatever its gates say", "b/1 8→9 b/2 8→9", ""},
		"by force, the next": {fleet.RolloutCommand{Act: "promote", Ring: "c", Force: true}, "release-8 goes to ring c, whatever its gates say", "c/1 7→8", ""},
		"has it":             {fleet.RolloutCommand{Act: "promote", Ring: "a", Force: true}, "", "", ""},
		"has a newer":        {fleet.RolloutCommand{Act: "promote", Ring: "a", Release: 8, Force: true}, "", "", fleet.CodeNotNow},
		"no such ring":       {fleet.RolloutCommand{Act: "promote", Ring: "d"}, "", "", fleet.CodeNotFound},
		"no such release":    {fleet.RolloutCommand{Act: "promote", Ring: "c", Release: 10}, "", "", fleet.CodeNotFound},
		"nobody's release":   {fleet.RolloutCommand{Act: "promote", Ring: "c", Release: 5}, "", "", fleet.CodeNotFound},
		"what":               {fleet.RolloutCommand{Act: "dance"}, "", "", fleet.CodeUsage},
	} {
		c.command.Reason = "because"
		s := standing()
		before, _ := s.Ledger.Bytes()
		a, err := rollout.Carry(c.command, "Ann", s)
		var moves []string
		for _, m := range a.Moves {
			moves = append(moves, fmt.Sprintf("%s/%d %d→%d", m.Ring, m.Batch, m.From, m.To))
			if of := a.Ledger.Promotions[fleet.RingBranch("release", m.Ring, m.Batch)]; of[len(of)-1].Release != m.To || of[len(of)-1].By != "Ann" {
				t.Errorf("%s: the ledger says %+v", name, of)
			}
		}
		if fleet.CodeOf(err) != c.code || err == nil && a.Summary != c.summary || strings.Join(moves, " ") != c.moves {
			t.Errorf("%s: %q, %v, %v", name, a.Summary, moves, err)
		}
		if after, _ := s.Ledger.Bytes(); string(after) != string(before) {
			t.Errorf("%s: the ledger before it was changed", name)
		}
		if c.command.Reason = " "; c.code == "" && c.summary != "" {
			if _, err := rollout.Carry(c.command, "Ann", standing()); fleet.CodeOf(err) != fleet.CodeUsage {
				t.Errorf("%s without a reason: %v", name, err)
			}
		}
	}
	if _, err := rollout.Carry(fleet.RolloutCommand{Act: "freeze", Reason: "x"}, "Ann", rollout.Standing{Newest: &fleet.Manifest{Number: 3}}); fleet.CodeOf(err) != fleet.CodeNotNow || !strings.Contains(err.Error(), "no rings") {
		t.Errorf("without rings: %v", err)
	}

	// What was aborted goes to no ring by a mere word.
	s := standing()
	s.Ledger.Aborted = &fleet.RolloutOrder{By: "Bob", Reason: "smoke", Release: 9, To: 7}
	if _, err := rollout.Carry(fleet.RolloutCommand{Act: "promote", Ring: "c", Release: 8, Reason: "x"}, "Ann", s); fleet.CodeOf(err) != fleet.CodeNotNow {
		t.Errorf("aborted: %v", err)
	}
}

func TestKept(t *testing.T) {
	s := standing()
	if got := s.Kept("c", 9); len(got) != 2 || !strings.Contains(got[0], "ring b, before it, does not have release-9") || !strings.Contains(got[1], "garrison promote --to c release-9") {
		t.Errorf("%q", got)
	}
	if got := s.Kept("b", 9); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
