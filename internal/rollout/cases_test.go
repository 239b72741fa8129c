package rollout_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// underWay is a fleet whose release 12 has been given to the first step, and is confirmed there.
func underWay(layout string) *stand {
	s := newStand(layout)
	s.everywhere(11)
	s.publish(12)
	s.decide()
	s.pass(time.Minute)
	return s
}

func (s *stand) order(release int) *fleet.RolloutOrder {
	return &fleet.RolloutOrder{By: "ann", At: s.Now, Reason: "so", Release: release}
}

// allTake has the hosts of steps that have a release take it.
func (s *stand) allTake(n int) {
	for h, e := range s.hosts {
		if s.Tips[fleet.Step{Ring: e.Ring, Batch: e.Batch}] == n {
			s.takes(h, n, s.Now)
		}
	}
}

func TestNewerPassesOver(t *testing.T) {
	s := underWay("a: 1; b: 1; c: 1")
	s.rings[0].SoakSeconds, s.Newest.Rings[0].SoakSeconds = 3600, 3600
	s.takes("a1x", 12, s.Now)
	s.pass(30 * time.Minute)
	s.publish(13)
	s.expect(t, "a.1=13")
	s.pass(time.Minute)
	s.takes("a1x", 13, s.Now)
	s.expect(t, "")
	s.pass(29 * time.Minute)
	s.expect(t, "b.1=12") // soaked on the host that went on
	s.pass(time.Minute)
	s.fails("b1x", 12)
	s.expect(t, "", "", "paused: paused: b1x was rolled back from release-12: unit nginx.service failed")
	s.pass(30 * time.Minute)
	s.expect(t, "b.1=13")
	s.pass(time.Minute)
	s.takes("b1x", 13, s.Now)
	s.expect(t, "c.1=13") // 12 never came there
}

// A release that changes nothing in a ring is through with it at once; one that changes something comes after it.
func TestUnchanged(t *testing.T) {
	s := newStand("a: 1; b: 1; c: 1")
	for i := range s.rings {
		s.rings[i].SoakSeconds = 7200
	}
	s.everywhere(11)
	s.publish(12, "a1x", "b1x", "c1x")
	s.expect(t, "a.1=12 b.1=12 c.1=12", "done: has release-12", "done: has release-12", "done: has release-12")
	s.publish(13, "b1x")
	s.expect(t, "a.1=13")
	s.takes("a1x", 13, s.Now)
	s.pass(2 * time.Hour)
	s.expect(t, "b.1=13 c.1=13")
}

func TestAbort(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		s := underWay("a: 1; b: 1 1; c: 1")
		s.rings[2].Windows, s.Newest.Rings[2].Windows = []string{"Tue 02:00-03:00"}, []string{"Tue 02:00-03:00"}
		s.allTake(12)
		s.expect(t, "b.1=12")
		end := s.Now.Add(time.Hour)
		s.Ledger.Freeze = s.order(12)
		s.Ledger.Freeze.Until = &end
		s.Now = s.Now.Add(time.Second)
		s.Ledger.Aborted = s.order(12)
		s.Ledger.Aborted.To, s.Ledger.Aborted.AtOnce = 11, atOnce
		s.Ledger.Freeze.Until = &s.Now
		s.allTake(12)
		s.expect(t, "", "waiting: has release-12; release-12 was aborted by ann: so: waits for a release of what release-11 has")
		s.Ledger.Freeze.Until = &end
		s.pass(time.Minute)
		back := s.publish(13)
		back.RollbackTo = 11
		for h, e := range s.Releases[11].Hosts {
			back.Hosts[h] = e
		}
		if kept := rollout.First(back, s.Ledger, s.Now); (kept == "") != atOnce {
			t.Error(kept)
		}
		if atOnce {
			d := s.expect(t, "a.1=13 b.1=13 b.2=13 c.1=13")
			if m := d.Moves[3]; m.Reason != "ann aborted release-12, to release-11 at once" {
				t.Error(m)
			}
			// Whoever orders a stop after that is heard.
			s.Tips[fleet.Step{Ring: "c", Batch: 1}] = 11
			s.Now = s.Now.Add(time.Second)
			s.Ledger.Paused = s.order(13)
			s.expect(t, "")
			s.Ledger.Paused = nil
			s.expect(t, "c.1=13")
			continue
		}
		s.expect(t, "", "waiting: has release-12; release-13: frozen until 13:01 UTC by ann: so")
		s.pass(time.Hour)
		s.expect(t, "a.1=13")
		s.allTake(13)
		s.expect(t, "b.1=13")
		s.allTake(13)
		s.expect(t, "b.2=13") // it has that system still; c waits for its window
		d := s.expect(t, "", "", "done: has release-13", "waiting: has release-11; release-13: window opens Tue 02:00 UTC")
		if r := d.View.Rings[2]; r.Candidate != 13 || r.Opens == nil || r.Approve || !r.Opens.Equal(*d.View.Next) {
			t.Errorf("%+v", r)
		}
	}
}

