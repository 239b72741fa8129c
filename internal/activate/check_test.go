package activate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func checker() *helper { return &helper{req: Request{ID: "check-test"}, log: discard()} }

func server(t *testing.T, f http.HandlerFunc) string {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s.URL
}

func TestHTTPCheck(t *testing.T) {
	url := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/elsewhere":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, "no database\n::at https://user:geheim@db/", strings.Repeat("x", 5000))
		case "/endless":
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "hello")
		case "/hangs":
			<-r.Context().Done()
		default:
			fmt.Fprint(w, "hello")
		}
	})
	t.Setenv("HTTP_PROXY", "http://192.0.2.99:1") // nobody asks it
	for name, c := range map[string]struct {
		check fleet.HTTPCheck
		want  string
	}{
		"well":                {fleet.HTTPCheck{URL: url, Contains: "ell"}, ""},
		"another text":        {fleet.HTTPCheck{URL: url, Contains: "bye"}, `does not answer with "bye", but: "hello"`},
		"another status":      {fleet.HTTPCheck{URL: url, Status: 204}, "status 200, not 204"},
		"a redirect":          {fleet.HTTPCheck{URL: url + "/elsewhere"}, `status 302 (to "/"), not 200 to 299`},
		"a redirect, wanted":  {fleet.HTTPCheck{URL: url + "/elsewhere", Status: 302}, ""},
		"a failure":           {fleet.HTTPCheck{URL: url + "/broken"}, `status 503, not 200 to 299: "no database\n`},
		"a failure, wanted":   {fleet.HTTPCheck{URL: url + "/broken", Status: 503, Contains: "no database"}, ""},
		"an endless answer":   {fleet.HTTPCheck{URL: url + "/endless", Contains: "x"}, "does not answer with"},
		"an answer cut short": {fleet.HTTPCheck{URL: url + "/cut"}, "breaks off"},
		"no answer":           {fleet.HTTPCheck{URL: url + "/hangs"}, "no answer: not within 500ms"},
		"nobody":              {fleet.HTTPCheck{URL: "http://" + closedPort(t)}, "refused"},
	} {
		err := checker().declared(t.Context(), fleet.HealthCheck{Name: "web", HTTP: &c.check, TimeoutSeconds: seconds(name)})
		switch {
		case (err == nil) != (c.want == ""), err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v", name, err)
		case err != nil && (fleet.ClassOf(err) != fleet.Bad || fleet.CodeOf(err) != fleet.CodeCheck || len(err.Error()) > 1000 || strings.Contains(err.Error(), "geheim")):
			t.Errorf("%s: %v %v: %v", name, fleet.ClassOf(err), fleet.CodeOf(err), err)
		}
	}
}

// seconds is short only where waiting is the matter.
func seconds(name string) float64 {
	if name == "no answer" {
		return 0.5
	}
	return 30
}

// closedPort is an address on which nobody listens.
func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTCPAndUnitChecks(t *testing.T) {
	open := strings.TrimPrefix(server(t, nil), "http://")
	for address, want := range map[string]string{open: "", closedPort(t): "refused"} {
		err := checker().declared(t.Context(), fleet.HealthCheck{Name: "port", TCP: address, TimeoutSeconds: 30})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", address, err)
		}
	}
	if HasSystemd() {
		return // the hosts of internal/agent's tests have one
	}
	err := checker().declared(t.Context(), fleet.HealthCheck{Name: "unit", Unit: "a.service", TimeoutSeconds: 30})
	if err == nil || !strings.Contains(err.Error(), "no systemd") {
		t.Errorf("a unit without a systemd: %v", err)
	}
}

func TestRetries(t *testing.T) {
	var asked atomic.Int32
	url := server(t, func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	c := fleet.HealthCheck{Name: "late", HTTP: &fleet.HTTPCheck{URL: url}, TimeoutSeconds: 30, Retries: 2, IntervalSeconds: 0.01}
	if err := checker().declared(t.Context(), c); err != nil || asked.Load() != 3 {
		t.Errorf("asked %d times: %v", asked.Load(), err)
	}
	asked.Store(-5)
	if err := checker().declared(t.Context(), c); err == nil || asked.Load() != -2 {
		t.Errorf("asked until %d: %v", asked.Load(), err)
	}
	// The deadline of all checks ends a check's patience.
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errors.New("the time is over"))
	defer cancel()
	asked.Store(-1 << 30)
	c.Retries, c.IntervalSeconds = 1000, 3600
	if err := checker().declared(ctx, c); err == nil || !strings.Contains(err.Error(), "502") || !strings.Contains(err.Error(), "(the time is over)") {
		t.Errorf("%v", err)
	}
}

