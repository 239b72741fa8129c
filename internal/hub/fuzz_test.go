package hub_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
)

// FuzzIntake tells a hub whatever there is, as the host joker and as a CI: it takes or refuses that, never fails, and whatever it took can be read
// again, and is of nobody but joker.
func FuzzIntake(f *testing.F) {
	store, err := sqlite.Open(f.Context(), filepath.Join(f.TempDir(), "hub.db"))
	must(f, err)
	f.Cleanup(func() { must(f, store.Close()) })
	tokens := hub.Tokens{}
	for _, scope := range []string{"read", "ci", "report:joker"} {
		tokens = tokens.With(hub.Token{Name: scope, SHA256: hub.HashToken(scope), Scopes: []string{scope}})
	}
	paths := []string{"reports", "deployments", "acts", "diffs", "logs", "runs", "drills"}
	for i, body := range []string{report("joker"), deployment("joker", 7, "said\n"), act("joker"), diff("joker"), `{"schema":1,"host":"joker","activation":"1-1-0","text":"x"}`,
		outsideRun(nil), `{"schema":1,"id":"d1","endedAt":"2026-11-23T06:00:00Z","scenarios":[{"name":"a","checks":null}]}`} {
		f.Add(i, body)
		f.Add(i, strings.ReplaceAll(body, "joker", "ratched"))
		f.Add(i, strings.ReplaceAll(body, "joker", `\u001b[2Jjoker`))
		f.Add(i, strings.ReplaceAll(body, "2026-", "0000-"))
		f.Add(i, strings.ReplaceAll(body, "Z\"", "+23:59\""))
		f.Add(i, strings.ReplaceAll(strings.ReplaceAll(body, "2026-", "9999-"), "Z\"", "-23:59\""))
		f.Add(i, strings.Replace(body, "{", `{"seen":{"gone":true},"host":"ratched",`, 1))
		f.Add(i, strings.Repeat("[", 20_000))
		f.Add(i, strings.Repeat(`{"schema":`, 20_000))
	}
	f.Fuzz(func(t *testing.T, which int, body string) {
		h := hub.New(hub.Options{Store: store, Tokens: func() (hub.Tokens, error) { return tokens, nil }, Cache: http.NotFoundHandler(), LogDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
			Wake: func(time.Time) { t.Error("it looks at git") }})
		heard, leave := h.Listen()
		defer leave()
		ask := func(method, path, token, body string) *httptest.ResponseRecorder {
			w, r := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), method, "/api/v1/"+path, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer "+token)
			h.Handler().ServeHTTP(w, r)
			return w
		}
		path := paths[uint(which)%uint(len(paths))]
		token := "report:joker"
		if path == "runs" || path == "drills" {
			token = "ci"
		}
		w := ask("POST", path, token, body)
		if w.Code >= 500 || w.Code == 401 || w.Code == 429 {
			t.Errorf("%s %q: %d %s", path, body, w.Code, w.Body)
		}
		var hosts []fleet.Status
		if w := ask("GET", "hosts", "read", ""); w.Code != 200 || json.Unmarshal(w.Body.Bytes(), &hosts) != nil || len(hosts) > 1 || len(hosts) == 1 && (hosts[0].Host != "joker" || hosts[0].Seen == nil || hosts[0].Seen.Gone) {
			t.Errorf("hosts after %s %q: %d %s", path, body, w.Code, w.Body)
		}
		for _, path := range []string{"events?n=5", "runs", "drills", "hosts/joker/history", "hosts/joker/acts"} {
			if w := ask("GET", path, "read", ""); w.Code != 200 || !json.Valid(w.Body.Bytes()) {
				t.Errorf("%s: %d %s", path, w.Code, w.Body)
			}
		}
		for len(heard) > 0 {
			var e fleet.StreamEvent
			if text := <-heard; json.Unmarshal(text, &e) != nil || e.Kind == "wake" || e.Event != nil && strings.HasPrefix(e.Event.Source, "/hosts/") && e.Event.Source != "/hosts/joker" {
				t.Errorf("heard %s", text)
			}
		}
	})
}
