package agent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// points are where a deployment is stopped, in its order as far as that goes: inside and after each program that it runs, and
// after each line that the helper says, which it does after every effect. VARIANT stands for the new system's.
var points = append([]string{"in-test-VARIANT", "after-test-VARIANT", "before-profile", "after-profile", "in-boot-VARIANT", "after-boot-VARIANT"}, lines(undisturbed)...)

// undisturbed is how many lines a deployment has that nothing comes in the way of, back how many one that is rolled back.
const undisturbed, back = 9, 6

func lines(n int) (gates []string) {
	for i := range n {
		gates = append(gates, "line-"+strconv.Itoa(i+1))
	}
	return gates
}

// noted is a line of the helper's journal.
type noted struct {
	ID, Step string
	Done     bool
}

// journal is what the helper had written down of a release's deployment when the crash came.
func (b *box) journal(number int) (steps []noted) {
	b.t.Helper()
	data, err := b.host.ReadFile(stateDir + "/activation/journal.jsonl")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(data)); ; {
		var n noted
		if err := d.Decode(&n); err != nil {
			return steps
		}
		if strings.HasPrefix(n.ID, strconv.Itoa(number)+"-") {
			steps = append(steps, n)
		}
	}
}

// crash stops a deployment at a gate, does the damage, and lets go. It returns what came of it, and what stood in the journal.
func (b *box) crash(variant, gate string, damage func()) (fleet.Status, []noted) {
	b.t.Helper()
	gate = strings.ReplaceAll(gate, "VARIANT", variant)
	b.shut(gate)
	n := b.publish(variant)
	b.reached(gate)
	steps := b.journal(n)
	damage()
	time.Sleep(300 * time.Millisecond) // whoever comes next meets the switch at work
	b.open(gate)
	s := b.ended(n)
	if d := b.history(n); len(d) != 1 || d[0].Result != s.Last.Result {
		b.t.Errorf("%s: the history of release-%d: %+v", gate, n, d)
	}
	return s, steps
}

// survives crashes a deployment of a good system at a gate, and holds what came of it against what must: it was confirmed
// and stays, or it was not and is undone and held. It returns whether it stays.
func (b *box) survives(running, variant, gate string, damage func(), stays func(steps []noted) bool) bool {
	b.t.Helper()
	s, steps := b.crash(variant, gate, func() {
		if profile, entry := b.nextBoot(); !checked(b.journal(b.number)) && (profile != b.lab.out(running) || entry != b.lab.out(running)) {
			b.t.Errorf("%s: not confirmed yet, but profile %q, boot entry %q", gate, profile, entry)
		}
		damage()
	})
	if len(steps) == 0 || stays(steps) {
		if s.Last.Result != fleet.Committed || s.Phase != fleet.PhaseIdle {
			b.t.Errorf("%s, %+v: %s, phase %s, %+v", gate, steps, s.Last.Result, s.Phase, s.Failure)
		}
		b.runs(variant)
		b.says(0)
		return true
	}
	if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld || s.Failure.Code != fleet.CodeInterrupted {
		b.t.Errorf("%s, %+v: %s, phase %s, %+v", gate, steps, s.Last.Result, s.Phase, s.Failure)
	}
	b.runs(running)
	b.says(3, "held", "the activation was interrupted", "power cut")
	return false // and a newer release tries the same system again
}

// checked says whether the new system had passed its checks.
func checked(steps []noted) bool {
	return slices.ContainsFunc(steps, func(n noted) bool { return n.Step == "check" && n.Done })
}

// TestKilled kills agent, helper, or, on a host with a systemd, both at every point. Without the agent the deployment is what it
// would have been; without the helper too, once the system had passed its checks, else it is undone.
func TestKilled(t *testing.T) {
	for who, kill := range map[string]func(*box){
		"agent":  (*box).killAgent,
		"helper": (*box).killHelper,
		"both":   func(b *box) { b.killAgent(); b.killHelper() },
	} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{systemd: who == "both"})
			b.deploy("good1")
			runs, other := "good1", "good2"
			for _, gate := range points {
				if b.survives(runs, other, gate, func() { kill(b) }, func(steps []noted) bool { return who == "agent" || checked(steps) }) {
					runs, other = other, runs
				}
			}
			if told := b.must("grep -c ^time= " + stateDir + "/activation/log"); told != strconv.Itoa(undisturbed) && who == "agent" {
				t.Errorf("a deployment has %s lines: there are more points than these %d", told, undisturbed)
			}
			b.waysBack(runs, other, func() { kill(b) })
		})
	}
}

// waysBack crashes roll-backs at every point: each is as safe.
func (b *box) waysBack(runs, other string, damage func()) {
	b.t.Helper()
	for _, gate := range append([]string{"in-test-RUNS", "after-test-RUNS"}, lines(back)...) {
		s, steps := b.crash("fails", strings.ReplaceAll(gate, "RUNS", runs), damage)
		if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld {
			b.t.Errorf("roll-back, %s, %+v: %s, phase %s, %+v", gate, steps, s.Last.Result, s.Phase, s.Failure)
		}
		why := slices.ContainsFunc(steps, func(n noted) bool { return n.Step == "rollback" }) || len(steps) == 0
		if why && (s.Failure.Code != fleet.CodeActivate || !strings.Contains(s.Failure.Message, "the valve is stuck")) {
			b.t.Errorf("roll-back, %s: its reason is lost: %+v", gate, s.Failure)
		}
		b.runs(runs)
		b.deploy(other) // and a newer release tries the failing system again
		runs, other = other, runs
	}
}

// TestPowerCut cuts the power at every point: the host comes back with one system, all of it, and says so. What the boot
// entry names then is what was confirmed.
func TestPowerCut(t *testing.T) {
	for _, kind := range []string{"sandbox", "systemd"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{systemd: kind == "systemd"})
			b.deploy("good1")
			runs, other := "good1", "good2"
			cut := func() {
				if err := errors.Join(b.host.Kill(), b.host.Start(testContext(t))); err != nil {
					t.Fatal(err)
				}
			}
			for _, gate := range points {
				entry := ""
				damage := func() {
					if _, entry = b.nextBoot(); entry != b.lab.out(runs) && entry != b.lab.out(other) {
						t.Errorf("%s: the boot entry is %q", gate, entry)
					}
					cut()
				}
				if b.survives(runs, other, gate, damage, func([]noted) bool { return entry == b.lab.out(other) }) {
					runs, other = other, runs
				}
			}
			b.waysBack(runs, other, cut)
		})
	}
}

// A first deployment that the power was cut in leaves a host as it was.
func TestPowerCutInTheFirst(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	s, _ := b.crash("good1", "after-test-good1", func() {
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
		if err := b.host.StopService(testContext(t), b.unit); err != nil {
			t.Fatal(err)
		}
		dir := b.host.Path(stateDir)
		if err := os.WriteFile(dir+"/state.json", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := b.host.StartService(testContext(t), b.unit); err != nil {
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
	if err := b.host.StopService(testContext(t), b.unit); err != nil {
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
	if err := b.host.StartService(testContext(t), b.unit); err != nil {
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
