package agent_test

import (
	"encoding/json"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// TestManager: systemd knows when the agent is ready and what it is about, and starts another one in the place of one whose loop is stuck; the
// journal has its lines with their priorities.
func TestManager(t *testing.T) {
	t.Parallel()
	const dropIn = "[Service]\nWatchdogSec=8s\nTimeoutAbortSec=1s\nStandardOutput=journal\nStandardError=journal\n"
	b := newBox(t, boxOptions{systemd: true, files: []sandbox.File{{Path: "/etc/systemd/system/garrison-agent.service.d/manager.conf", Data: []byte(dropIn)}}})
	show := func(property string) string { return b.must("systemctl show -P " + property + " garrison-agent") }
	if got := show("ActiveState"); got != "active" {
		t.Errorf("the agent is %s", got)
	}
	b.deploy("good1")
	b.eventually("its status is told", func() bool {
		return strings.Contains(b.must("systemctl status garrison-agent; true"), `Status: "release-1 active"`)
	})

	// What takes longer than the watchdog's patience is nothing wrong.
	restarts := show("NRestarts")
	b.shut("in-test-good2")
	n := b.publish("good2")
	b.reached("in-test-good2")
	b.eventually("its status follows", func() bool { return show("StatusText") == "release-1 active, activates release-2" })
	time.Sleep(12 * time.Second)
	if got := show("NRestarts"); got != restarts {
		t.Errorf("the agent was started again while it followed an activation: %s restarts, %s before", got, restarts)
	}
	// A stuck agent is replaced, and what it followed goes on.
	pid := show("MainPID")
	if err := b.host.SignalService(testContext(t), b.unit, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	b.eventuallyFor(time.Minute, "another agent runs", func() bool {
		now, err := strconv.Atoi(show("MainPID"))
		return err == nil && now != 0 && strconv.Itoa(now) != pid && show("ActiveState") == "active"
	})
	if said := b.must("journalctl -u garrison-agent --no-pager -o cat"); !strings.Contains(said, "Watchdog timeout") {
		t.Errorf("it was not the watchdog:\n%s", said)
	}
	b.open("in-test-good2")
	if s := b.ended(n); s.Last.Result != fleet.Committed {
		t.Errorf("%s, %+v", s.Last.Result, s.Last.Failure)
	}
	b.runs("good2")
	if d := b.history(n); len(d) != 1 {
		t.Errorf("%d deployments of it: %+v", len(d), d)
	}

	n = b.publish("fails")
	b.ended(n)
	b.eventually("the journal has it all", func() bool {
		return strings.Contains(b.must("journalctl -u garrison-agent --no-pager -o cat"), `msg="deployment failed" release=3`)
	})
	type entry struct {
		Message  any    `json:"MESSAGE"`
		Priority string `json:"PRIORITY"`
	}
	seen := map[string]string{}
	for line := range strings.Lines(b.must("journalctl -u garrison-agent --no-pager -o json")) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		text, _ := e.Message.(string)
		if strings.HasPrefix(text, "msg=") {
			seen[text] = e.Priority
		}
		if strings.Contains(text, "time=") || strings.Contains(text, "level=") || strings.HasPrefix(text, "<") {
			t.Errorf("the journal has a line with a time or a priority of its own: %s", text)
		}
	}
	for prefix, priority := range map[string]string{"msg=fetched stage=fetch release=1 ": "6", "msg=committed stage=commit release=1 ": "6", "msg=deployed release=2 ": "6", `msg="deployment failed" release=3 `: "3"} {
		found := false
		for text, p := range seen {
			found = found || strings.HasPrefix(text, prefix) && p == priority
		}
		if !found {
			t.Errorf("no line %q of priority %s in the journal: %v", prefix, priority, seen)
		}
	}
}
