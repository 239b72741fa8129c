package agent_test

import (
	"strconv"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestKilledInARollback kills the agent, or agent and helper, at every point of an operator's roll-back and of the way forth again: the
// order stands, whoever carries it out.
func TestKilledInARollback(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	b.deploy("good2")
	orders := []struct {
		command, variant string
		ends             fleet.Phase
	}{{"rollback", "good1", fleet.PhaseOverruled}, {"deploy release-2", "good2", fleet.PhaseIdle}}
	for _, point := range points[:len(points)-undisturbed] {
		for _, o := range orders {
			gate := strings.ReplaceAll(point, "VARIANT", o.variant)
			b.shut(gate)
			b.orders(0, o.command)
			b.reached(gate)
			b.killAgent()
			b.await("another agent is there", func(s fleet.Status) bool { return s.Phase == fleet.PhaseActivating })
			b.open(gate)
			b.phase(o.ends, o.variant)
			b.runs(o.variant)
		}
	}
	// One that was cut short before its system had passed the checks is undone, held, and tried again when asked for.
	b.shut("after-test-good1")
	b.orders(0, "rollback --reason 'second thoughts'")
	b.reached("after-test-good1")
	b.killAgent()
	b.killHelper()
	b.open("after-test-good1")
	s := b.phase(fleet.PhaseHeld, "good2")
	if s.Choice == nil || s.Failure.Code != fleet.CodeInterrupted {
		t.Errorf("choice %+v, failure %+v", s.Choice, s.Failure)
	}
	b.runs("good2")
	b.orders(0, "retry")
	b.phase(fleet.PhaseOverruled, "good1")
	b.says(4, "(second thoughts)")
}

// TestKilledAfterAnOrder kills the agent the moment it has answered: what it took is on record.
func TestKilledAfterAnOrder(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{config: "confirm = \"manual\""})
	order := func(command string) {
		t.Helper()
		pid, err := b.host.ServicePID(testContext(t), b.unit)
		if err != nil || pid == 0 {
			t.Fatalf("the agent's pid: %d, %v", pid, err)
		}
		b.must("garrison " + command + "; kill -9 " + strconv.Itoa(pid))
	}
	waits := func(n int, what fleet.WaitFor) {
		t.Helper()
		b.await("release-"+strconv.Itoa(n)+" waits for "+string(what), func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseWaiting && s.Target.Release.Number == n && s.Wait.For == what
		})
	}
	n := b.publish("good1")
	waits(n, fleet.ForConfirm)
	order("suspend --reason test --for 1h")
	waits(n, fleet.ForResume)
	order("confirm " + strconv.Itoa(n))
	waits(n, fleet.ForResume)
	b.systems("", "")
	order("resume")
	b.phase(fleet.PhaseIdle, "good1")
	n = b.publish("good2")
	waits(n, fleet.ForConfirm)
	order("deploy " + strconv.Itoa(n))
	b.phase(fleet.PhaseIdle, "good2")
	order("rollback")
	b.phase(fleet.PhaseOverruled, "good1")
	n = b.publish("fails")
	waits(n, fleet.ForConfirm)
	order("confirm " + strconv.Itoa(n))
	b.phase(fleet.PhaseHeld, "good1")
	order("retry")
	b.await("tried again", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld && s.Attempt == 2 })
	b.runs("good1")
	if got := strings.Join(b.acts(), " "); got != "retry confirm rollback deploy resume confirm suspend" {
		t.Errorf("acts: %s", got)
	}
}
