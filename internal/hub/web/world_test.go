package web_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/hub/tables"
	"github.com/garrison-nix/garrison/internal/hub/web"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// logBuffer is a log that several goroutines write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// kept are the alerts that a store has, without anybody who looks for new ones.
type kept struct{ *tables.Store }

func (k kept) Open(ctx context.Context) ([]fleet.Alert, error) { return k.OpenAlerts(ctx) }
func (k kept) Past(ctx context.Context, most int) ([]fleet.Alert, error) {
	return k.Alerts(ctx, most)
}

func (k kept) Senders(ctx context.Context) ([]fleet.SenderState, error) {
	list, err := k.Deliveries(ctx, 10)
	var all []fleet.SenderState
	for _, d := range list {
		all = append(all, fleet.SenderState{Schema: 1, Name: d.Sender, Type: "webhook", Pending: 1, Oldest: &d.At, Error: d.Error, Attempts: d.Attempts})
	}
	return all, err
}

func (k kept) Test(context.Context, []string) ([]fleet.SenderTest, error) { return nil, nil }

// world is a hub with its page, served on loopback; a token is called as its scope.
type world struct {
	*hub.Hub
	t     testing.TB
	dir   string
	url   string
	log   *logBuffer
	store *tables.Store
	at    *httptest.Server
	hosts []string
}

func secretOf(scope string) string { return "s3cret-of-" + scope }

func newWorld(t testing.TB, table hub.WebTable, hosts ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &logBuffer{}, hosts: hosts}
	w.writeTokens("read", "push")
	store, err := sqlite.Open(t.Context(), filepath.Join(w.dir, "hub.db"))
	must(t, err)
	w.store = store
	t.Cleanup(func() {
		if w.store != nil {
			must(t, w.store.Close())
		}
	})
	w.serve("127.0.0.1:0", table)
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("the hub's log:\n%s", w.log)
		}
	})
	return w
}

// serve starts a hub on the store; that before it is gone.
func (w *world) serve(address string, table hub.WebTable) {
	w.t.Helper()
	file := &durable.Watched[hub.Tokens]{Path: filepath.Join(w.dir, "tokens.toml"), Read: hub.ReadTokens}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	w.Hub = hub.New(hub.Options{Store: w.store, Tokens: file.Get, Alerts: kept{w.store}, LogDir: w.dir, Silent: 10 * time.Minute, Log: log,
		Cache: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { http.Error(rw, "the cache", http.StatusNotFound) })})
	var err error
	w.Page, err = web.New(web.Options{Hub: w.Hub, Table: table, KeyFile: filepath.Join(w.dir, "web.key"), From: func(r *http.Request) string { host, _, _ := net.SplitHostPort(r.RemoteAddr); return host }, Log: log})
	must(w.t, err)
	w.at = httptest.NewUnstartedServer(w.Handler())
	must(w.t, w.at.Listener.Close())
	w.at.Listener, err = new(net.ListenConfig).Listen(w.t.Context(), "tcp", address)
	must(w.t, err)
	w.at.Start()
	w.url = w.at.URL
}

func (w *world) stop() {
	w.CloseStreams()
	w.at.CloseClientConnections()
	w.at.Close()
}

func (w *world) writeTokens(scopes ...string) {
	var text strings.Builder
	for _, host := range w.hosts {
		scopes = append(scopes, "report:"+host)
	}
	for _, scope := range scopes {
		fmt.Fprintf(&text, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", scope, hub.HashToken(secretOf(scope)), scope)
	}
	must(w.t, os.WriteFile(filepath.Join(w.dir, "tokens.toml"), []byte(text.String()), 0o600))
}

// writeBoth adds a token with several scopes.
func (w *world) writeBoth(name string, scopes ...string) {
	file := filepath.Join(w.dir, "tokens.toml")
	before, err := os.ReadFile(file)
	must(w.t, err)
	must(w.t, os.WriteFile(file, fmt.Appendf(before, "[[token]]\nname = %q\nsha256 = %q\nscopes = [\"%s\"]\n", name, hub.HashToken(secretOf(name)), strings.Join(scopes, `", "`)), 0o600))
}

// request makes a request to the page as a browser does, changed by what is given.
func (w *world) request(method, path string, body string, change ...func(*http.Request)) *http.Response {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	must(w.t, err)
	req.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, c := range change {
		c(req)
	}
	resp, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	must(w.t, err)
	w.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func token(scope string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+secretOf(scope)) }
}

// get is the page at a path, for who has a token to read.
func (w *world) get(path string) string {
	w.t.Helper()
	resp := w.request(http.MethodGet, path, "", token("read"))
	text := read(w.t, resp)
	if resp.StatusCode != http.StatusOK {
		w.t.Fatalf("%s: %s: %s", path, resp.Status, text)
	}
	return text
}

