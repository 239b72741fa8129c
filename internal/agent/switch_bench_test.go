package agent_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/sandbox"
)

// BenchmarkSwitch measures from when the release branch has moved to when the release's switch-to-configuration runs, on a host with a
// systemd that has the closure already; the hub is told at once, and wakes the agent by its stream. The remote is a file, or by HTTP, or
// that beside ten that are dead.
func BenchmarkSwitch(b *testing.B) {
	for _, kind := range []string{"file", "http", "dead"} {
		b.Run(kind, func(b *testing.B) {
			l := needLab(b)
			hub, hubAt := l.mirror(b)
			defer hub.Kill()
			dir := b.TempDir()
			config := "socket = \"/run/garrison/agent.sock\"\n"
			origin := l.origin(b, dir)
			if kind != "file" {
				listener, err := l.forge.Listen("tcp", l.forge.Addr().String()+":0")
				if err != nil {
					b.Fatal(err)
				}
				config += fmt.Sprintf("[[remotes]]\nname = \"forge\"\nurl = %q\n", newForge(b, dir, listener).url())
			}
			rest := 500 * time.Millisecond
			if kind == "dead" {
				rest = 5 * time.Second
			}
			for i := 0; kind == "dead" && i < 10; i++ { // as many remotes at addresses where nobody is
				config += fmt.Sprintf("[[remotes]]\nurl = \"http://192.0.2.%d/fleet.git\"\n", 240+i)
			}
			x := newBox(b, boxOptions{systemd: true, origin: origin, remotes: kind != "file", config: config + fmt.Sprintf("[hub]\nurl = %q\ntokenFile = \"/etc/garrison/hub-token\"\n", hubAt)})
			x.deploy("good1")
			x.deploy("good2")
			x.must("busybox sed -i 's/^poll.*/poll = \"1h\"/' /etc/garrison/agent.toml")
			x.restartAgent()
			x.pollOnly = true
			w := newWaker(b, hub, hubAt)
			took := map[string][]time.Duration{}
			for n := 0; b.Loop(); n++ {
				began := x.host.Path("/run/switch-test-began")
				_ = os.Remove(began)
				number := x.publish([]string{"good1", "good2"}[n%2])
				moved := time.Now()
				w.wake()
				x.eventually("it switches", func() bool { _, err := os.Stat(began); return err == nil })
				info, err := os.Stat(began)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				took["switch"] = append(took["switch"], info.ModTime().Sub(moved))
				for _, s := range x.ended(number).Last.Stages {
					took[string(s.Stage)] = append(took[string(s.Stage)], s.StartedAt.Sub(moved))
				}
				time.Sleep(rest) // what is told afterwards is told, and dead remotes were looked at
				b.StartTimer()
			}
			b.ReportMetric(0, "ns/op")
			for _, at := range []string{"fetch", "verify", "stage", "gate", "activate", "switch"} {
				b.ReportMetric(median(took[at]), "ms/"+at)
			}
		})
	}
}

// waker tells a hub that something was released.
type waker struct {
	t      testing.TB
	client *http.Client
	url    string
}

func newWaker(t testing.TB, hub *sandbox.Host, url string) *waker {
	w := &waker{t, &http.Client{Transport: &http.Transport{DialContext: hub.DialContext}}, url + "/api/v1/wake"}
	t.Cleanup(w.client.CloseIdleConnections)
	w.wake()
	return w
}

func (w *waker) wake() {
	w.t.Helper()
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, w.url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer wake-token")
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		w.t.Fatal(resp.Status)
	}
}
