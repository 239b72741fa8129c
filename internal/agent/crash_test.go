package agent_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// points are where a deployment is stopped, in its order: inside and after each program that it runs. early says that
// the system has not passed its checks then.
var points = []struct {
	gate  string // with VARIANT for the new system's
	early bool
}{
	{"in-test-VARIANT", true}, {"after-test-VARIANT", true}, {"before-profile", false}, {"after-profile", false},
	{"in-boot-VARIANT", false}, {"after-boot-VARIANT", false},
}

// crash stops a deployment at a gate, does the damage, and lets go.
func (b *box) crash(variant, gate string, damage func()) fleet.Status {
	b.t.Helper()
	gate = strings.ReplaceAll(gate, "VARIANT", variant)
	b.shut(gate)
	n := b.publish(variant)
	b.reached(gate)
	damage()
	time.Sleep(300 * time.Millisecond) // whoever comes next meets the switch at work
	b.open(gate)
	s := b.ended(n)
	if d := b.history(n); len(d) != 1 || d[0].Result != s.Last.Result {
		b.t.Errorf("the history of release-%d: %+v", n, d)
	}
	return s
}

// TestKilled kills agent, helper, or both at every point. Without the agent the deployment is what it
// would have been; without the helper too, once the system had passed its checks, else it is undone.
func TestKilled(t *testing.T) {
	for who, kill := range map[string]func(*box){
		"agent":  (*box).killAgent,
		"helper": (*box).killHelper,
		"both":   func(b *box) { b.killAgent(); b.killHelper() },
	} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{})
			b.deploy("good1")
			runs, other := "good1", "good2"
			for _, p := range points {
				s := b.crash(other, p.gate, func() { kill(b) })
				if p.early && who != "agent" {
					if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld || s.Failure.Code != fleet.CodeInterrupted {
						t.Errorf("%s: %s, phase %s, %+v", p.gate, s.Last.Result, s.Phase, s.Failure)
					}
					b.runs(runs)
					b.says(3, "held", "the activation was interrupted")
					continue // and a newer release tries the same system again
				}
				if s.Last.Result != fleet.Committed || s.Phase != fleet.PhaseIdle {
					t.Errorf("%s: %s, phase %s, %+v", p.gate, s.Last.Result, s.Phase, s.Failure)
				}
				runs, other = other, runs
				b.runs(runs)
				b.says(0)
			}
			// The way back is as safe.
			for _, gate := range []string{"in-test-" + runs, "after-test-" + runs} {
				b.shut(gate)
				n := b.publish("fails")
				b.reached(gate)
				kill(b)
				time.Sleep(300 * time.Millisecond)
				b.open(gate)
				s := b.ended(n)
				if s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeActivate || !strings.Contains(s.Failure.Message, "the valve is stuck") {
					t.Errorf("roll-back, %s: %s, %+v", gate, s.Last.Result, s.Failure)
				}
				b.runs(runs)
				b.deploy(other)
				b.deploy(runs)
			}
		})
	}
}

// TestPowerCut cuts the power at every point: the host comes back with one system, all of it, and says so.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	runs, other := "good1", "good2"
	for _, p := range points {
		s := b.crash(other, p.gate, func() {
			if err := b.host.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := b.host.Start(testContext(t)); err != nil {
				t.Fatal(err)
			}
		})
		booted := !p.early && strings.HasPrefix(p.gate, "after-boot") // else the boot entry was the old one still
		switch {
		case booted && s.Last.Result == fleet.Committed && s.Phase == fleet.PhaseIdle:
			runs, other = other, runs
		case !booted && s.Last.Result == fleet.RolledBack && s.Phase == fleet.PhaseHeld && s.Failure.Code == fleet.CodeInterrupted:
			b.says(3, "held", "the activation was interrupted", "power cut")
		default:
			t.Errorf("%s: %s, phase %s, %+v", p.gate, s.Last.Result, s.Phase, s.Failure)
		}
		b.runs(runs)
	}
	b.deploy(other)
}

