package agent_test

import (
	"bufio"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestThroughTheHub: a person with a token for the hub alone sees what is said on a host while it is said there, and who did what; also what a hub
// missed that was away.
func TestThroughTheHub(t *testing.T) {
	t.Parallel()
	hub, url := needLab(t).mirror(t)
	b := newBox(t, boxOptions{config: "[hub]\nurl = \"" + url + "\"\ntokenFile = \"/etc/garrison/hub-token\"\n"})
	b.must("printf read-token > /etc/garrison/read-token")
	byHub := []string{"--hub", url, "--token-file", "/etc/garrison/read-token", "--host", "joker"}
	b.deploy("good1")

	followed := b.host.Command(testContext(t), "garrison", append([]string{"logs", "-f"}, byHub...)...)
	pipe, err := followed.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := followed.Start(); err != nil {
		t.Fatal(err)
	}
	lines, said := bufio.NewScanner(pipe), ""
	saw := func(want string) {
		t.Helper()
		for lines.Scan() {
			if said += lines.Text() + "\n"; strings.Contains(lines.Text(), want) {
				return
			}
		}
		t.Fatalf("the hub never said %q: %v\n%s", want, lines.Err(), said)
	}
	saw("--- ") // the deployment before
	b.shut("in-test-good2")
	n := b.publish("good2")
	b.reached("in-test-good2")
	saw("test " + b.lab.out("good2")) // the switch waits at its gate
	b.killAgent()                     // the next agent tells no line again
	b.await("the agent is back", func(s fleet.Status) bool { return s.Phase == fleet.PhaseActivating })
	b.open("in-test-good2")
	saw("boot " + b.lab.out("good2"))
	b.ended(n)
	saw("activation ended")
	_ = followed.Process.Kill()
	_ = followed.Wait()
	if k := strings.Count(said, "test "+b.lab.out("good2")); k != 1 {
		t.Errorf("it is there %d times:\n%s", k, said)
	}

	acts := func() (kinds []string) {
		t.Helper()
		out, _ := b.exits(0, append([]string{"history", "-o", "json"}, byHub...)...)
		var past []fleet.Act
		if err := json.Unmarshal([]byte(out), &past); err != nil {
			t.Fatal(err)
		}
		for _, a := range past {
			if a.Act != "" {
				kinds = append(kinds, a.Act)
			}
		}
		return kinds
	}
	b.orders(0, "suspend --reason 'the audit' --for 1h")
	b.eventually("the hub was told of it", func() bool { return strings.Join(acts(), " ") == "suspend" })
	if err := hub.StopService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	b.orders(0, "resume")
	b.orders(0, "rollback --reason 'too new'")
	b.phase(fleet.PhaseOverruled, "good1")
	if err := hub.StartService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	b.eventuallyFor(time.Minute, "the hub was told of what it missed", func() bool {
		out, err := b.run("garrison history " + strings.Join(byHub, " "))
		return err == nil && strings.Contains(out, "rollback by root") && strings.Contains(out, "(too new)")
	})
	if got := strings.Join(acts(), " "); got != "rollback resume suspend" {
		t.Errorf("acts: %s", got)
	}
}
