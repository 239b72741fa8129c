package agent_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// fetchedAhead waits until the host has the system of a release that its ring does not give it.
func (b *box) fetchedAhead(n int, variant string) fleet.Status {
	b.t.Helper()
	s := b.await(fleet.TagName(n)+" is fetched ahead", func(s fleet.Status) bool {
		return s.Ahead != nil && s.Ahead.Release.Number == n && s.Ahead.StagedAt != nil
	})
	if s.Ahead.OutPath != b.lab.out(variant) || s.Ahead.Failure != nil || s.Phase != fleet.PhaseIdle {
		b.t.Errorf("%+v, phase %s", s.Ahead, s.Phase)
	}
	b.must("nix-store --check-validity $(nix-store --query --requisites " + b.lab.out(variant) + ")")
	return s
}

// kept is the system that is kept because the ring will give it to the host; "" for none.
func (b *box) kept() string {
	path, _ := b.host.Readlink(stateDir + "/ahead")
	return path
}

// TestPrefetch: what the ring does not give yet is there, whole and kept, when it does; and that caches are down is no failure of the host before.
func TestPrefetch(t *testing.T) {
	t.Parallel()
	l := needLab(t)
	cache, url := l.mirror(t)
	b := newBox(t, boxOptions{cacheURL: url + "/fleet", config: "[build]\nwhen = \"never\"\n"})
	b.step = late
	b.publish("good1")
	b.fetchedAheadNew()
	b.promote(late, b.tip)
	b.given(1, "good1", 0)

	b.publish("good2")
	two := b.tip
	at := b.fetchedAhead(2, "good2").Ahead.StagedAt
	b.must("nix-collect-garbage")
	b.restartAgent()
	if again := b.fetchedAhead(2, "good2").Ahead.StagedAt; at.Sub(*again).Abs() > time.Minute {
		t.Errorf("fetched at %s, and after a restart at %s", at, again)
	}
	if n := strings.Count(b.must("cat /var/log/agent.log"), "fetching ahead"); n != 2 {
		t.Errorf("fetched ahead %d times, for two releases", n)
	}

	b.publish("good3") // which overtakes it
	three := b.tip
	b.fetchedAhead(3, "good3")
	if got := b.kept(); got != l.out("good3") {
		t.Errorf("kept: %q", got)
	}
	b.must("nix-collect-garbage; ! nix-store --check-validity " + l.out("good2"))
	b.runs("good1")
	if err := cache.StopService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	b.promote(late, three)
	b.given(3, "good3", 0)
	t.Logf("given and activated in %s", time.Since(began))
	b.eventually("it is kept by what runs alone", func() bool { return b.kept() == "" })

	b.publish("good2")
	s := b.await("it cannot be had", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Failure != nil })
	if s.Failure != nil || s.Phase != fleet.PhaseIdle || s.Ahead.Failure.Class != fleet.Transient || s.Ahead.StagedAt != nil {
		t.Errorf("failure %+v, phase %s, %+v", s.Failure, s.Phase, s.Ahead)
	}
	b.says(0)
	if err := cache.StartService(testContext(t), "hub"); err != nil {
		t.Fatal(err)
	}
	b.fetchedAhead(4, "good2")

	// The release branch goes on with the system that runs: nothing is to be had for that.
	b.publish("good3")
	s = b.fetchedAhead(5, "good3")
	b.eventually("nothing is kept", func() bool { return b.kept() == "" })
	b.promote(late, two)
	b.must("sleep 2")
	b.given(3, "good3", 5)
}

// fetchedAheadNew is fetchedAhead on a host that runs nothing yet.
func (b *box) fetchedAheadNew() {
	b.t.Helper()
	s := b.await("the first release is fetched ahead", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.StagedAt != nil })
	if s.Phase != fleet.PhaseNew || s.Newest != nil {
		b.t.Errorf("phase %s, newest %+v", s.Phase, s.Newest)
	}
}

// TestPrefetchGivesWay: an activation under way ends a prefetch, which is begun again; and one that is switched off is none.
func TestPrefetchGivesWay(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.must("nix-store --init") // a Nix that is ended while it makes the store's database leaves half of it
	b.step = late
	b.publish("good1")
	b.promote(late, b.tip)
	b.given(1, "good1", 0)
	b.shut("in-test-good2")
	b.publish("good2")
	b.promote(late, b.tip)
	b.reached("in-test-good2")
	b.publish("good3")
	s := b.await("good3 is ahead", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Release.Number == 3 })
	b.must("sleep 2")
	if s, _ = b.status(); s.Phase != fleet.PhaseActivating || s.Ahead.StagedAt != nil || b.kept() == b.lab.out("good3") {
		t.Errorf("during an activation: phase %s, %+v", s.Phase, s.Ahead)
	}
	b.open("in-test-good2")
	b.given(2, "good2", 3)
	b.fetchedAhead(3, "good3")

	b.must("printf '[prefetch]\\nenable = false\\n' >> /etc/garrison/agent.toml")
	b.restartAgent()
	b.eventually("it is let go of", func() bool { return b.kept() == "" })
	if s := b.given(2, "good2", 3); s.Ahead.StagedAt != nil {
		t.Errorf("%+v", s.Ahead)
	}
}

// TestPrefetchNeedsSpace: a disk is not filled by what is not to be activated yet.
func TestPrefetchNeedsSpace(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{host: "good1"})
	b.step = late
	n := b.left("good1", func(e *fleet.Entry) { e.ClosureBytes, e.Ring, e.Batch = 1<<50, late.Ring, late.Batch })
	s := b.await("it says so", func(s fleet.Status) bool { return s.Ahead != nil && s.Ahead.Failure != nil })
	if f := s.Ahead.Failure; f.Class != fleet.Local || !strings.Contains(f.Message, "disk") || s.Ahead.StagedAt != nil || s.Ahead.Release.Number != n || s.Failure != nil {
		t.Errorf("%+v", f)
	}
	b.promote(late, b.tip) // it may be wrong: a deployment finds out
	b.given(n, "good1", 0)
}

// TestStageNowActivateInWindow: the ring gives a host a release at any time, and the host's own windows say when it activates what is there already.
func TestStageNowActivateInWindow(t *testing.T) {
	t.Parallel()
	hour := (time.Now().UTC().Hour() + 12) % 24
	b := newBox(t, boxOptions{config: fmt.Sprintf("windows = [\"%02d:00-%02d:59\"]\n", hour, hour)})
	b.step = late
	b.publish("good1")
	b.promote(late, b.tip)
	b.phase(fleet.PhaseWaiting, "")
	b.orders(0, "confirm --now release-1")
	b.given(1, "good1", 0)
	b.publish("good2")
	b.fetchedAhead(2, "good2")
	b.promote(late, b.tip)
	s := b.phase(fleet.PhaseWaiting, "good1")
	if s.Wait.For != fleet.ForWindow || s.Target.Release.Number != 2 || s.Ahead != nil {
		t.Errorf("%+v, target %+v, ahead %+v", s.Wait, s.Target, s.Ahead)
	}
	b.must("nix-collect-garbage; nix-store --check-validity " + b.lab.out("good2"))
	b.runs("good1")
	b.orders(0, "confirm --now release-2")
	b.given(2, "good2", 0)
}
