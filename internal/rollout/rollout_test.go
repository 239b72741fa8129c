package rollout_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// stand is a fleet as a test changes it: rings of hosts, releases that give each host a system of its own.
type stand struct {
	rollout.Facts
	rings []fleet.Ring
	hosts map[string]fleet.Entry // ring and batch
}

// newStand has the rings "a", "b", … with as many batches and hosts in each as said: "a: 1 1; b: 2 2" is a ring with two batches of one host.
func newStand(layout string) *stand {
	s := &stand{hosts: map[string]fleet.Entry{}, Facts: rollout.Facts{Now: noon, Releases: map[int]*fleet.Manifest{}, Tips: map[fleet.Step]int{}, Hosts: map[string]*rollout.Host{}, Silent: 15 * time.Minute, Heard: noon.Add(-day)}}
	for part := range strings.SplitSeq(layout, ";") {
		name, sizes, _ := strings.Cut(strings.TrimSpace(part), ":")
		batches := strings.Fields(sizes)
		s.rings = append(s.rings, fleet.Ring{Name: name, Batches: len(batches)})
		for b, size := range batches {
			for i := range int(size[0] - '0') {
				s.hosts[fmt.Sprintf("%s%d%c", name, b+1, 'x'+i)] = fleet.Entry{Ring: name, Batch: b + 1}
			}
		}
	}
	return s
}

const day = 24 * time.Hour

func system(host string, release int) string { return fmt.Sprintf("/nix/store/%s-%d", host, release) }

// publish makes a release that changes all hosts but some.
func (s *stand) publish(n int, unchanged ...string) *fleet.Manifest {
	m := &fleet.Manifest{Schema: 1, Number: n, CreatedAt: s.Now, Hosts: map[string]fleet.Entry{}, Rings: slices.Clone(s.rings)}
	for h, e := range s.hosts {
		e.OutPath = system(h, n)
		if slices.Contains(unchanged, h) {
			e.OutPath = s.Newest.Hosts[h].OutPath
		}
		m.Hosts[h] = e
	}
	s.Newest, s.Releases[n] = m, m
	return m
}

// everywhere has all hosts run a release that all steps have since a day.
func (s *stand) everywhere(n int) {
	at := s.Now.Add(-day)
	s.publish(n).CreatedAt = at
	for _, step := range s.Newest.Steps() {
		s.Tips[step] = n
		s.promoted(step, n, at)
	}
	for h := range s.hosts {
		s.takes(h, n, at)
	}
}

func (s *stand) promoted(step fleet.Step, n int, at time.Time) {
	if s.Ledger.Promotions == nil {
		s.Ledger.Promotions = map[string][]fleet.Promotion{}
	}
	branch := fleet.RingBranch("release", step.Ring, step.Batch)
	s.Ledger.Promotions[branch] = append(s.Ledger.Promotions[branch], fleet.Promotion{Release: n, At: at, By: "hub"})
}

func (s *stand) host(h string) *rollout.Host {
	if s.Hosts[h] == nil {
		s.Hosts[h] = &rollout.Host{}
	}
	return s.Hosts[h]
}

// says is a report of now.
func (s *stand) says(h string) *fleet.Status {
	st := &s.host(h).Status
	st.Host, st.At, st.Seen, st.NextPoll = h, s.Now, &fleet.Seen{At: s.Now}, s.Now.Add(time.Minute)
	return st
}

// takes has the host confirm a release at a time, and report so now.
func (s *stand) takes(h string, n int, at time.Time) {
	st, ref := s.says(h), fleet.ReleaseRef{Number: n}
	out := s.Releases[n].Hosts[h].OutPath
	if st.Active == nil || st.Active.OutPath != out {
		st.Active = &fleet.Target{At: at, Toplevel: fleet.Toplevel{OutPath: out}}
		s.host(h).Took = append(s.host(h).Took, rollout.Took{Release: n, OutPath: out, At: at})
		st.Since = at
	}
	st.Newest, st.Active.Release, st.Target, st.Failure = &ref, ref, nil, nil
	st.Phase = fleet.PhaseIdle
}

// fails has the host roll back from a release now, and report so.
func (s *stand) fails(h string, n int) {
	st, ref := s.says(h), fleet.ReleaseRef{Number: n}
	st.Phase, st.Since, st.Newest = fleet.PhaseHeld, s.Now, &ref
	st.Target = &fleet.Target{Release: ref, Toplevel: fleet.Toplevel{OutPath: s.Releases[n].Hosts[h].OutPath}}
	st.Failure = &fleet.Failure{Class: fleet.Bad, Message: "unit nginx.service failed"}
	st.Last = &fleet.Deployment{Release: ref, Result: fleet.RolledBack, EndedAt: s.Now}
	s.host(h).Faults = append(s.host(h).Faults, rollout.Fault{Release: n, At: s.Now, Why: "unit nginx.service failed"})
}

