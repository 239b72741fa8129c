package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/rollout"
)

// large is a fleet of 1,000 hosts in five rings: 10, 50, 140, 300 and 500, in batches of at most 100, that soak for an hour but the last.
func large() *stand {
	s := newStand("a: 0; b: 0; c: 0 0; d: 0 0 0; e: 0 0 0 0 0")
	for i, hosts := range []int{10, 50, 140, 300, 500} {
		r := &s.rings[i]
		if i < 4 {
			r.SoakSeconds = 3600
		}
		for h := range hosts {
			s.hosts[fmt.Sprintf("%s-%03d", r.Name, h)] = fleet.Entry{Ring: r.Name, Batch: 1 + h/100}
		}
	}
	return s
}

// What a hub does on each report: here in the middle of a roll-out, with a release in each of the rings but the last, which has most.
func BenchmarkDecide(b *testing.B) {
	s := large()
	s.everywhere(1)
	for n := 2; n <= 5; n++ {
		s.publish(n)
		for r := range 6 - n { // release 2 is in four rings, 5 in one
			for batch := range s.rings[r].Batches {
				step := fleet.Step{Ring: s.rings[r].Name, Batch: batch + 1}
				s.Tips[step] = n
				s.promoted(step, n, s.Now)
			}
		}
		s.pass(time.Minute)
		for h, e := range s.hosts {
			if s.Tips[fleet.Step{Ring: e.Ring, Batch: e.Batch}] == n {
				s.takes(h, n, s.Now)
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		if d := rollout.Decide(s.Facts); len(d.View.Rings) != 5 || d.View.State != fleet.RolloutSoaking || len(d.Moves) > 0 {
			b.Fatalf("%+v", d.View)
		}
	}
}

// How long a release takes to 1,000 hosts, in the simulation's time, against the sum of the soak times: with a network that loses and delays a part of the reports, and
// a hub that forgets everything twice on the way, and decides once a second at most.
func BenchmarkConverge(b *testing.B) {
	share := map[string]float64{"50%": 0.5, "90%": 0.9, "99%": 0.99, "all": 1}
	var soaks time.Duration
	for i := range b.N {
		w := newWorld(uint64(i), large())
		w.lose, w.double, w.late, w.gather = 0.05, 0.05, 0.05, time.Second
		soaks = 0
		for _, r := range w.stand.rings {
			soaks += time.Duration(r.SoakSeconds) * time.Second
		}
		w.run(noon.Add(10*time.Minute), nil)
		w.stand.Now = w.now
		w.stand.publish(2)
		w.decide()
		for range 2 {
			w.after(w.between(0, soaks), w.restart)
		}
		began := w.now
		for _, name := range []string{"50%", "90%", "99%", "all"} {
			want, count := int(share[name]*1000), 0
			if !w.run(began.Add(day), func() bool {
				if count++; count%50 != 0 { // counting costs more than what happens
					return false
				}
				return w.have(2) >= want
			}) {
				b.Fatalf("%d hosts have it: %+v", w.have(2), rollout.Decide(w.stand.Facts).View)
			}
			b.ReportMetric(w.now.Sub(began).Minutes(), "min-"+name)
		}
	}
	b.ReportMetric(soaks.Minutes(), "min-soaks")
}
