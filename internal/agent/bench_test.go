package agent_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// BenchmarkLook measures from when an agent is told to look, the tip having moved, to when it says that it accepted the
// release: fetch, verify, its record and its memory on disk.
func BenchmarkLook(b *testing.B) {
	for _, kind := range []string{"file", "http"} {
		b.Run(kind, func(b *testing.B) {
			o := newOrigin(b)
			releases(o, 100)
			remote := "file://" + o.repo.Dir
			if kind == "http" {
				remote = newForge(b, filepath.Join(o.dir, "origin")).url()
			}
			f := follow(b, o, fmt.Sprintf("poll = \"1h\"\nremote = %q\n", remote))
			f.follows(100)
			var took []time.Duration
			for n := 101; b.Loop(); n++ {
				b.StopTimer()
				o.publish(n)
				b.StartTimer()
				took = append(took, f.takes(n))
			}
			b.ReportMetric(median(took), "ms/median")
		})
	}
}

// BenchmarkBlackHoles is the same for two agents in turn, that both have one remote which answers, and one of them ten more that are
// black holes: addresses whose packets vanish, in a network namespace of the agent's own.
func BenchmarkBlackHoles(b *testing.B) {
	o := newOrigin(b)
	releases(o, 100)
	config := "poll = \"1h\"\nremote = \"git://127.0.0.1/fleet.git\"\n"
	within := nowhere + "git daemon --export-all --listen=127.0.0.1 --base-path=" + filepath.Join(o.dir, "origin") + " & sleep 1; "
	alone := follow(b, o, config, within)
	for i := range 10 {
		config += fmt.Sprintf("[[remotes]]\nurl = \"http://198.51.100.%d/fleet.git\"\n", 10+i)
	}
	beside := follow(b, o, config, within)
	alone.follows(100)
	s := beside.follows(100)
	var without, with []time.Duration
	for n := 101; b.Loop(); n++ {
		b.StopTimer()
		o.publish(n)
		b.StartTimer()
		if n%2 == 0 {
			without = append(without, alone.takes(n))
			with = append(with, beside.takes(n))
		} else {
			with = append(with, beside.takes(n))
			without = append(without, alone.takes(n))
		}
	}
	if s = beside.follows(s.Newest.Number + len(with)); len(s.Remotes) != 11 {
		b.Errorf("%d remotes", len(s.Remotes))
	}
	b.ReportMetric(median(without), "ms/alone")
	b.ReportMetric(median(with), "ms/beside")
}

func releases(o *origin, n int) {
	for i := 1; i <= n; i++ {
		o.publish(i)
	}
}

// takes has the agent look, and says how long it took to accept release n.
func (f *follower) takes(n int) time.Duration {
	began := time.Now()
	f.look()
	f.await("it is accepted", func(s fleet.Status) bool { return s.Newest != nil && s.Newest.Number == n })
	return time.Since(began)
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}

// nowhere is a shell's beginning, in a network namespace: 198.51.100.0/24 is a black hole, an interface at whose other
// end nobody listens.
const nowhere = "ip link set lo up; ip link add nowhere type veth peer name nobody; ip link set nobody up; ip link set nowhere up arp off; ip address add 198.51.100.1/24 dev nowhere; "