// A step that somebody gave a release before its turn waits until the one before it has a newer one.
func TestForced(t *testing.T) {
	s := underWay("a: 1; b: 1; c: 1")
	b := fleet.Step{Ring: "b", Batch: 1}
	s.Tips[b] = 12
	s.promoted(b, 12, s.Now)
	s.expect(t, "")
	s.takes("b1x", 12, s.Now)
	s.expect(t, "c.1=12") // a has not taken it yet; that b passed it is what counts
	s.publish(13)
	s.expect(t, "a.1=13")
	s.Now = s.Now.Add(time.Second)
	s.takes("a1x", 13, s.Now)
	s.expect(t, "b.1=13")
}

func TestRingsChange(t *testing.T) {
	t.Run("none before", func(t *testing.T) {
		s := newStand("a: 1; b: 1")
		rings := s.rings
		s.rings = nil
		s.everywhere(11)
		if d := s.expect(t, ""); len(d.View.Rings) != 0 || d.View.State != fleet.RolloutDone {
			t.Errorf("%+v", d.View)
		}
		s.rings, s.Tips = rings, map[fleet.Step]int{}
		s.publish(12)
		s.expect(t, "a.1=12", "", "waiting: has no release yet; waits for ring a")
		s.takes("a1x", 12, s.Now)
		s.expect(t, "b.1=12")
	})
	t.Run("a new one between", func(t *testing.T) {
		s := newStand("a: 1; b: 1")
		s.everywhere(11)
		n := newStand("a: 1; m: 1; b: 1")
		s.rings, s.hosts = n.rings, n.hosts
		s.publish(12)
		s.expect(t, "a.1=12 m.1=11") // what a passed; m's host never reported, and passes nothing
		s.takes("a1x", 12, s.Now)
		s.expect(t, "m.1=12", "", "waiting: none of its hosts has release-12, 1 away, so release-12 does not go to ring b, unless by garrison promote --force --to b release-12 --reason …")
		s.takes("m1x", 12, s.Now)
		s.expect(t, "b.1=12")
	})
	t.Run("renamed", func(t *testing.T) {
		s := newStand("a: 1; b: 1")
		s.everywhere(11)
		s.rings[0].Name = "first"
		s.hosts["a1x"] = fleet.Entry{Ring: "first", Batch: 1}
		s.publish(12)
		s.expect(t, "first.1=12")
		s.takes("a1x", 12, s.Now)
		s.expect(t, "b.1=12")
	})
	t.Run("a branch is deleted", func(t *testing.T) {
		s := underWay("a: 1; b: 1; c: 1")
		s.allTake(12)
		s.expect(t, "b.1=12")
		delete(s.Tips, fleet.Step{Ring: "b", Batch: 1})
		s.takes("b1x", 12, s.Now)
		s.expect(t, "b.1=12 c.1=12")
	})
	t.Run("a branch is set back", func(t *testing.T) {
		s := underWay("a: 1; b: 1; c: 1")
		s.allTake(12)
		s.expect(t, "b.1=12")
		s.Tips[fleet.Step{Ring: "a", Batch: 1}] = 11
		s.Tips[fleet.Step{Ring: "b", Batch: 1}] = 11
		s.Ledger.Paused = s.order(12)
		s.takes("b1x", 12, s.Now)
		s.expect(t, "")
	})
	t.Run("fewer batches", func(t *testing.T) {
		s := underWay("a: 1 1 1; b: 1")
		s.allTake(12)
		s.expect(t, "a.2=12")
		n := newStand("a: 3; b: 1")
		s.rings, s.hosts = n.rings, map[string]fleet.Entry{"a1x": {Ring: "a", Batch: 1}, "a2x": {Ring: "a", Batch: 1}, "a3x": {Ring: "a", Batch: 1}, "b1x": {Ring: "b", Batch: 1}}
		s.publish(13)
		s.expect(t, "a.1=13")
		s.allTake(13)
		s.expect(t, "b.1=13")
	})
	t.Run("without hosts", func(t *testing.T) {
		s := newStand("a: 1; b: 0; c: 1")
		s.everywhere(11)
		s.publish(12)
		s.expect(t, "a.1=12")
		s.takes("a1x", 12, s.Now)
		s.expect(t, "b.1=12")
		s.expect(t, "", "", "waiting: it has no hosts, so release-12 does not go to ring c, unless by garrison promote --force --to c release-12 --reason …")
	})
}

