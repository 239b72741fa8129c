package activate

import (
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestPassed: only what ended well has passed, of this request, and profile and boot entry are one stage.
func TestPassed(t *testing.T) {
	at := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	begin, done := func(name string) step { return step{ID: "7", Step: name} }, func(name string) step { return step{ID: "7", Step: name, Done: true} }
	for _, c := range []struct {
		steps   []step
		stages  []fleet.Stage
		seconds float64 // of the last
	}{
		{nil, nil, 0},
		{[]step{begin(stepTest)}, nil, 0},
		{[]step{begin(stepTest), done(stepTest), begin(stepCheck)}, []fleet.Stage{fleet.Activate}, 1},
		{[]step{begin(stepTest), done(stepTest), begin(stepCheck), done(stepCheck), begin(stepProfile), begin(stepBoot)}, []fleet.Stage{fleet.Activate, fleet.Check}, 1},
		{[]step{begin(stepTest), done(stepTest), begin(stepCheck), done(stepCheck), begin(stepProfile), begin(stepBoot), done(stepBoot)}, []fleet.Stage{fleet.Activate, fleet.Check, fleet.Commit}, 2},
		{[]step{begin(stepTest), begin(stepRollback), done(stepRollback)}, nil, 0},
		{[]step{{ID: "6", Step: stepTest}, {ID: "6", Step: stepTest, Done: true}}, nil, 0},
	} {
		dir := t.TempDir()
		j, err := durable.OpenJournal(journalFile(dir), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range c.steps {
			s.At = at.Add(time.Duration(i) * time.Second)
			if err := j.Append(s); err != nil {
				t.Fatal(err)
			}
		}
		j.Close()
		passed, err := Passed(dir, "7")
		var stages []fleet.Stage
		for _, p := range passed {
			stages = append(stages, p.Stage)
		}
		if err != nil || !slices.Equal(stages, c.stages) || len(passed) > 0 && passed[len(passed)-1].Seconds != c.seconds {
			t.Errorf("%+v: %+v, %v", c.steps, passed, err)
		}
	}
}
