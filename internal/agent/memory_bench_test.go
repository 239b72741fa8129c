package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ballast is what the measured closures have to be unpacked, in MB.
const ballast = 64

// BenchmarkMemory reads what the agent, its children and the activation have in memory while a host with a systemd fetches a closure and turns
// to it: of all of their processes together, at the worst moment, those of nix and the rest each for itself. Pages that processes share
// count for each. It fails where the rest has more than 100 MB, or where nix was asked to evaluate or build.
func BenchmarkMemory(b *testing.B) {
	c := needLab(b).cacheHost(b)
	builder := newBox(b, boxOptions{host: "good1", cacheURL: c.url, cacheKey: c.key, pushToken: true})
	pushed := func() {
		builder.await("the builder has pushed it", func(s fleet.Status) bool {
			return s.Phase == fleet.PhaseIdle && s.Newest.Number == builder.number && s.Pushing == 0 && !s.Push.LastOK.IsZero()
		})
	}
	builder.left("good1", func(*fleet.Entry) {})
	pushed()
	x := newBox(b, boxOptions{systemd: true, host: "good1", origin: builder.origin, cacheURL: c.url, cacheKey: c.key, config: "[build]\nwhen = \"never\"\n", files: nixTold()})
	x.ended(1)
	x.must("busybox sed -i 's/^poll.*/poll = \"1h\"/' /etc/garrison/agent.toml")
	x.restartAgent()
	var worst peaks
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		builder.number++
		commit, out := builder.variation("good1", fmt.Sprintf("mkdir -p $out; head -c %d /dev/urandom > $out/ballast-%d", ballast*1_000_000, n))
		builder.sign(builder.number, commit, "good1", out)
		pushed()
		stop := make(chan struct{})
		peaks := x.memory(stop)
		b.StartTimer()
		x.point(commit)
		s := x.ended(builder.number)
		close(stop)
		p := <-peaks
		if s.Last.Result != fleet.Committed || s.Systems.Current != out {
			b.Fatalf("%+v, %+v", s.Last, s.Failure)
		}
		b.Logf("at the worst: %v", p.of)
		worst.ours, worst.nix = max(worst.ours, p.ours), max(worst.nix, p.nix)
		if p.ours > 100_000_000/1024 {
			b.Errorf("agent, git and activation have %d KiB", p.ours)
		}
	}
	x.notEvaluated()
	b.ReportMetric(float64(worst.ours)*1024/1e6, "MB/ours")
	b.ReportMetric(float64(worst.nix)*1024/1e6, "MB/nix")
}

// peaks are what processes had in memory at the worst moment, in KiB.
type peaks struct {
	ours, nix int
	of        map[string]int // each program's processes together
}

// memory watches the agent's unit and those of activations until stop is closed.
func (b *box) memory(stop <-chan struct{}) <-chan peaks {
	done := make(chan peaks, 1)
	proc := b.host.Path("/proc")
	go func() {
		worst := peaks{of: map[string]int{}}
		for {
			now := peaks{of: map[string]int{}}
			dirs, _ := filepath.Glob(proc + "/[0-9]*")
			for _, dir := range dirs {
				group, _ := os.ReadFile(dir + "/cgroup") // one that ended has nothing
				if !strings.Contains(string(group), "/garrison-a") {
					continue
				}
				status, _ := os.ReadFile(dir + "/status")
				name, kib := "", 0
				for line := range strings.Lines(string(status)) {
					if text, ok := strings.CutPrefix(line, "Name:"); ok {
						name = strings.TrimSpace(text)
					} else if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
						kib, _ = strconv.Atoi(strings.Fields(text)[0])
					}
				}
				if now.of[name] += kib; strings.HasPrefix(name, "nix") {
					now.nix += kib
				} else {
					now.ours += kib
				}
			}
			worst.ours, worst.nix = max(worst.ours, now.ours), max(worst.nix, now.nix)
			for name, kib := range now.of {
				worst.of[name] = max(worst.of[name], kib)
			}
			select {
			case <-stop:
				done <- worst
				return
			case <-time.After(2 * time.Millisecond):
			}
		}
	}()
	return done
}