// pass has time go by, with all hosts reporting that nothing is new.
func (s *stand) pass(d time.Duration) {
	s.Now = s.Now.Add(d)
	for h := range s.Hosts {
		s.says(h)
	}
}

// decide applies a decision, and returns its moves in words.
func (s *stand) decide() (rollout.Decision, string) {
	d := rollout.Decide(s.Facts)
	var moves []string
	for _, m := range d.Moves {
		moves = append(moves, fmt.Sprintf("%s.%d=%d", m.Ring, m.Batch, m.To))
		s.Tips[m.Step] = m.To
		s.promoted(m.Step, m.To, s.Now)
	}
	s.Ledger.Reboots = d.Permits
	return d, strings.Join(moves, " ")
}

// expect decides, and holds moves and the reasons of all rings against what was expected.
func (s *stand) expect(t *testing.T, moves string, reasons ...string) rollout.Decision {
	t.Helper()
	d, got := s.decide()
	if got != moves {
		t.Errorf("moves are %q, not %q", got, moves)
	}
	for i, r := range d.View.Rings {
		said := string(r.State) + ": " + r.Reason
		if i < len(reasons) && reasons[i] != "" && said != reasons[i] {
			t.Errorf("ring %s is\n%q, not\n%q", r.Name, said, reasons[i])
		}
	}
	return d
}

func TestFromRingToRing(t *testing.T) {
	s := newStand("a: 1; b: 1 1")
	s.rings[0].SoakSeconds = 7200
	s.everywhere(11)
	s.expect(t, "", "done: has release-11", "done: has release-11")
	s.pass(time.Minute)
	s.publish(12)
	d := s.expect(t, "a.1=12", "rolling: 0 of 1 host has release-12; a1x has not said that it saw it", "waiting: has release-11; waits for ring a")
	if d.View.State != fleet.RolloutRolling {
		t.Error(d.View.State)
	}
	s.pass(time.Minute)
	s.takes("a1x", 12, s.Now)
	d = s.expect(t, "", "soaking: soaks release-12 until 14:02 UTC (2 h left)", "waiting: has release-11; waits for ring a")
	if u := d.View.Rings[0].SoakUntil; u == nil || !d.View.Next.Equal(*u) || !u.Equal(s.Now.Add(2*time.Hour)) {
		t.Error(u, d.View.Next)
	}
	s.pass(2*time.Hour - time.Second)
	s.expect(t, "")
	s.Now = s.Now.Add(time.Second)
	s.expect(t, "", "soaking: soaked release-12 until 14:02 UTC; waits until all hosts have said since that they are well")
	s.pass(0)
	s.expect(t, "b.1=12", "done: has release-12", "rolling: batch 1 of 2: 0 of 1 host has release-12; b1x has not said that it saw it")
	s.pass(time.Minute)
	s.takes("b1x", 12, s.Now)
	s.expect(t, "b.2=12", "done: has release-12", "rolling: 1 of 2 hosts have release-12; b2x has not said that it saw it")
	s.pass(time.Minute)
	s.takes("b2x", 12, s.Now)
	if d = s.expect(t, "", "done: has release-12", "done: has release-12"); d.View.State != fleet.RolloutDone || d.View.Reason != "" {
		t.Error(d.View)
	}
}

func TestCanaryFails(t *testing.T) {
	s := newStand("a: 1; b: 1")
	s.everywhere(11)
	s.publish(12)
	s.expect(t, "a.1=12")
	s.pass(time.Minute)
	s.fails("a1x", 12)
	d := s.expect(t, "", "paused: paused: a1x was rolled back from release-12: unit nginx.service failed", "waiting: has release-11; waits for ring a")
	if d.View.State != fleet.RolloutStopped {
		t.Error(d.View.State)
	}
	s.pass(time.Hour)
	s.Ledger.Resumed = &fleet.RolloutOrder{At: s.Now, Release: 12}
	s.expect(t, "") // nobody is left in the ring who has it
	s.publish(13)
	s.expect(t, "a.1=13")
	s.pass(time.Minute)
	s.takes("a1x", 13, s.Now)
	s.expect(t, "b.1=13", "done: has release-13")
}