func read(t testing.TB, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(b)
}

// tell has a host report something, as its agent does.
func (w *world) tell(host, path string, v any) {
	w.t.Helper()
	body, err := json.Marshal(v)
	must(w.t, err)
	resp := w.request(http.MethodPost, path, string(body), token("report:"+host), func(r *http.Request) { r.Header.Set("Content-Type", "application/json") })
	if text := read(w.t, resp); resp.StatusCode >= 300 {
		w.t.Fatalf("%s: %s: %s", path, resp.Status, text)
	}
}

func system(host string, n int) string {
	return fmt.Sprintf("/nix/store/%032d-nixos-system-%s-26.05", n, host)
}

func refTo(n int, subject string, at time.Time) fleet.ReleaseRef {
	pushed := at.Add(-9 * time.Second)
	return fleet.ReleaseRef{Number: n, Commit: hub.HashToken(fmt.Sprint("release", n))[:40], Source: fleet.Source{Commit: hub.HashToken(fmt.Sprint("source", n))[:40], Branch: "main", Subject: subject, Author: "Ada", PushedAt: &pushed}}
}

// status is what a host says that is well.
func status(host string, r fleet.ReleaseRef, now time.Time) fleet.Status {
	at := now.Add(-3 * time.Second)
	out := fleet.Toplevel{OutPath: system(host, r.Number), Built: true}
	return fleet.Status{Schema: 1, Host: host, At: at, Version: "0.9.1", Phase: fleet.PhaseIdle, Since: now.Add(-40 * time.Minute), Newest: &r,
		Active: &fleet.Target{Release: r, Toplevel: out, At: now.Add(-40 * time.Minute)}, Systems: fleet.Systems{Current: out.OutPath, Profile: out.OutPath, Booted: out.OutPath},
		Remote: fleet.Contact{LastOK: at}, Remotes: []fleet.Remote{{Name: "origin", URL: "https://git.example.org/ops/fleet.git", Contact: fleet.Contact{LastOK: at}, Tip: r.Commit}}, Hub: fleet.Contact{LastOK: at},
		NextPoll: now.Add(time.Minute), Disks: []fleet.Disk{{Of: "store", FreeBytes: 61 << 30, TotalBytes: 240 << 30}, {Of: "boot", FreeBytes: 31 << 20, TotalBytes: 510 << 20}},
		Credentials: []fleet.Credential{{Name: "the cache", Ends: now.Add(9 * 24 * time.Hour)}}}
}

// stages are some that follow each other.
func stages(at time.Time, seconds ...float64) (list []fleet.StageTime) {
	names := []fleet.Stage{fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check, fleet.Commit}
	if len(seconds) == 5 {
		names = []fleet.Stage{fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish}
	}
	for i, s := range seconds {
		list = append(list, fleet.StageTime{Stage: names[i], StartedAt: at, Seconds: s, ToolSeconds: s * 0.85})
		at = at.Add(time.Duration(s * float64(time.Second)))
	}
	return list
}

// publish makes a release known: a run of CI, the release, and that it is the newest.
func (w *world) publish(r fleet.ReleaseRef, at time.Time, hosts ...string) {
	w.t.Helper()
	ctx := w.t.Context()
	ended := at
	run := fleet.Run{Schema: 1, Source: r.Source, State: fleet.RunReleased, StartedAt: at.Add(-8 * time.Second), EndedAt: &ended, Stages: stages(at.Add(-8*time.Second), 2.1, 0.1, 4.2, 1.1, 0.4), Release: &r}
	id, err := w.NoteRun(ctx, run)
	must(w.t, err)
	must(w.t, os.WriteFile(hub.LogFile(w.dir, id), []byte("evaluating 12 hosts\nbuilding nixos-system\n"), 0o600))
	m := fleet.Manifest{Schema: 1, Number: r.Number, CreatedAt: at, Source: r.Source, Hosts: map[string]fleet.Entry{}}
	for _, h := range hosts {
		m.Hosts[h] = fleet.Entry{Toplevel: fleet.Toplevel{OutPath: system(h, r.Number), Built: true}, System: "x86_64-linux", Changed: true}
	}
	w.SetNewest(&m) // first, as a hub does: whoever is told of the release asks at once
	must(w.t, w.NoteReleases(ctx, []fleet.Published{{Schema: 1, Release: r, CreatedAt: at, SeenAt: at, Hosts: len(hosts), Changed: hosts}}))
}

func (w *world) alert(a fleet.Alert) {
	w.t.Helper()
	_, _, err := w.store.PutAlert(w.t.Context(), a, func(a fleet.Alert) (*fleet.Event, error) {
		e, err := fleet.NewEvent(fleet.EventAlert, "/alerts", fmt.Sprint(a.ID), a.Key, a.OpenedAt, a)
		return &e, err
	})
	must(w.t, err)
}
