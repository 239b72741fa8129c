package rollout_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// choices are what a fuzzer chose, byte by byte; then 0 for ever.
type choices []byte

func (c *choices) of(n int) int {
	if len(*c) == 0 {
		return 0
	}
	b := (*c)[0]
	*c = (*c)[1:]
	return int(b) % n
}

func (c *choices) flip() bool { return c.of(2) == 1 }

// moment is a time around noon, in minutes and sometimes exactly the same.
func (c *choices) moment() time.Time {
	return noon.Add(time.Duration(c.of(256)-200) * time.Minute)
}

func (c *choices) order() *fleet.RolloutOrder {
	if !c.flip() {
		return nil
	}
	o := &fleet.RolloutOrder{By: "ann", At: c.moment(), Release: c.of(6), To: c.of(6), AtOnce: c.flip(), Ring: string(rune('a' + c.of(3)))}
	if c.flip() {
		until := c.moment()
		o.Until = &until
	}
	return o
}

// facts are any: also such as no honest fleet comes to.
func (c *choices) facts() rollout.Facts {
	f := rollout.Facts{Now: noon, Releases: map[int]*fleet.Manifest{}, Tips: map[fleet.Step]int{}, Hosts: map[string]*rollout.Host{}, Silent: time.Duration(c.of(60)) * time.Minute, Heard: c.moment()}
	hosts := []string{"h0", "h1", "h2", "h3", "h4"}
	var every []fleet.Step
	for n := 1; n <= 1+c.of(5); n++ {
		m := &fleet.Manifest{Number: n, CreatedAt: c.moment(), Hosts: map[string]fleet.Entry{}, RollbackTo: c.of(n)}
		for i := range c.of(4) {
			m.Rings = append(m.Rings, fleet.Ring{Name: string(rune('a' + (i+c.of(2))%4)), Batches: 1 + c.of(3), SoakSeconds: int64(c.of(3) * 600), Failures: c.of(3), Manual: c.flip(), DrillDays: c.of(2), Reboots: c.of(3)})
			if c.flip() {
				m.Rings[i].Windows, m.Rings[i].Zone = []string{[]string{"Mon 11:00-13:00", "Sun 23:00-02:00", "never"}[c.of(3)]}, []string{"", "Asia/Tokyo", "Moon"}[c.of(3)]
			}
		}
		for _, h := range hosts {
			e := fleet.Entry{Toplevel: fleet.Toplevel{OutPath: fmt.Sprintf("/nix/store/%s-%d", h, c.of(n+1))}}
			if len(m.Rings) > 0 {
				r := m.Rings[c.of(len(m.Rings))]
				e.Ring, e.Batch = r.Name, 1+c.of(4)
			}
			if c.of(8) > 0 {
				m.Hosts[h] = e
			}
		}
		if f.Newest = m; c.of(8) > 0 {
			f.Releases[n] = m
		}
		every = append(every, m.Steps()...)
	}
	f.Releases[f.Newest.Number] = f.Newest
	f.Ledger = fleet.Ledger{Paused: c.order(), Freeze: c.order(), Resumed: c.order(), Aborted: c.order(), Promotions: map[string][]fleet.Promotion{}, Reboots: map[string]fleet.RebootPermit{}}
	if o := c.order(); o != nil {
		f.Ledger.Approved = []fleet.RolloutOrder{*o}
	}
	if c.flip() {
		f.Drilled = c.moment()
	}
	for _, s := range every {
		if c.flip() {
			f.Tips[s] = c.of(7)
		}
		for range c.of(4) {
			b := fleet.RingBranch("release", s.Ring, s.Batch)
			f.Ledger.Promotions[b] = append(f.Ledger.Promotions[b], fleet.Promotion{Release: c.of(7), At: c.moment()})
		}
	}
	for _, h := range append(hosts, "gone") {
		if c.of(8) > 0 {
			f.Hosts[h] = c.host(h)
		}
		if c.flip() {
			f.Ledger.Reboots[h] = fleet.RebootPermit{Boot: fmt.Sprint(c.of(2)), At: c.moment()}
		}
	}
	return f
}

