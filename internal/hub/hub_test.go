package hub_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
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

// secretOf is the secret of a token of the tests.
func secretOf(name string) string { return "s3cret-of-" + name }

// world is a hub with a token for each scope, called as the scope is.
type world struct {
	*hub.Hub
	t      *testing.T
	dir    string
	url    string
	store  hub.Store
	log    *logBuffer
	woken  atomic.Int32
	roller roller
	api    *hubtest.API // every answer is held against it
}

func openStore(tb testing.TB, dir string) hub.Store {
	tb.Helper()
	store, err := sqlite.Open(context.Background(), filepath.Join(dir, "hub.db"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := store.Close(); err != nil {
			tb.Error(err)
		}
	})
	return store
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &logBuffer{}, api: newAPI(t)}
	var text strings.Builder
	for _, scope := range []string{"push", "wake", "read", "ci", "operate", "rollout", "report:joker", "report:ratched"} {
		fmt.Fprintf(&text, "[[token]]\nname = %q\nsha256 = %q\nscopes = [%q]\n", scope, hub.HashToken(secretOf(scope)), scope)
	}
	w.writeTokens(text.String())
	w.store = openStore(t, w.dir)
	file := &durable.Watched[hub.Tokens]{Path: filepath.Join(w.dir, "tokens.toml"), Read: hub.ReadTokens}
	w.Hub = hub.New(hub.Options{Store: w.store, Tokens: file.Get, LogDir: w.dir, Log: slog.New(slog.NewTextHandler(w.log, nil)),
		Wake: func(time.Time) { w.woken.Add(1) }, Rollout: &w.roller,
		Cache: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprint(rw, "the cache") }),
	})
	s := httptest.NewServer(w.Handler())
	t.Cleanup(func() { w.CloseStreams(); s.Close() })
	w.url = s.URL
	return w
}

func (w *world) writeTokens(text string) {
	must(w.t, os.WriteFile(filepath.Join(w.dir, "tokens.toml"), []byte(text), 0o600))
}

// ask makes a request with the token of that name and returns status and body.
func (w *world) ask(method, path, token, body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.url+path, strings.NewReader(body))
	must(w.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+secretOf(token))
	}
	resp, err := (&http.Client{Transport: w.api.Proofread(http.DefaultTransport, func(err error) { w.t.Errorf("the answer is not what openapi.yaml says: %v", err) })}).Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(w.t, err)
	return resp.StatusCode, string(b)
}

func report(host string) string {
	b, _ := json.Marshal(fleet.Status{Schema: 1, Host: host, At: time.Now().UTC(), Phase: fleet.PhaseIdle})
	return string(b)
}

