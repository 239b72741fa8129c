package agent_test

import (
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	stopped   = syscall.SIGSTOP
	continued = syscall.SIGCONT
)

// TestAgentIsReplaced deploys systems that change the agent's own unit and program, and ones that end it. Each
// deployment is completed, and told by the agent that comes after.
func TestAgentIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true})
	b.deploy("good1")
	pid := func() string { return b.must("systemctl show -P MainPID garrison-agent") }
	committed := func(variant string) {
		t.Helper()
		n := b.number
		s := b.await(variant+" is told", func(s fleet.Status) bool {
			return s.Last != nil && s.Last.Release.Number == n && s.Phase == fleet.PhaseIdle
		})
		if s.Last.Result != fleet.Committed || len(b.history(n)) != 1 {
			t.Errorf("%s: %+v", variant, s.Last)
		}
		b.runs(variant)
		b.says(0)
	}

	before := pid()
	b.publish("newunit")
	b.eventually("the agent's new unit runs", func() bool {
		env, _ := b.run("p=$(systemctl show -P MainPID garrison-agent); [ $p != 0 ] && busybox tr '\\0' '\\n' < /proc/$p/environ")
		return strings.Contains(env, "AGENT_OF=newunit")
	})
	committed("newunit")
	if now := pid(); now == before {
		t.Errorf("the agent has the pid %s still", now)
	}
	before = pid()
	b.deploy("good2") // the example leaves the unit as it is
	if now := pid(); now != before {
		t.Errorf("the agent was restarted for nothing: %s, then %s", before, now)
	}

	b.publish("newbinary")
	b.eventually("the agent's new program runs", func() bool {
		exe, _ := b.run("p=$(systemctl show -P MainPID garrison-agent); [ $p != 0 ] && readlink /proc/$p/exe")
		return exe == "/opt/garrison-2"
	})
	committed("newbinary")

	b.publish("kills")
	committed("kills")

	// Stopped, and the journal as well: the helper goes on alone, and says what it says.
	b.publish("stops")
	b.alone("stops")
	if err := b.host.StartService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	committed("stops")
	b.must("systemctl start systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service")

	b.publish("masks")
	b.alone("masks")
	b.must("rm /etc/systemd/system/garrison-agent.service; mv /etc/agent.away /etc/systemd/system/garrison-agent.service; systemctl daemon-reload; systemctl start garrison-agent")
	committed("masks")

	// Without an agent, a system that fails is undone as well.
	for _, helperToo := range []bool{false, true} {
		b.deploy("good1")
		b.shut("in-test-fails")
		n := b.publish("fails")
		b.reached("in-test-fails")
		if err := b.host.StopService(testContext(t), b.unit); err != nil {
			t.Fatal(err)
		}
		code := fleet.CodeActivate
		if helperToo {
			code = fleet.CodeInterrupted
			b.killHelper() // systemd starts another one
		}
		b.open("in-test-fails")
		b.eventually("it is undone", func() bool {
			outcome, _ := b.host.ReadFile(stateDir + "/activation/outcome.json")
			return strings.Contains(string(outcome), "rolled-back")
		})
		b.runs("good1")
		if err := b.host.StartService(testContext(t), b.unit); err != nil {
			t.Fatal(err)
		}
		b.undone(n, "good1", code)
		b.deploy("good2")
	}
}

// alone waits until a deployment is complete on a host whose agent is dead.
func (b *box) alone(variant string) {
	b.t.Helper()
	b.eventually(variant+" is the boot entry", func() bool {
		entry, _ := b.host.ReadFile("/boot/garrison-entry")
		outcome, _ := b.host.ReadFile(stateDir + "/activation/outcome.json")
		return strings.TrimSpace(string(entry)) == b.lab.out(variant) && strings.Contains(string(outcome), "committed")
	})
	b.runs(variant)
	if state, _ := b.run("systemctl is-active garrison-agent"); state == "active" {
		b.t.Errorf("%s: the agent is %s", variant, state)
	}
}

// TestProgramIsReplaced is an agent without a systemd, whose program is another one after a deployment: it executes that.
func TestProgramIsReplaced(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.deploy("good1")
	pid, err := b.host.ServicePID(testContext(t), b.unit)
	if err != nil {
		t.Fatal(err)
	}
	b.must(`mkdir -p /opt/gate && cp "$(readlink -f "$(command -v garrison)")" /opt/gate/garrison`)
	b.deploy("good2")
	b.eventually("the new program runs", func() bool {
		exe, _ := b.host.Readlink("/proc/" + strconv.Itoa(pid) + "/exe")
		return exe == "/opt/gate/garrison"
	})
	if now, err := b.host.ServicePID(testContext(t), b.unit); err != nil || now != pid {
		t.Errorf("pid %d, then %d, %v", pid, now, err)
	}
	b.deploy("good3")
}