// Hosts that go to another ring, or out of the fleet, take their failures with them to where they count.
func TestFailuresStay(t *testing.T) {
	for name, where := range map[string]fleet.Entry{"gone": {}, "in the last ring": {Ring: "b", Batch: 1}} {
		t.Run(name, func(t *testing.T) {
			s := underWay("a: 2; b: 1")
			s.takes("a1y", 12, s.Now)
			s.fails("a1x", 12)
			s.expect(t, "", "paused: paused: a1x was rolled back from release-12: unit nginx.service failed")
			if delete(s.hosts, "a1x"); where.Ring != "" {
				s.hosts["a1x"] = where
			}
			m := s.publish(13)
			m.Rings[0].DrillDays = 1 // 13 is not given to anybody, 12 is judged
			s.expect(t, "", "paused: paused: a1x was rolled back from release-12: unit nginx.service failed")
		})
	}
	t.Run("by a ring that is gone", func(t *testing.T) {
		s := underWay("a: 1; b: 1")
		s.fails("a1x", 12)
		delete(s.hosts, "a1x")
		s.rings[0].Name, s.hosts["n1x"] = "n", fleet.Entry{Ring: "n", Batch: 1}
		s.publish(13)
		s.Releases[12].Hosts["n1x"] = fleet.Entry{Toplevel: fleet.Toplevel{OutPath: system("n1x", 12)}}
		s.Tips[fleet.Step{Ring: "n", Batch: 1}] = 12
		s.promoted(fleet.Step{Ring: "n", Batch: 1}, 12, s.Now.Add(-time.Hour))
		s.takes("n1x", 12, s.Now)
		s.Ledger.Freeze = nil
		s.Newest.Rings[0].Manual = true
		s.expect(t, "")
	})
}

// What becomes of hosts when a release has gone on is not the roll-out's.
func TestAfterwards(t *testing.T) {
	s := newStand("a: 1; b: 2")
	s.everywhere(11)
	s.pass(7 * day)
	s.Hosts["a1x"].Status.Seen.At = s.Now.Add(-day)
	s.Hosts["a1x"].Status.At = s.Now.Add(-day)
	s.Hosts["a1x"].Status.NextPoll = s.Now.Add(-day)
	s.Hosts["b1x"].Status.Phase = fleet.PhaseOverruled
	s.Hosts["b1y"].Status.Suspended = &fleet.Suspension{Until: s.Now.Add(day)}
	if d := s.expect(t, "", "done: has release-11", "done: has release-11"); d.View.State != fleet.RolloutDone || d.View.LateSince != nil {
		t.Errorf("%+v", d.View)
	}
}

func TestLate(t *testing.T) {
	s := underWay("a: 1; b: 1")
	s.expect(t, "")
	s.pass(58 * time.Minute)
	if d := s.expect(t, ""); d.View.LateSince != nil || !d.View.Next.Equal(s.Now.Add(time.Minute)) {
		t.Error(d.View.LateSince, d.View.Next)
	}
	s.pass(2 * time.Minute)
	if d := s.expect(t, ""); d.View.LateSince == nil || !d.View.LateSince.Equal(s.Now.Add(-time.Minute)) {
		t.Error(d.View.LateSince)
	}
	s.Hosts["a1x"].Status.Phase, s.Hosts["a1x"].Status.Wait = fleet.PhaseWaiting, &fleet.Wait{For: fleet.ForWindow}
	if d := s.expect(t, ""); d.View.LateSince != nil {
		t.Error(d.View.LateSince)
	}
	s.takes("a1x", 12, s.Now)
	s.Newest.Rings[1].Manual = true
	d := s.expect(t, "", "", "waiting: has release-11; release-12: waits for a person's word: garrison promote --to b release-12 --reason …")
	if r := d.View.Rings[1]; !r.Approve || r.Candidate != 12 {
		t.Errorf("%+v", r)
	}
	s.pass(day + time.Second)
	if d := s.expect(t, ""); d.View.LateSince == nil {
		t.Error("nobody said a word for a day")
	}
	s.Ledger.Approved = []fleet.RolloutOrder{{Ring: "b", Release: 12}}
	s.expect(t, "b.1=12")
}

