package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const idleAgents = 10_000

// BenchmarkIdleAgents connects 10,000 agents, each with a token of its own, to the stream of a hub in a process of its own, reads what the hub has in
// memory and how much of a core it takes in a minute in which nothing happens, and then how long after a wake-up the agents hear of it.
func BenchmarkIdleAgents(b *testing.B) {
	dir := b.TempDir()
	garrison := filepath.Join(dir, "garrison")
	if out, err := exec.Command("go", "build", "-o", garrison, "../../cmd/garrison").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	h := startIdleHub(b, garrison, dir, "")
	alone := h.resident()
	var wakes atomic.Pointer[wakeUp]
	var connected sync.WaitGroup
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	places := make(chan struct{}, 64)
	began := time.Now()
	for n := range idleAgents {
		connected.Add(1)
		places <- struct{}{}
		go func() {
			defer func() { <-places }()
			conn, err := h.connect(ctx, n)
			connected.Done()
			if err != nil {
				b.Errorf("agent %d: %v", n, err)
				return
			}
			go hear(conn, &wakes)
		}()
	}
	connected.Wait()
	took := time.Since(began)
	if b.Failed() {
		return
	}
	for b.Loop() {
		time.Sleep(5 * time.Second) // what connecting left behind
		cpu := h.cpu()
		time.Sleep(time.Minute)
		b.ReportMetric(100*(h.cpu()-cpu).Seconds()/60, "%core/idle")
		b.ReportMetric(float64(h.resident())/1e6, "MB/resident")
		b.ReportMetric(float64(h.resident()-alone)/idleAgents/1e3, "kB/agent")
		var all []time.Duration
		for range 10 {
			all = append(all, h.wake(b, &wakes)...)
		}
		slices.Sort(all)
		b.ReportMetric(all[len(all)/2].Seconds()*1e3, "ms/p50")
		b.ReportMetric(all[len(all)*99/100].Seconds()*1e3, "ms/p99")
		b.ReportMetric(all[len(all)-1].Seconds()*1e3, "ms/last")
		b.ReportMetric(took.Seconds(), "s/connecting")
		b.ReportMetric(0, "ns/op")
	}
}

// idleHub is a hub in a process of its own.
type idleHub struct {
	pid     int
	address string
}

// startIdleHub starts one that knows a token of each of idleAgents hosts; more is added to its configuration.
func startIdleHub(b *testing.B, garrison, dir, more string) *idleHub {
	b.Helper()
	var tokens strings.Builder
	token := func(name, scope string) {
		sum := sha256.Sum256([]byte("secret of " + name))
		fmt.Fprintf(&tokens, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", name, hex.EncodeToString(sum[:]), scope)
	}
	token("wake", "wake")
	for n := range idleAgents {
		token(fmt.Sprint("h", n), fmt.Sprint("report:h", n))
	}
	for name, text := range map[string]string{
		"tokens.toml": tokens.String(),
		"hub.toml":    fmt.Sprintf("listen = \"127.0.0.1:0\"\ndataDir = %q\ntokens = %q\n", filepath.Join(dir, "data"), filepath.Join(dir, "tokens.toml")) + more,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(garrison, "hub", "--config", filepath.Join(dir, "hub.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 200 {
		text, _ := os.ReadFile(log.Name())
		if m := regexp.MustCompile(`hub serves" address=(\S+)`).FindSubmatch(text); m != nil {
			return &idleHub{pid: cmd.Process.Pid, address: string(m[1])}
		}
		time.Sleep(50 * time.Millisecond)
	}
	text, _ := os.ReadFile(log.Name())
	b.Fatalf("the hub does not serve: %s", text)
	return nil
}

// connect opens the stream of agent n, from an address of its own for each 10,000 ports, and has heard that it is open.
func (h *idleHub) connect(ctx context.Context, n int) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(1+n/10_000))}}
	conn, err := d.DialContext(ctx, "tcp", h.address)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(conn, "GET /api/v1/stream?kinds=wake HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer secret of h%d\r\n\r\n", n); err != nil {
		return nil, err
	}
	var said []byte
	piece := make([]byte, 512)
	for !bytes.Contains(said, []byte(": hello")) {
		n, err := conn.Read(piece)
		if err != nil {
			return nil, fmt.Errorf("%w after %q", err, said)
		}
		said = append(said, piece[:n]...)
	}
	return conn, nil
}

// wakeUp is one that all agents are to hear of.
type wakeUp struct {
	at    time.Time
	heard []time.Duration
	next  atomic.Int64
	all   chan struct{}
}

// hear reads a stream until it ends, and notes wake-ups.
func hear(conn net.Conn, wakes *atomic.Pointer[wakeUp]) {
	defer conn.Close()
	piece := make([]byte, 128)
	for {
		n, err := conn.Read(piece)
		if err != nil {
			return
		}
		if !bytes.Contains(piece[:n], []byte(`"wake"`)) {
			continue
		}
		w := wakes.Load()
		at := w.next.Add(1)
		w.heard[at-1] = time.Since(w.at)
		if at == idleAgents {
			close(w.all)
		}
	}
}

// wake wakes all agents, and says how long each of them took to hear of it.
func (h *idleHub) wake(b *testing.B, wakes *atomic.Pointer[wakeUp]) []time.Duration {
	b.Helper()
	w := &wakeUp{at: time.Now(), heard: make([]time.Duration, idleAgents), all: make(chan struct{})}
	wakes.Store(w)
	req, _ := http.NewRequestWithContext(b.Context(), http.MethodPost, "http://"+h.address+"/api/v1/wake", nil)
	req.Header.Set("Authorization", "Bearer secret of wake")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	resp.Body.Close()
	select {
	case <-w.all:
	case <-time.After(30 * time.Second):
		b.Fatalf("%d of %d agents heard of the wake-up", w.next.Load(), idleAgents)
	}
	time.Sleep(time.Second)
	return w.heard
}

// resident is what the hub has in memory, in bytes.
func (h *idleHub) resident() int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", h.pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmRSS:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(rest)[0])
			return kib * 1024
		}
	}
	return 0
}

// cpu is what the hub has used of the processors.
func (h *idleHub) cpu() time.Duration {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks a second, everywhere
}
