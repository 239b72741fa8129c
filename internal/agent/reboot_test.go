package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

// ledger makes a commit on the roll-out's branch: rollout.json with that text.
func (b *box) ledger(text string) {
	b.t.Helper()
	ctx := testContext(b.t)
	tree, err := b.origin.TreeOf(ctx, fleet.LedgerPath, []byte(text))
	if err != nil {
		b.t.Fatal(err)
	}
	commit, err := b.origin.WriteCommit(ctx, git.Commit{Tree: tree, Message: fmt.Sprint("ledger of ", time.Now()), When: time.Now()})
	if err != nil {
		b.t.Fatal(err)
	}
	b.move(fleet.RolloutBranch("release"), commit)
}

// permits writes a ledger that lets the host end a boot.
func (b *box) permits(boot string) {
	b.t.Helper()
	text, err := fleet.Ledger{Reboots: map[string]fleet.RebootPermit{"joker": {Boot: boot, At: time.Now()}, "other": {Boot: "x"}}}.Bytes()
	if err != nil {
		b.t.Fatal(err)
	}
	b.ledger(string(text))
}

// TestRebootByRing: a host that needs a reboot waits for its ring's permit, which is good for the boot that runs, and once.
func TestRebootByRing(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, config: "socket = \"/run/garrison/agent.sock\"\n[reboot]\nwhen = \"ring\"\n"})
	b.step = late
	b.publish("good1")
	b.promote(late, b.tip)
	b.given(1, "good1", 0)
	waits := func(n int) fleet.Status {
		t.Helper()
		s := b.await("it waits for a reboot", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseReboot && s.Active.Release.Number == n && s.Reboot != nil && s.Reboot.Needed && s.Reboot.At != nil
		})
		return s
	}
	stays := func() {
		t.Helper()
		s, err := b.status()
		if err != nil {
			t.Fatal(err)
		}
		looks := s.Remote.LastOK
		s = b.await("it looked", func(s fleet.Status) bool { return s.Remote.LastOK.Sub(looks) > 2*time.Second })
		if s.Phase != fleet.PhaseReboot || len(b.acts()) > strings.Count(b.must("cat /var/log/agent.log"), "well after its reboot") {
			t.Errorf("phase %s, acts %v", s.Phase, b.acts())
		}
	}
	b.publish("reboot")
	b.promote(late, b.tip)
	s := waits(2)
	stays()
	for _, text := range []string{"nonsense", `{"schema": 99, "reboots": {"joker": {"boot": "` + s.Boot + `"}}}`, `{"schema": 1, "reboots": {"joker": {"boot": ""}}}`} {
		b.ledger(text)
		stays()
	}
	if log := b.must("cat /var/log/agent.log"); strings.Count(log, "the roll-out's ledger cannot be read") != 2 {
		t.Errorf("of three ledgers two cannot be read:\n%s", log)
	}
	b.permits("another boot")
	stays()
	b.permits(s.Boot)
	after := b.awaitFor(80*time.Second, "it was rebooted", func(s fleet.Status) bool {
		return s.Phase == fleet.PhaseIdle && s.Active.Release.Number == 2 && s.Reboot == nil
	})
	if after.Boot == s.Boot || after.Boot == "" || len(b.acts()) != 1 {
		t.Errorf("boot %q, before %q; acts %v", after.Boot, s.Boot, b.acts())
	}
	b.runs("reboot")
	b.eventually("it says how the host is after that", func() bool {
		return strings.Contains(b.must("cat /var/log/agent.log"), "this host is well after its reboot")
	})

	// The ledger has the permit still, of the boot that is over.
	b.publish("good1")
	b.promote(late, b.tip)
	s = waits(3)
	stays()
	b.permits(s.Boot)
	b.awaitFor(80*time.Second, "it was rebooted again", func(now fleet.Status) bool {
		return now.Phase == fleet.PhaseIdle && now.Active.Release.Number == 3 && now.Boot != s.Boot
	})
	b.runs("good1")
}