func (c *choices) host(h string) *rollout.Host {
	target := func() *fleet.Target {
		if !c.flip() {
			return nil
		}
		return &fleet.Target{Release: fleet.ReleaseRef{Number: c.of(7)}, At: c.moment(), Toplevel: fleet.Toplevel{OutPath: fmt.Sprintf("/nix/store/%s-%d", h, c.of(6))}}
	}
	x := &rollout.Host{}
	s := &x.Status
	s.Phase, s.At, s.Since, s.NextPoll, s.Active, s.Target, s.Boot = fleet.Phases()[c.of(len(fleet.Phases()))], c.moment(), c.moment(), c.moment(), target(), target(), fmt.Sprint(c.of(2))
	if t := target(); t != nil {
		s.Newest = &t.Release
	}
	if c.of(4) > 0 {
		s.Seen = &fleet.Seen{At: c.moment()}
	}
	if c.of(4) == 0 {
		s.Drift = true
	}
	if c.of(4) == 0 {
		s.Suspended = &fleet.Suspension{Until: c.moment()}
	}
	if c.of(4) == 0 {
		s.Refused = &fleet.Refusal{Since: c.moment()}
	}
	if c.flip() {
		at := c.moment()
		s.Reboot = &fleet.Reboot{Needed: c.flip()}
		if c.flip() {
			s.Reboot.At = &at
		}
		if c.of(4) == 0 {
			s.Reboot.Failure = &fleet.Failure{Message: "no"}
		}
	}
	if c.of(4) == 0 {
		s.Failure = &fleet.Failure{Message: "no"}
		s.Last = &fleet.Deployment{Release: fleet.ReleaseRef{Number: c.of(7)}, Result: fleet.Results[c.of(len(fleet.Results))]}
	}
	for range c.of(4) {
		x.Took = append(x.Took, rollout.Took{Release: c.of(7), OutPath: fmt.Sprintf("/nix/store/%s-%d", h, c.of(6)), At: c.moment()})
	}
	for range c.of(3) {
		x.Faults = append(x.Faults, rollout.Fault{Release: c.of(7), At: c.moment(), Why: "no"})
	}
	return x
}

// Whatever the facts are, what is true of every decision is true, and after its moves there are no more.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{})
	for seed := range byte(40) {
		bytes := make([]byte, 600)
		for i := range bytes {
			bytes[i] = byte((i*i + i*int(seed)*7 + int(seed)) >> 1 * 31)
		}
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		c := choices(bytes)
		facts := c.facts()
		names := map[string]bool{}
		for _, r := range facts.Newest.Rings {
			if names[r.Name] {
				return
			}
			names[r.Name] = true
		}
		before := clone(facts)
		d := rollout.Decide(facts)
		check(t, "", before, d)
		down := map[string]int{}
		for h, p := range d.Permits {
			ring := facts.Newest.Hosts[h].Ring
			if _, had := before.Ledger.Reboots[h]; !had {
				down[ring]++
			}
			if p.At.After(facts.Now) && facts.Ledger.Reboots[h] != p {
				t.Errorf("%s may reboot from %v on", h, p.At)
			}
		}
		for _, r := range facts.Newest.Rings {
			if down[r.Name] > r.Reboots {
				t.Errorf("%d hosts of %+v may reboot anew", down[r.Name], r)
			}
		}
		s := &stand{Facts: facts}
		if _, moves := s.decide(); moves == "" && len(d.Moves) > 0 {
			t.Error("decided otherwise")
		}
		if again, moves := s.decide(); moves != "" || !maps.Equal(again.Permits, d.Permits) {
			t.Errorf("after %v there are more moves: %q, or other permits: %v", d, moves, again.Permits)
		}
		for _, m := range d.Moves {
			if !slices.Contains(facts.Newest.Steps(), m.Step) {
				t.Error(m)
			}
		}
	})
}