func TestReboots(t *testing.T) {
	s := newStand("a: 4; b: 1")
	s.rings[0].Reboots = 1
	s.everywhere(11)
	past, soon := s.Now.Add(-time.Second), s.Now.Add(time.Hour)
	for h := range s.hosts {
		st := s.says(h)
		st.Boot, st.Reboot = "old", &fleet.Reboot{Needed: true, At: &past}
	}
	s.Hosts["a1x"].Status.Reboot.At = &soon // its own window
	s.Hosts["a1y"].Status.Phase = fleet.PhaseReboot
	may := func(want string) {
		t.Helper()
		d, _ := s.decide()
		var got []string
		for _, h := range []string{"a1x", "a1y", "a1z", "a1{", "b1x"} {
			if p, ok := d.Permits[h]; ok {
				got = append(got, h)
				if p.Boot == "" || p.At.After(s.Now) {
					t.Errorf("%s: %+v", h, p)
				}
			}
		}
		if r := d.View.Rings[0]; strings.Join(got, " ") != want || strings.Join(r.Rebooting, " ") != want {
			t.Errorf("%q may, %q are said to, not %q; %+v", got, r.Rebooting, want, r)
		}
	}
	s.Ledger.Paused = s.order(11)
	may("")
	s.Ledger.Paused = nil
	may("a1y")
	s.pass(time.Minute)
	may("a1y")
	// It is back, and not well yet.
	st := s.says("a1y")
	st.Boot, st.Phase = "new", fleet.PhaseActivating
	may("a1y")
	st.Phase, st.Reboot = fleet.PhaseIdle, nil
	may("a1z")
	// It does not come back: nobody else goes down.
	s.Now = s.Now.Add(time.Hour)
	for h := range s.Hosts {
		if h != "a1z" {
			s.says(h)
		}
	}
	s.Newest.Rings[0].Reboots = 2
	may("a1z")
	st = s.says("a1z")
	st.Boot, st.Reboot = "new", &fleet.Reboot{Failure: &fleet.Failure{Message: "sshd is down"}}
	may("a1z")
	st.Reboot = nil
	may("a1x a1{")
	delete(s.Newest.Hosts, "a1x")
	may("a1{")
	s.Newest.Rings[0].Reboots = 0
	may("")
	// Without a limit each that asks for one has its permit.
	for _, h := range []string{"a1y", "a1{"} {
		st := s.says(h)
		st.Boot, st.Phase, st.Reboot = "before", fleet.PhaseIdle, &fleet.Reboot{Needed: true, At: &s.Now, Ring: true}
	}
	may("a1y a1{")
}

func TestSilentIsSaid(t *testing.T) {
	s := underWay("a: 1; b: 1")
	s.says("a1x").Phase = fleet.PhaseActivating
	s.Now = s.Now.Add(16*time.Minute - time.Second)
	s.says("b1x")
	d := s.expect(t, "", "rolling: 0 of 1 host has release-12; a1x activates it")
	if !d.Again.Equal(s.Now.Add(time.Second)) {
		t.Error(d.Again)
	}
	s.Now = s.Now.Add(time.Second)
	s.expect(t, "", "paused: paused: a1x was given release-12 and is silent since 12:01 UTC")
	s.Heard = s.Now
	d = s.expect(t, "", "rolling: 0 of 1 host has release-12; a1x was not heard of since the hub began to listen")
	if !d.Again.Equal(s.Now.Add(15*time.Minute)) && !d.Again.Before(s.Now.Add(15*time.Minute)) {
		t.Error(d.Again)
	}
}

func TestNothingKnown(t *testing.T) {
	d := rollout.Decide(rollout.Facts{Now: noon})
	if d.Moves != nil || d.View.State != fleet.RolloutWaiting || d.View.Reason == "" || d.View.Rings == nil {
		t.Errorf("%+v", d)
	}
}

func TestWordsAreBounded(t *testing.T) {
	s := newStand("a: 9; b: 1")
	s.everywhere(11)
	s.publish(12)
	s.decide()
	s.pass(time.Minute)
	for h, e := range s.hosts {
		if e.Ring == "a" {
			s.fails(h, 12)
			s.Hosts[h].Faults[0].Why = strings.Repeat("long ", 999) + "\nlonger"
		}
	}
	d, _ := s.decide()
	if r := d.View.Rings[0]; len(r.Reason) > 1000 || !strings.HasSuffix(r.Reason, "; 6 more") || r.Failed.Count != 9 {
		t.Error(len(r.Reason), fmt.Sprintf("%+v", r))
	}
}
