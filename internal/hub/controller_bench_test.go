package hub_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
)

// BenchmarkPromotion has 1,000 hosts in 5 rings report to a hub each minute; from before the request of the report that lets a ring have a release, until the ring's branch in
// the repository has moved.
func BenchmarkPromotion(b *testing.B) {
	const rings, each = 5, 200
	var list []fleet.Ring
	hosts, of := map[string]fleet.Step{}, make([][]string, rings)
	for i := range rings {
		list = append(list, fleet.Ring{Name: fmt.Sprint("r", i), Batches: 1})
		for j := range each {
			h := fmt.Sprintf("h%d-%03d", i, j)
			hosts[h], of[i] = fleet.Step{Ring: list[i].Name, Batch: 1}, append(of[i], h)
		}
	}
	f := hubtest.NewFleet(b, list, hosts)
	r := f.Start(openStore(b, b.TempDir()), b.TempDir(), nil)
	var mu sync.Mutex
	has := map[string]int{}
	says := func(host string, n int) {
		mu.Lock()
		has[host] = n
		mu.Unlock()
		r.Says(host, n, func(s *fleet.Status) { s.Since = s.Since.Add(-2 * time.Second); s.Active.At = s.Since })
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // all of them, once a minute
		defer close(stopped)
		for {
			for _, ring := range of {
				for _, h := range ring {
					select {
					case <-stop:
						return
					case <-time.After(time.Minute / (rings * each)):
					}
					mu.Lock()
					n := has[h]
					mu.Unlock()
					if n > 0 {
						r.Says(h, n, func(s *fleet.Status) { s.Since = s.Since.Add(-2 * time.Second); s.Active.At = s.Since })
					}
				}
			}
		}
	}()
	var took []time.Duration
	for range b.N {
		m := f.Release(nil)
		r.Follower.Hint(time.Now())
		r.UntilGiven(list[0].Name, 1, m.Number)
		r.Until("the hub has seen it", func() bool { return r.View().Release == m.Number })
		for i, ring := range of {
			for _, h := range ring[1:] {
				says(h, m.Number)
			}
			if i == rings-1 {
				says(ring[0], m.Number)
				continue
			}
			ref := filepath.Join(f.Origin.Dir, "refs/heads", fleet.RingBranch("release", list[i+1].Name, 1))
			moved := func() bool {
				text, err := os.ReadFile(ref)
				return err == nil && strings.TrimSpace(string(text)) == m.Source.Commit
			}
			if moved() {
				b.Fatal("it was given too early")
			}
			began := time.Now()
			says(ring[0], m.Number)
			for !moved() {
				if time.Since(began) > time.Minute {
					b.Fatalf("it is not given:\n%s", r.Log)
				}
				time.Sleep(time.Millisecond)
			}
			took = append(took, time.Since(began))
		}
	}
	close(stop)
	<-stopped
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms/median")
	b.ReportMetric(float64(took[(len(took)*95+99)/100-1].Milliseconds()), "ms/p95")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms/most")
	b.ReportMetric(0, "ns/op")
}