func TestCommandCheck(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SECRET", "geheim")
	run := func(script string) error {
		return checker().declared(t.Context(), fleet.HealthCheck{Name: "own", Command: []string{"/bin/sh", "-c", script}, TimeoutSeconds: 30})
	}
	if err := run(`[ -z "$SECRET" ] && [ "$HOME" = /root ] && [ "$(pwd)" = / ] && env > ` + dir + `/env`); err != nil {
		t.Errorf("its environment: %v", err)
	}
	err := run(`echo "to https://user:geheim@host/ I say"; head -c 9000 /dev/zero | tr '\0' x; echo; echo the valve is stuck >&2; exit 3`)
	if err == nil || !strings.Contains(err.Error(), `check "own" failed: /bin/sh: exit status 3`) || !strings.HasSuffix(err.Error(), "the valve is stuck") || len(err.Error()) > 2500 {
		t.Errorf("%v", err)
	}
	if err := run(`echo "cannot reach https://user:geheim@host/"; exit 1`); err == nil || strings.Contains(err.Error(), "geheim") || !strings.Contains(err.Error(), "cannot reach https://") {
		t.Errorf("a password: %v", err)
	}
	err = checker().declared(t.Context(), fleet.HealthCheck{Name: "own", Command: []string{"/nix/store/none"}, TimeoutSeconds: 30})
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a program that is not there: %v", err)
	}
}

// A command that hangs is killed with everything that it started, however that hides.
func TestCommandCheckIsKilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this needs root, as the helper has it")
	}
	hide := map[string]string{
		"child":                 `sleep 3000 & echo $! >> PIDS; wait`,
		"session of its own":    `setsid sh -c 'echo $$ >> PIDS; exec sleep 3000' & sleep 3000`,
		"orphan":                `(setsid sh -c 'echo $$ >> PIDS; exec sleep 3000' &) ; sleep 3000`,
		"other environment":     `env -i setsid /bin/sh -c 'echo $$ >> PIDS; /bin/sleep 3000; true' & sleep 3000`,
		"deaf to SIGTERM":       `trap '' TERM; echo $$ >> PIDS; while :; do sleep 1; done`,
		"left behind, but well": `(setsid sh -c 'echo $$ >> PIDS; exec sleep 3000' > /dev/null 2>&1 &) ; while [ ! -s PIDS ]; do sleep 0.01; done`,
	}
	for name, script := range hide {
		pids := filepath.Join(t.TempDir(), "pids")
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() { // it has begun: let it hang no longer
			for ctx.Err() == nil {
				if text, _ := os.ReadFile(pids); strings.HasSuffix(string(text), "\n") && name != "left behind, but well" {
					cancel(errors.New("not within any time"))
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		err := runCommand(ctx, []string{"/bin/sh", "-c", strings.ReplaceAll(script, "PIDS", pids)}, marker("killed-"+name))
		cancel(nil)
		if well := name == "left behind, but well"; well != (err == nil) || !well && !strings.Contains(err.Error(), "was killed: not within any time") {
			t.Errorf("%s: %v", name, err)
		}
		text, _ := os.ReadFile(pids)
		for _, pid := range strings.Fields(string(text)) {
			if _, alive := parentOf("/proc/" + pid); alive {
				t.Errorf("%s: process %s lives on", name, pid)
			}
		}
		if len(text) == 0 {
			t.Errorf("%s: began nothing", name)
		}
	}
}

// The dead-man's switch does not wait for a check that hangs.
func TestInTime(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("over"))
	if err := inTime(ctx, make(chan error)); err == nil || !strings.Contains(err.Error(), "the checks hang: over") {
		t.Errorf("%v", err)
	}
	verdict := make(chan error, 1)
	verdict <- errors.New("known")
	if err := inTime(ctx, verdict); err == nil || err.Error() != "known" {
		t.Errorf("%v", err)
	}
}
