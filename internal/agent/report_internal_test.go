package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// failingHub keeps what it is told of one host, and fails on purpose: before it keeps something, or after that and before it answers.
type failingHub struct {
	mu     sync.Mutex
	kept   []fleet.DeploymentKey // in the order in which they were told first
	last   *fleet.DeploymentKey
	asked  int
	before int // fails before it keeps the nth, each time that it comes to that many
	after  int
	busy   int // answers that many times that it is told too much
}

func (h *failingHub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked++
	if h.busy > 0 {
		h.busy--
		w.Header().Set("Retry-After", "90")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	if r.URL.Path == "/api/v1/reports" {
		_ = json.NewEncoder(w).Encode(fleet.Received{Schema: fleet.StatusSchema, Deployment: h.last})
		return
	}
	if r.URL.Path != "/api/v1/deployments" {
		return
	}
	var d fleet.DeploymentReport
	if json.NewDecoder(r.Body).Decode(&d) != nil || h.before > 0 && h.asked%h.before == 0 {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	key := d.Deployment.Key()
	h.last = &key
	known := false
	for _, k := range h.kept {
		known = known || k.Equal(key)
	}
	if !known {
		h.kept = append(h.kept, key)
	}
	if h.after > 0 && h.asked%h.after == 0 {
		panic(http.ErrAbortHandler) // the connection breaks
	}
}

// reporter is an agent with n deployments in its history, the first ones as another host, and the hub to tell.
func reporter(t *testing.T, dir, url string, n int) *Agent {
	t.Helper()
	c := Config{Host: "joker", StateDir: dir, Profile: filepath.Join(dir, "profile")}
	c.Hub.URL, c.Hub.TokenFile = url, filepath.Join(dir, "token")
	if err := os.WriteFile(c.Hub.TokenFile, []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &Agent{Options: Options{Config: c, Log: slog.New(slog.DiscardHandler)}}
	a.status.Schema, a.status.Host = fleet.StatusSchema, c.Host
	journal, err := durable.OpenJournal(a.historyFile(), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	past, err := durable.ReadJournal[fleet.Deployment](a.historyFile(), historyKept)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(past) + 1; i <= n; i++ {
		d := fleet.Deployment{Schema: fleet.StatusSchema, Host: c.Host, Release: fleet.ReleaseRef{Number: i}, Result: fleet.Committed, EndedAt: time.Unix(int64(1_780_000_000+i), int64(n)).UTC()}
		if i <= 3 {
			d.Host = "former"
		}
		if err := journal.Append(d); err != nil {
			t.Fatal(err)
		}
		past = append(past, d)
	}
	if len(past) > 0 {
		a.status.Last = &past[len(past)-1]
	}
	return a
}

// TestToldOnce: what ended while the hub was away is told in order and is there once, whether agent, hub, or an answer are lost in the middle.
func TestToldOnce(t *testing.T) {
	for name, h := range map[string]*failingHub{"all is well": {}, "killed before it keeps": {before: 7}, "killed before it answers": {after: 5}, "both": {before: 4, after: 7}} {
		dir := t.TempDir()
		s := httptest.NewServer(h)
		s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
		const n = 130
		for tries := 0; ; tries++ {
			a := reporter(t, dir, s.URL, n) // each time another process
			var r fleet.Received
			if err := a.reportStatus(t.Context(), s.Client(), &r); err == nil {
				break
			} else if tries > n {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if len(h.kept) != n-3 {
			t.Errorf("%s: %d of %d are kept", name, len(h.kept), n-3)
		}
		for i, k := range h.kept {
			if k.Release != i+4 {
				t.Errorf("%s: release %d was told at place %d", name, k.Release, i)
			}
		}
		// A hub that lost all is told again, one that lost the end of it the rest.
		asked := h.asked
		h.before, h.after = 0, 0
		h.last = &h.kept[99]
		a := reporter(t, dir, s.URL, n)
		var r fleet.Received
		if err := a.reportStatus(t.Context(), s.Client(), &r); err != nil || h.asked != asked+1+n-3-100 || len(h.kept) != n-3 {
			t.Errorf("%s: asked %d times more, %v", name, h.asked-asked, err)
		}
		h.kept, h.last = nil, nil
		if err := a.reportStatus(t.Context(), s.Client(), &r); err != nil || len(h.kept) != n-3 {
			t.Errorf("%s: of a hub made anew %d, %v", name, len(h.kept), err)
		}
		s.Close()
	}
}

// TestTwoOfOneName: two machines that report as the same host do not tell the hub all they know again and again.
func TestTwoOfOneName(t *testing.T) {
	h := &failingHub{}
	s := httptest.NewServer(h)
	defer s.Close()
	one, other := reporter(t, t.TempDir(), s.URL, 50), reporter(t, t.TempDir(), s.URL, 60)
	for range 20 {
		for _, a := range []*Agent{one, other} {
			var r fleet.Received
			if err := a.reportStatus(t.Context(), s.Client(), &r); err != nil {
				t.Fatal(err)
			}
		}
	}
	if h.asked > 40+47+57 {
		t.Errorf("asked %d times", h.asked)
	}
}

// TestLater: a hub that is told too much has the time that it asks for, but not for ever.
func TestLater(t *testing.T) {
	h := &failingHub{busy: 1}
	s := httptest.NewServer(h)
	defer s.Close()
	a := reporter(t, t.TempDir(), s.URL, 4)
	var r fleet.Received
	err := a.reportStatus(t.Context(), s.Client(), &r)
	if l, ok := err.(*later); !ok || l.after != 90*time.Second || fleet.CodeOf(err) != fleet.CodeRemote || !strings.Contains(err.Error(), "429") {
		t.Fatalf("%v", err)
	}
	synctest.Test(t, func(t *testing.T) {
		began, tries := time.Now(), 0
		persistUntil(t.Context(), func() error {
			if tries++; tries < 3 {
				return fmt.Errorf("told: %w", err)
			}
			return nil
		})
		if took := time.Since(began); took < 3*time.Minute || took > 15*time.Minute {
			t.Errorf("%s", took)
		}
	})
}

// TestClock: a clock that is not the hub's is in the status as soon as the hub has answered anything, and no more when it is right.
func TestClock(t *testing.T) {
	var ahead time.Duration // of the hub's
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", time.Now().Add(ahead).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer s.Close()
	a := reporter(t, t.TempDir(), s.URL, 0)
	for _, c := range []struct {
		ahead time.Duration
		want  float64 // minutes that the host is ahead
	}{{0, 0}, {24 * time.Hour, -24 * 60}, {-24 * time.Hour, 24 * 60}, {-57 * time.Second, 0}} {
		ahead = c.ahead
		if err := a.reportStatus(t.Context(), s.Client(), &fleet.Received{}); err == nil {
			t.Error("the hub answered 503, and nothing was wrong")
		}
		if got := math.Round(a.Status().ClockOffSeconds / 60); got != c.want {
			t.Errorf("the hub is %s ahead: off by %v minutes", c.ahead, got)
		}
	}
}
