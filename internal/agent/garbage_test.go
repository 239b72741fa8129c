package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestGarbageInHistory has lines in the history that no agent wrote: none of them is a way back, and those beside them are.
func TestGarbageInHistory(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	for _, line := range []string{`{}`, `[]`, `null`, `nonsense`, `{"schema":1,"host":"joker","result":"committed","outPath":"../../etc"}`, `{"schema":1,"result":"committed"}`,
		`{"schema":1,"host":"joker","result":"committed","outPath":"/nix/store/nonsense","stages":[],"choice":{"act":"rollback"}}`} {
		b.must("printf '%s\\n' '" + line + "' >> " + stateDir + "/history.jsonl; printf '%s\\n' '" + line + "' >> " + stateDir + "/acts.jsonl")
	}
	b.restartAgent()
	b.phase(fleet.PhaseIdle, "good1")
	b.orders(1, "rollback", "the history has only 0 confirmed systems before the one that runs")
	b.deploy("good2")
	b.orders(0, "rollback", "turning to release-1")
	b.phase(fleet.PhaseOverruled, "good1")
	b.runs("good1")
	b.must("garrison history && garrison explain")
}

// TestManyOperators has many give orders at the same time, with followers of all kinds beside: each order is taken or refused, and what is on record
// in the end is what was taken last.
func TestManyOperators(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.deploy("good2")
	var all sync.WaitGroup
	var mu sync.Mutex
	taken := 0
	for i := range 4 {
		for _, order := range []string{"suspend --reason r --for 1h", "resume", "deploy release-1", "deploy release-2"} {
			all.Go(func() {
				out, err := b.host.Command(testContext(t), "sh", "-c", "garrison "+order).CombinedOutput()
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					taken++
				} else if !strings.Contains(string(out), "nothing is suspended") && !strings.Contains(string(out), "runs that system already") && !strings.Contains(string(out), "just being activated") {
					t.Errorf("%d: %s: %s", i, order, out)
				}
			})
		}
	}
	all.Wait()
	if out, err := b.run("garrison resume"); err == nil {
		taken++
	} else {
		t.Log(out)
	}
	b.await("all has come to an end", func(s fleet.Status) bool {
		return s.Suspended == nil && (s.Phase == fleet.PhaseIdle || s.Phase == fleet.PhaseOverruled)
	})
	if acts := b.acts(); len(acts) != taken {
		t.Errorf("%d orders were taken, and %d are in the history: %v", taken, len(acts), acts)
	}
	b.orders(0, "deploy release-2 || [ $? = 1 ]")
	b.phase(fleet.PhaseIdle, "good2")
	b.runs("good2")
	var record struct{ Phase fleet.Phase }
	if text := b.must("cat " + stateDir + "/state.json"); json.Unmarshal([]byte(text), &record) != nil || record.Phase != fleet.PhaseIdle {
		t.Errorf("the record: %s", fmt.Sprint(text))
	}
}
