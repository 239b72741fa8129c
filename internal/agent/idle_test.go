package agent_test

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestIdle measures an agent that deployed something, is connected to a hub, and looks at git as often as by default. Besides memory
// and CPU time it counts threads and descriptors over more deployments: none may be left behind.
func TestIdle(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{config: "socket = \"/run/garrison/agent.sock\"\n[hub]\nurl = \"" + hubURL + "\"\ntokenFile = \"/etc/garrison/hub-token\"\n"})
	b.deploy("good1")
	b.await("reported", func(s fleet.Status) bool { return !s.Hub.LastOK.IsZero() && s.Hub.Failure == nil })
	files := b.descriptors()
	for range 3 {
		b.deploy("good2")
		b.deploy("good1")
	}
	// A look at git or a report under way has some open for a moment; one left behind by each deployment would stay.
	now := b.descriptors()
	for end := time.Now().Add(15 * time.Second); now > files+2 && time.Now().Before(end); now = b.descriptors() {
		time.Sleep(200 * time.Millisecond)
	}
	if now > files+2 {
		t.Errorf("%d open files after six more deployments, %d before", now, files)
	}
	b.must("busybox sed -i 's/^poll.*/poll = \"60s\"/' /etc/garrison/agent.toml")
	n := b.publish("good2")
	if err := b.host.RestartService(testContext(t), b.unit); err != nil {
		t.Fatal(err)
	}
	b.ended(n)
	time.Sleep(2 * time.Second)
	before := b.cpu()
	const over = 8 * time.Second
	time.Sleep(over)
	spent, kib := b.cpu()-before, b.resident()
	t.Logf("idle: %d KiB resident, %v of CPU time in %v", kib, spent, over)
	if raceFlag != "" {
		return // another program, as far as memory goes
	}
	if kib > 20<<10 {
		t.Errorf("%d KiB resident, more than 20 MiB", kib)
	}
	if spent > over/200 {
		t.Errorf("%v of CPU time in %v", spent, over)
	}
}

func (b *box) agentFile(name string) string {
	b.t.Helper()
	pid, err := b.host.ServicePID(testContext(b.t), b.unit)
	if err != nil || pid == 0 {
		b.t.Fatalf("the agent's pid: %d, %v", pid, err)
	}
	return b.host.Path("/proc/" + strconv.Itoa(pid) + "/" + name)
}

func (b *box) descriptors() int {
	b.t.Helper()
	open, err := os.ReadDir(b.agentFile("fd"))
	if err != nil {
		b.t.Fatal(err)
	}
	return len(open)
}

// resident is what the agent has in memory, in KiB.
func (b *box) resident() int {
	b.t.Helper()
	status, err := os.ReadFile(b.agentFile("status"))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(text)[0])
			return kib
		}
	}
	b.t.Fatal("no VmRSS")
	return 0
}

// cpu is the time that the agent itself used so far, to a hundredth of a second.
func (b *box) cpu() time.Duration {
	b.t.Helper()
	stat, err := os.ReadFile(b.agentFile("stat"))
	if err != nil {
		b.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	f := strings.Fields(rest)
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