// A first deployment that the power was cut in leaves a host as it was.
func TestPowerCutInTheFirst(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	s := b.crash("good1", "after-test-good1", func() {
		if err := errors.Join(b.host.Kill(), b.host.Start(testContext(t))); err != nil {
			t.Fatal(err)
		}
	})
	if s.Last.Result != fleet.NotActivated || s.Phase != fleet.PhaseHeld {
		t.Errorf("%s, phase %s, %+v", s.Last.Result, s.Phase, s.Failure)
	}
	b.systems("", "")
	b.deploy("good1")
}

// An agent that was killed between its decision and its request finds nothing begun; one whose record is lost or damaged while
// the helper works waits for it.
func TestLostRecords(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	spoiled := func(variant, text string) {
		gate := "after-test-" + variant
		b.shut(gate)
		n := b.publish(variant)
		b.reached(gate)
		if err := b.host.StopService(testContext(t), "agent"); err != nil {
			t.Fatal(err)
		}
		dir := b.host.Path(stateDir)
		if err := os.WriteFile(dir+"/state.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := b.host.StartService(testContext(t), "agent"); err != nil {
			t.Fatal(err)
		}
		b.await("the agent is back", func(s fleet.Status) bool { return s.Newest != nil })
		b.open(gate)
		b.await("committed", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n && s.Systems.Profile == s.Systems.Current
		})
		b.runs(variant)
		b.says(0)
		if aside := b.must("ls " + stateDir); !strings.Contains(aside, "state.json.damaged-") {
			t.Errorf("nothing was set aside: %s", aside)
		}
	}
	spoiled("good2", `{"schema": 1, "ho`)
	spoiled("good3", `{"schema":1,"host":"joker","phase":"activating"}`)

	// The request on disk is of an older deployment: nothing of this one was begun.
	var r map[string]any
	if err := b.host.StopService(testContext(t), "agent"); err != nil {
		t.Fatal(err)
	}
	data, err := b.host.ReadFile(stateDir + "/state.json")
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		t.Fatal(err)
	}
	target := r["active"].(map[string]any)
	target["outPath"], target["at"] = b.lab.out("good1"), time.Now().UTC()
	r["phase"], r["target"] = "activating", target
	data, _ = json.Marshal(r)
	if err := os.WriteFile(b.host.Path(stateDir+"/state.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.host.StartService(testContext(t), "agent"); err != nil {
		t.Fatal(err)
	}
	b.await("done", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Active.OutPath == b.lab.out("good1") })
	b.systems("good1", "good1")
}

func TestTwoAgents(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.await("it runs", func(fleet.Status) bool { return true })
	out, err := b.run("garrison -v agent 2>&1")
	if err == nil || !strings.Contains(out, "another agent works in "+stateDir) || !strings.Contains(out, "code busy") {
		t.Errorf("%v: %s", err, out)
	}
}

// A full disk stops everything that must be on record first, damages nothing, and is over when there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{tmpfs: true})
	b.deploy("good1")
	full := stateDir + "/ballast"
	b.must("cat /dev/zero > " + full + " 2>/dev/null; true")
	n := b.publish("good2")
	b.eventually("it says that nothing can be written", func() bool {
		log, _ := b.host.ReadFile("/var/log/agent.log")
		return strings.Contains(string(log), "No space left") || strings.Contains(string(log), "no space left")
	})
	time.Sleep(time.Second)
	b.runs("good1")
	b.must("rm " + full)
	b.await("committed", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == n })
	b.runs("good2")
	b.says(0)

	// And in the middle: the helper's words do not fit.
	b.shut("in-test-good3")
	n = b.publish("good3")
	b.reached("in-test-good3")
	b.must("cat /dev/zero > " + full + " 2>/dev/null; true")
	b.open("in-test-good3")
	time.Sleep(time.Second)
	b.must("rm " + full)
	s := b.await("it ended", func(s fleet.Status) bool { return s.Last.Release.Number == n })
	if s.Last.Result == fleet.RolledBack {
		b.runs("good2")
	} else if s.Last.Result != fleet.Committed {
		t.Errorf("%+v", s.Last)
	}
	b.await("and is done in the end, or waits to", func(s fleet.Status) bool { return s.Phase == fleet.PhaseIdle || s.Phase == fleet.PhaseRetrying })
}