func TestScopes(t *testing.T) {
	w := newWorld(t)
	id, err := w.NoteRun(t.Context(), fleet.Run{State: fleet.RunReleased})
	must(t, err)
	must(t, os.WriteFile(hub.LogFile(w.dir, id), []byte("what was said\n"), 0o600))
	log := fmt.Sprintf("/api/v1/runs/%d/log", id)
	for _, route := range []struct {
		method, path, body string
		ok                 int
		scopes             string // that are allowed; others get 403
	}{
		{"POST", "/api/v1/wake", "", 202, "wake"},
		{"POST", "/api/v1/reports", report("joker"), 200, "report:joker"},
		{"POST", "/api/v1/deployments", deployment("joker", 7, "said\n"), 204, "report:joker"},
		{"POST", "/api/v1/diffs", diff("joker"), 204, "report:joker"},
		{"POST", "/api/v1/acts", act("joker"), 204, "report:joker"},
		{"POST", "/api/v1/logs", `{"schema":1,"host":"joker","activation":"1-1-0","text":"x"}`, 204, "report:joker"},
		{"POST", "/api/v1/runs", outsideRun(nil), 200, "ci"},
		{"POST", "/api/v1/drills", `{"schema":1,"id":"d1","endedAt":"2026-11-23T06:00:00Z"}`, 204, "ci"},
		{"GET", "/api/v1/events?after=0&types=garrison.ci.run,garrison.drill.ended", "", 200, "read"},
		{"GET", "/api/v1/hosts", "", 200, "read"},
		{"GET", "/api/v1/hosts/joker", "", 200, "read"},
		{"GET", "/api/v1/hosts/joker/history", "", 200, "read"},
		{"GET", "/api/v1/hosts/joker/logs?deployment=7", "", 200, "read"},
		{"GET", "/api/v1/hosts/joker/diff", "", 200, "read"},
		{"GET", "/api/v1/runs", "", 200, "read"},
		{"GET", "/api/v1/runs?n=100", "", 200, "read"},
		{"GET", log, "", 200, "read"},
		{"GET", "/api/v1/rollout", "", 200, "read"},
		{"POST", "/api/v1/rollout/orders", `{"act":"pause"}`, 200, "rollout"},
		{"DELETE", "/api/v1/hosts/joker", "", 204, "operate"},
	} {
		for _, token := range []string{"", "nobody", "push", "wake", "read", "ci", "operate", "rollout", "report:joker", "report:ratched"} {
			want := 403
			switch {
			case token == "" || token == "nobody":
				want = 401
			case token == route.scopes:
				want = route.ok
			}
			if got, body := w.ask(route.method, route.path, token, route.body); got != want {
				t.Errorf("%s %s by %q: %d %s, want %d", route.method, route.path, token, got, body, want)
			}
		}
	}
	for token, want := range map[string]string{"wake": `{"schema":1,"scopes":["wake"]}`, "report:joker": `{"schema":1,"scopes":["report:joker"]}`} {
		if got, body := w.ask("GET", "/api/v1/token", token, ""); got != 200 || strings.TrimSpace(body) != want {
			t.Errorf("what %s is for: %d %s", token, got, body)
		}
	}
	if got, _ := w.ask("GET", "/api/v1/token", "nobody", ""); got != 401 {
		t.Errorf("what nobody's token is for: %d", got)
	}
	if got, _ := w.ask("GET", "/api/v1/stream", "", ""); got != 401 {
		t.Errorf("the stream for nobody: %d", got)
	}
	if w.woken.Load() != 1 {
		t.Errorf("woken %d times", w.woken.Load())
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/fleet/nix-cache-info": "the cache"} {
		if got, body := w.ask("GET", path, "", ""); got != 200 || body != want {
			t.Errorf("%s: %d %q", path, got, body)
		}
	}
	if _, body := w.ask("GET", log, "read", ""); body != "what was said\n" {
		t.Errorf("the log is %q", body)
	}
	for path, want := range map[string]int{"/api/v1/runs?n=0": 400, "/api/v1/runs?n=101": 400, "/api/v1/runs?n=x": 400,
		"/api/v1/runs/0/log": 400, "/api/v1/runs/..%2f1/log": 400, "/api/v1/runs/99/log": 404} {
		if got, _ := w.ask("GET", path, "read", ""); got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url+"/api/v1/hosts", nil)
	req.SetBasicAuth("anybody", secretOf("read"))
	if resp, err := http.DefaultClient.Do(req); err != nil || resp.StatusCode != 200 {
		t.Errorf("with Basic: %v, %v", resp, err)
	}
	if strings.Contains(w.log.String(), "s3cret") {
		t.Errorf("the log has a token:\n%s", w.log)
	}
}

