package agent_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestChecksOnEveryWay has a release declare a check that later fails: by whatever way its system is deployed then, it is checked.
func TestChecksOnEveryWay(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.number = 1
	b.tip = b.make(1, "good1", signed{message: func(m *fleet.Manifest) []byte {
		e := m.Hosts["joker"]
		e.Checks = []fleet.HealthCheck{{Name: "valve", Command: []string{"/bin/sh", "-c", "test ! -e /run/stuck"}, TimeoutSeconds: 10}}
		m.Hosts["joker"] = e
		message, err := m.TagMessage()
		if err != nil {
			t.Error(err)
		}
		return message
	}})
	b.point(b.tip)
	b.ended(1)
	b.runs("good1")
	b.deploy("good2")
	b.must(": > /run/stuck")
	for i, way := range []string{"deploy " + b.lab.out("good1"), "rollback", "deploy release-1", "deploy " + b.lab.out("good1")} {
		before, err := b.status()
		if err != nil {
			t.Fatal(err)
		}
		b.orders(0, way, "turning to ")
		s := b.await(way+" has ended", func(s fleet.Status) bool {
			return !s.Last.EndedAt.Equal(before.Last.EndedAt) && (s.Phase == fleet.PhaseHeld || s.Phase == fleet.PhaseOverruled)
		})
		if s.Last.Failure == nil {
			t.Fatalf("%s: %s", way, s.Last.Result)
		}
		if s.Last.Result != fleet.RolledBack || s.Last.Failure.Code != fleet.CodeCheck || !strings.Contains(s.Last.Failure.Message, `check "valve" failed`) {
			t.Errorf("%s: %s, %+v", way, s.Last.Result, s.Last.Failure)
		}
		b.runs("good2")
		if i == 0 { // from here on nothing but the history knows the checks
			b.orders(0, "deploy release-2", "turning to release-2")
			b.phase(fleet.PhaseIdle, "good2")
		}
	}
	b.must("rm /run/stuck")
	b.orders(0, "rollback", "turning to release-1")
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")
}
