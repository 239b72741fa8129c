package agent_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// TestSystemd is the whole of it on a host with a real systemd: the activation is a unit of its own, which outlives its agent, and units
// are judged by what they were before.
func TestSystemd(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, files: nixTold()})
	ctx := testContext(t)
	const failedBefore = "printf '[Service]\\nExecStart=/bin/false\\n' > /etc/systemd/system/sickly.service; systemctl daemon-reload; systemctl start sickly; until systemctl is-failed --quiet sickly; do sleep 0.1; done; echo failed"
	if got := b.must(failedBefore); got != "failed" {
		t.Fatalf("sickly.service is %s", got)
	}
	b.deploy("good1") // switch-to-configuration exits with 4, for a unit that had failed before
	demo := func() string { return b.must("systemctl show -P ActiveState -P ExecStart gitops-demo.service") }
	if got := demo(); !strings.HasPrefix(got, "active") && !strings.Contains(got, "\nactive") || !strings.Contains(got, "good1") {
		t.Errorf("gitops-demo.service: %s", got)
	}

	for what, disturb := range map[string]func() error{
		"restart": func() error { return b.host.RestartService(ctx, b.unit) },
		"kill":    func() error { b.killAgent(); return nil },
	} {
		variant := map[string]string{"restart": "good2", "kill": "good3"}[what]
		gate := "in-test-" + variant
		b.shut(gate)
		n := b.publish(variant)
		b.reached(gate)
		units := b.must("systemctl list-units --plain --no-legend 'garrison-activate-" + strconv.Itoa(n) + "-*'")
		if !strings.HasPrefix(units, "garrison-activate-") || strings.Count(units, "\n") > 0 {
			t.Errorf("the activation's units: %q", units)
		}
		unit, _, _ := strings.Cut(units, " ")
		group := b.must("cat /proc/$(systemctl show -P MainPID " + unit + ")/cgroup")
		if !strings.Contains(group, unit) || strings.Contains(group, "agent.service") {
			t.Errorf("the activation's cgroup: %s", group)
		}
		if err := disturb(); err != nil {
			t.Fatal(err)
		}
		b.await("another agent is there", func(fleet.Status) bool { return true })
		b.open(gate)
		if s := b.ended(n); s.Last.Result != fleet.Committed {
			t.Errorf("%s of the agent: %s, %+v", what, s.Last.Result, s.Last.Failure)
		}
		b.runs(variant)
		if got := demo(); !strings.Contains(got, variant) {
			t.Errorf("gitops-demo.service: %s", got)
		}
		b.eventually("its unit is gone", func() bool {
			left, err := b.run("systemctl list-units --all --plain --no-legend 'garrison-activate-*'")
			return err == nil && left == ""
		})
	}
	before := variantOf(b)

	s := b.ended(b.publish("broken"))
	if s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeCheck || !strings.Contains(s.Failure.Message, "gitops-demo.service failed in the new system") || strings.Contains(s.Failure.Message, "sickly") {
		t.Errorf("a failing service: %s, %+v", s.Last.Result, s.Failure)
	}
	b.runs(before)
	b.says(3, "held", "gitops-demo.service failed", "→ journalctl -u gitops-demo.service")
	if got := demo(); !strings.Contains(got, before) || !strings.Contains(got, "active") {
		t.Errorf("gitops-demo.service after the roll-back: %s", got)
	}

	begun := time.Now()
	s = b.ended(b.publish("looping"))
	if s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeCheck || !strings.Contains(s.Failure.Message, "gitops-demo.service failed in the new system again and again") {
		t.Errorf("a service that fails again and again: %s, %+v", s.Last.Result, s.Failure)
	}
	t.Logf("seen to loop after %s", time.Since(begun).Round(time.Second))
	b.runs(before)

	// Helper killed under systemd: another one comes, although the first one's unit lives on with the switch in it.
	b.shut("in-test-good1")
	n := b.publish("good1")
	b.reached("in-test-good1")
	b.killHelper()
	time.Sleep(time.Second)
	b.open("in-test-good1")
	if s := b.ended(n); s.Last.Result != fleet.RolledBack || s.Failure.Code != fleet.CodeInterrupted {
		t.Errorf("a killed helper: %s, %+v", s.Last.Result, s.Failure)
	}
	b.runs(before)

	b.notEvaluated()

	// The power is cut in the middle.
	s, _ = b.crash("good1", "after-test-good1", func() {
		if err := b.host.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := b.host.Start(ctx); err != nil {
			t.Fatal(err)
		}
	})
	if s.Last.Result != fleet.RolledBack || s.Phase != fleet.PhaseHeld {
		t.Errorf("a power cut: %s, phase %s, %+v", s.Last.Result, s.Phase, s.Failure)
	}
	b.runs(before)
	b.deploy("good1")
	b.says(0)
}

// nixTold are programs in front of nix that write down how the agent calls it.
func nixTold() (files []sandbox.File) {
	const told = "#!/bin/sh\necho \"${0##*/} $*\" >> /run/nix-calls\nPATH=${PATH#/opt/gate:}\nexec \"${0##*/}\" \"$@\"\n"
	for _, program := range []string{"nix", "nix-store", "nix-build", "nix-instantiate"} {
		files = append(files, sandbox.File{Path: "/opt/gate/" + program, Mode: 0o755, Data: []byte(told)})
	}
	return files
}

// notEvaluated checks that the agent called nix, and neither evaluated nor built anything by it.
func (b *box) notEvaluated() {
	b.t.Helper()
	calls := b.must("cat /run/nix-calls")
	for line := range strings.Lines(calls) {
		words := strings.Fields(line)
		if words[0] == "nix-build" || words[0] == "nix-instantiate" || slices.Contains(words, "eval") || slices.Contains(words, "build") || strings.Contains(line, ".drv") {
			b.t.Errorf("the agent ran %s", line)
		}
	}
	if !strings.Contains(calls, "nix-store --realise /nix/store/") {
		b.t.Errorf("nothing was realised: %s", calls)
	}
}

// variantOf is the variant that runs.
func variantOf(b *box) string {
	b.t.Helper()
	now, err := b.host.Readlink("/run/current-system")
	if err != nil {
		b.t.Fatal(err)
	}
	for v := range variants {
		if b.lab.out(v) == now {
			return v
		}
	}
	b.t.Fatalf("no variant runs: %s", now)
	return ""
}