func TestReports(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"good":            {report("joker"), 200},
		"of another host": {report("ratched"), 403},
		"of no host":      {report(""), 403},
		"nothing":         {"", 400},
		"no JSON":         {"phase: idle", 400},
		"cut short":       {report("joker")[:50], 400},
		"twice":           {report("joker") + report("joker"), 400},
		"other schema":    {`{"schema":2,"host":"joker"}`, 400},
		"other type":      {`{"schema":1,"host":["joker"]}`, 400},
		"oversized":       {`{"schema":1,"host":"joker","version":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
	} {
		if got, body := w.ask("POST", "/api/v1/reports", "report:joker", c.body); got != c.want {
			t.Errorf("%s: %d %s", name, got, body)
		}
	}
	// A host whose clock was ahead by years is heard again when it is right.
	ahead := strings.Replace(report("joker"), time.Now().UTC().Format("2006-"), "2099-", 1)
	if got, body := w.ask("POST", "/api/v1/reports", "report:joker", ahead); got != 200 {
		t.Errorf("%d %s", got, body)
	}
	right := strings.Replace(report("joker"), `"idle"`, `"held"`, 1)
	_, _ = w.ask("POST", "/api/v1/reports", "report:joker", right)
	var list []fleet.Status
	_, body := w.ask("GET", "/api/v1/hosts", "read", "")
	must(t, json.Unmarshal([]byte(body), &list))
	if len(list) != 1 || list[0].Phase != fleet.PhaseHeld || list[0].At.After(time.Now().Add(time.Minute)) || list[0].ClockOffSeconds != 0 {
		t.Errorf("%+v", list)
	}
	// So is one whose clock was set back, and it is said.
	behind := doc(t, fleet.Status{Schema: 1, Host: "joker", At: time.Now().Add(-24 * time.Hour), Phase: fleet.PhaseRetrying})
	if got, body := w.ask("POST", "/api/v1/reports", "report:joker", behind); got != 200 {
		t.Errorf("%d %s", got, body)
	}
	list = nil
	_, body = w.ask("GET", "/api/v1/hosts", "read", "")
	must(t, json.Unmarshal([]byte(body), &list))
	if len(list) != 1 || list[0].Phase != fleet.PhaseRetrying || math.Round(list[0].ClockOffSeconds/60) != -24*60 || time.Since(list[0].At) > time.Minute {
		t.Errorf("%+v", list)
	}
}

func TestTokensAreReadAgain(t *testing.T) {
	w := newWorld(t)
	if got, _ := w.ask("GET", "/api/v1/hosts", "read", ""); got != 200 {
		t.Fatal(got)
	}
	entry := func(name string) string {
		return fmt.Sprintf("[[token]]\nname = %q\nsha256 = %q\nscopes = [\"read\"]\n", name, strings.ToUpper(hub.HashToken(secretOf(name))))
	}
	for _, now := range []string{"aaaa", "bbbb", "aaaa"} { // of the same length, within the same moment, in place
		w.writeTokens(entry(now))
		for _, name := range []string{"aaaa", "bbbb", "read"} {
			if got, _ := w.ask("GET", "/api/v1/hosts", name, ""); (got == 200) != (name == now) {
				t.Errorf("with the token of %s alone, %s gets %d", now, name, got)
			}
		}
	}
	for name, text := range map[string]string{
		"hash": "[[token]]\nname='x'\nsha256='abc'\n", "scope": strings.Replace(entry("x"), `"read"`, `"root"`, 1), "host": strings.Replace(entry("x"), `"read"`, `"report:../x"`, 1),
		"toml": "[[token]\n", "key": "[[token]]\nsecret='hunter2'\n",
	} {
		w.writeTokens(text)
		if got, body := w.ask("GET", "/api/v1/hosts", "aaaa", ""); got != 503 || strings.Contains(body, "token.toml") {
			t.Errorf("%s: %d %s", name, got, body)
		}
	}
	if log := w.log.String(); strings.Contains(log, "hunter2") || strings.Contains(log, "s3cret") || !strings.Contains(log, "tokens.toml:2") {
		t.Errorf("the log is:\n%s", log)
	}
	must(t, os.Remove(filepath.Join(w.dir, "tokens.toml")))
	if got, _ := w.ask("GET", "/api/v1/hosts", "aaaa", ""); got != 503 {
		t.Errorf("without the file: %d", got)
	}
	if _, known := (hub.Tokens{}).With(hub.Token{SHA256: hub.HashToken("")}).Scopes(""); known {
		t.Error("no token at all is known")
	}
}

// listen joins the stream and returns what is heard there, one event each.
func (w *world) listen(path, token string) (events <-chan string, leave func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.url+path, nil)
	must(w.t, err)
	req.Header.Set("Authorization", "bearer "+secretOf(token))
	resp, err := http.DefaultClient.Do(req)
	must(w.t, err)
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		w.t.Fatal(resp.Status)
	}
	ch := make(chan string, 100)
	lines := bufio.NewScanner(resp.Body)
	lines.Scan() // the greeting: it has joined
	go func() {
		defer close(ch)
		defer resp.Body.Close()
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				ch <- data
			}
		}
	}()
	return ch, cancel
}

func wantEvents(t *testing.T, events <-chan string, kinds ...string) {
	t.Helper()
	for _, want := range kinds {
		select {
		case e := <-events:
			if !strings.HasPrefix(e, `{"kind":"`+want+`"`) {
				t.Errorf("heard %s, want %s", e, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s was not heard", want)
		}
	}
}

func TestStream(t *testing.T) {
	w := newWorld(t)
	all, leave := w.listen("/api/v1/stream?kinds=run,host&kinds=wake", "read")
	defer leave()
	events, leave := w.listen("/api/v1/stream?kinds=event", "read")
	defer leave()
	asked, leave := w.listen("/api/v1/stream?kinds=wake", "read")
	defer leave()
	agent, leave := w.listen("/api/v1/stream", "report:joker") // gets no more than it may
	defer leave()
	_, err := w.NoteRun(t.Context(), fleet.Run{State: fleet.RunRunning})
	must(t, err)
	if got, _ := w.ask("POST", "/api/v1/reports", "report:ratched", report("ratched")); got != 200 {
		t.Fatal(got)
	}
	w.Wake = nil // without a CI of its own, whoever tells the hub tells the agents
	if got, _ := w.ask("POST", "/api/v1/wake", "wake", ""); got != 202 {
		t.Fatal(got)
	}
	wantEvents(t, all, "run", "host", "wake")
	wantEvents(t, events, "event", "event")
	wantEvents(t, asked, "wake")
	wantEvents(t, agent, "wake")
	if got, body := w.ask("GET", "/api/v1/stream?kinds=wake,gossip", "read", ""); got != 400 || !strings.Contains(body, "wake, run, host, event") {
		t.Errorf("%d %s", got, body)
	}
	w.CloseStreams()
	for _, ch := range []<-chan string{all, events, asked, agent} {
		if e, open := <-ch; open {
			t.Errorf("heard %s", e)
		}
	}
}

// stuck is an answer to a client that reads nothing.
type stuck struct {
	http.ResponseWriter
	writing chan struct{}
	until   <-chan struct{}
}

func (s stuck) Write([]byte) (int, error) {
	select {
	case s.writing <- struct{}{}:
	default:
	}
	<-s.until
	return 0, errors.New("gone")
}

func (stuck) FlushError() error                { return nil }
func (stuck) SetReadDeadline(time.Time) error  { return nil }
func (stuck) SetWriteDeadline(time.Time) error { return nil }

// TestSlowListenerIsDropped: it must not hold up others, and costs no more than its queue.
func TestSlowListenerIsDropped(t *testing.T) {
	w := newWorld(t)
	until, ended := make(chan struct{}), make(chan struct{})
	slow := stuck{httptest.NewRecorder(), make(chan struct{}, 1), until}
	req := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/stream", nil)
	req.Header.Set("Authorization", "Bearer "+secretOf("read"))
	go func() { w.Handler().ServeHTTP(slow, req); close(ended) }()
	<-slow.writing
	good, leave := w.listen("/api/v1/stream", "read")
	defer leave()
	for range 3 {
		for range 40 {
			w.WakeAgents()
		}
		for range 40 {
			wantEvents(t, good, "wake")
		}
	}
	close(until)
	<-ended
}

func TestReadConfig(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.toml")
	read := func(text string) (hub.Config[struct{}, struct{}], error) {
		must(t, os.WriteFile(file, []byte(text), 0o600))
		return hub.ReadConfig[struct{}, struct{}](file)
	}
	c, err := read("tokens = '/t'\n")
	if err != nil || c.Listen != "127.0.0.1:8420" || c.DataDir != "/var/lib/garrison-hub" || time.Duration(c.CI.Poll) != time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	if c.Follow.Remote != "" || c.Follow.Branch != "release" || time.Duration(c.Follow.Poll) != time.Minute || time.Duration(c.Follow.Silent) != 15*time.Minute {
		t.Errorf("%+v", c.Follow)
	}
	if k := c.Keep.Keep(); k != (hub.Keep{Events: 720 * time.Hour, History: 9600 * time.Hour, Logs: 10}) {
		t.Errorf("%+v", k)
	}
	if c, err = read("tokens = '/t'\n[database]\nurlFile = '/u'\n[keep]\nevents = '24h'\nlogs = 2\n"); err != nil || c.Database.URLFile != "/u" || c.Keep.Keep() != (hub.Keep{Events: 24 * time.Hour, History: 9600 * time.Hour, Logs: 2}) {
		t.Errorf("%+v, %v", c, err)
	}
	if !c.Web.On() || c.Web.Loopback || len(c.Web.ProxyNetworks()) > 0 {
		t.Errorf("%+v", c.Web)
	}
	if c, err = read("tokens = '/t'\n[web]\nenabled = false\n[web.proxy]\nheader = 'Remote-User'\nfrom = ['127.0.0.1', '2001:db8::/64']\n"); err != nil || c.Web.On() || fmt.Sprint(c.Web.ProxyNetworks()) != "[127.0.0.1/32 2001:db8::/64]" {
		t.Errorf("%+v, %v", c.Web, err)
	}
	const ci, atForge = "tokens = '/t'\n[ci]\nremote = 'https://git.example.org/ops/fleet.git'\nsigningKey = '/k'\nallowedSigners = '/s'\n",
		"[forge]\nkind = 'gitea'\nurl = 'https://git.example.org/'\nrepo = 'ops/fleet'\ntokenFile = '/forge'\n"
	if c, err = read(ci + atForge); err != nil || c.Follow.Remote != c.CI.Remote || c.Follow.AllowedSigners != "/s" || c.FollowFrom().CredentialsFile != "/forge" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = read(ci + "[follow]\nremote = 'https://mirror.example.org/fleet.git'\ncredentialsFile = '/c'\n" + atForge); err != nil || c.FollowFrom().URL != "https://mirror.example.org/fleet.git" || c.FollowFrom().CredentialsFile != "/c" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err = read(ci + "[follow]\nremote = 'https://git.example.organisation.net/fleet.git'\n" + atForge); err != nil || c.FollowFrom().CredentialsFile != "" {
		t.Errorf("the forge's token goes elsewhere: %+v, %v", c, err)
	}
	for text, want := range map[string]string{
		"":                                    "tokens is missing",
		"tokens = '/t'\nlisten = 'x'\n":       "is not host:port",
		"tokens = '/t'\n[ci]\nremote = 'x'\n": "ci.signingKey is missing",
		"tokens = '/t'\n[ci]\ncacheTokenFile = '/c'\n":                               "ci.cacheTokenFile is set, and no ci.cache",
		"tokens = '/t'\n[ci]\npol = '1s'\n":                                          `hub.toml:3: unknown key "ci.pol"`,
		"tokens = '/t'\n[ci]\npoll = 'soon'\n":                                       "positive duration",
		"tokens = '/t'\n[keep]\nevents = '30m'\n":                                    "keep.events is 30m0s, and cannot be less than 1h0m0s",
		"tokens = '/t'\n[keep]\nhistory = '30m'\n":                                   "keep.history is 30m0s",
		"tokens = '/t'\n[keep]\nlogs = 1000\n":                                       "keep.logs is 1000, and must be from 1 to 200",
		"tokens = '/t'\n[keep]\nlogs = -1\n":                                         "keep.logs is -1",
		"tokens = '/t'\n[web]\nopen = true\n":                                        `unknown key "web.open"`,
		"tokens = '/t'\n[web.proxy]\nheader = 'Remote-User'\n":                       "web.proxy has only one of header and from",
		"tokens = '/t'\n[web.proxy]\nfrom = ['127.0.0.1']\n":                         "web.proxy has only one of header and from",
		"tokens = '/t'\n[web.proxy]\nheader = 'Remote-User'\nfrom = ['proxy']\n":     `web.proxy.from has "proxy"`,
		"tokens = '/t'\n[web.proxy]\nheader = 'Remote-User'\nfrom = ['0.0.0.0/0']\n": "anybody",
		"tokens = '/t'\n[web.proxy]\nheader = 'Cookie'\nfrom = ['127.0.0.1']\n":      `web.proxy.header "Cookie"`,
		"tokens = '/t'\n[web.proxy]\nheader = 'X User'\nfrom = ['127.0.0.1']\n":      `web.proxy.header "X User"`,
		"tokens = '/t'\n[database]\nmaxConnections = 5\n":                            "database needs url or urlFile",
		"tokens = '/t'\n[database]\nurl = 'a'\nurlFile = 'b'\n":                      "database needs url or urlFile",
	} {
		if _, err := read(text); fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
