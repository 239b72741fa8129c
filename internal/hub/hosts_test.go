package hub_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var endedAt = time.Date(2026, 11, 23, 6, 0, 0, 123_456_789, time.UTC)

func deployment(host string, release int, log string) string {
	b, _ := json.Marshal(fleet.DeploymentReport{Schema: 1, Log: log, Deployment: fleet.Deployment{Schema: 1, Host: host, Release: fleet.ReleaseRef{Number: release},
		Result: fleet.Committed, Stages: []fleet.StageTime{}, EndedAt: endedAt}})
	return string(b)
}

func diff(host string) string {
	b, _ := json.Marshal(fleet.HostDiff{Schema: 1, Host: host, Before: "a", After: "b", Diff: json.RawMessage(`{"added":[]}`)})
	return string(b)
}

// TestReceived: the answer to a status says which deployment was told last, so that the agent knows what to tell again.
func TestReceived(t *testing.T) {
	w := newWorld(t)
	received := func() *fleet.DeploymentKey {
		t.Helper()
		var r fleet.Received
		code, body := w.ask("POST", "/api/v1/reports", "report:joker", report("joker"))
		if err := json.Unmarshal([]byte(body), &r); err != nil || code != 200 || r.Schema != 1 {
			t.Fatal(code, body, err)
		}
		return r.Deployment
	}
	if k := received(); k != nil {
		t.Errorf("%+v before any was told", k)
	}
	for range 2 { // told twice, it is there once
		if code, body := w.ask("POST", "/api/v1/deployments", "report:joker", deployment("joker", 7, "said\n")); code != 204 {
			t.Fatal(code, body)
		}
	}
	if k := received(); k == nil || k.Release != 7 || !k.EndedAt.Equal(endedAt) {
		t.Errorf("%+v", k)
	}
	var past []fleet.Deployment
	if code, body := w.ask("GET", "/api/v1/hosts/joker/history?n=5", "read", ""); code != 200 || json.Unmarshal([]byte(body), &past) != nil || len(past) != 1 {
		t.Errorf("%d %s", code, body)
	}
	if code, body := w.ask("GET", "/api/v1/hosts/joker/logs", "read", ""); code != 200 || body != "said\n" {
		t.Errorf("%d %q", code, body)
	}
}

func TestBadHostRequests(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/api/v1/hosts/nobody", "", 404},
		{"GET", "/api/v1/hosts/nobody/diff", "", 404},
		{"GET", "/api/v1/hosts/nobody/logs", "", 404},
		{"GET", "/api/v1/hosts/nobody/history", "", 200},
		{"GET", "/api/v1/hosts/joker/history?n=101", "", 400},
		{"GET", "/api/v1/hosts/joker/logs?deployment=-1", "", 400},
		{"POST", "/api/v1/deployments", "{", 400},
		{"POST", "/api/v1/deployments", deployment("joker", 0, ""), 400},
		{"POST", "/api/v1/deployments", deployment("joker", 7, strings.Repeat("x", fleet.MaxReportedLog+1)), 400},
		{"POST", "/api/v1/deployments", deployment("joker", 7, strings.Repeat("x", 1<<20)), 413},
		{"POST", "/api/v1/deployments", deployment("ratched", 7, ""), 403},
		{"POST", "/api/v1/deployments", strings.Replace(deployment("joker", 7, ""), `"schema":1`, `"schema":2`, 1), 400},
		{"POST", "/api/v1/diffs", diff("ratched"), 403},
		{"POST", "/api/v1/acts", `{"schema":1,"host":"ratched","act":"retry","at":"2026-11-23T06:00:00Z"}`, 403},
		{"POST", "/api/v1/acts", `{"schema":1,"host":"joker","act":"","at":"2026-11-23T06:00:00Z"}`, 400},
		{"POST", "/api/v1/acts", `{"schema":1,"host":"joker","act":"retry"}`, 400},
		{"GET", "/api/v1/hosts/joker/acts?n=0", "", 400},
		{"GET", "/api/v1/hosts/nobody/acts", "", 200},
		{"POST", "/api/v1/logs", `{"schema":1,"host":"ratched","activation":"1","text":"x"}`, 403},
		{"POST", "/api/v1/logs", `{"schema":1,"host":"joker","activation":"","text":"x"}`, 400},
		{"POST", "/api/v1/logs", `{"schema":1,"host":"joker","activation":"1","offset":-1,"text":"x"}`, 400},
		{"POST", "/api/v1/logs", `{"schema":1,"host":"joker","activation":"1","text":"` + strings.Repeat("x", fleet.MaxReportedLog+1) + `"}`, 400},
		{"POST", "/api/v1/diffs", strings.Replace(diff("joker"), `{"added":[]}`, `"`+strings.Repeat("x", fleet.MaxReportedDiff)+`"`, 1), 400},
	} {
		token := "read"
		if c.method == "POST" {
			token = "report:joker"
		}
		if got, body := w.ask(c.method, c.path, token, c.body); got != c.want {
			t.Errorf("%s %s %.60s: %d %s, want %d", c.method, c.path, c.body, got, body, c.want)
		}
	}
}

// TestFollowLogs follows a host: what was said last, what is said, the end; a hub that ends lets followers go.
func TestFollowLogs(t *testing.T) {
	w := newWorld(t)
	post := func(path, body string) {
		t.Helper()
		if code, said := w.ask("POST", path, "report:joker", body); code != 204 {
			t.Fatal(path, code, said)
		}
	}
	post("/api/v1/deployments", deployment("joker", 7, "before\n"))
	req, _ := http.NewRequestWithContext(t.Context(), "GET", w.url+"/api/v1/hosts/joker/logs?follow=1", nil)
	req.Header.Set("Authorization", "Bearer "+secretOf("read"))
	resp, err := http.DefaultClient.Do(req)
	must(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	saw := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("%q, not %q: %v", lines.Text(), want, lines.Err())
		}
	}
	saw("before")
	post("/api/v1/logs", `{"schema":1,"host":"joker","activation":"8","text":"one\n"}`)
	saw("one")
	if _, body := w.ask("GET", "/api/v1/hosts/joker/logs", "read", ""); body != "one\n" {
		t.Errorf("what is under way: %q", body)
	}
	post("/api/v1/logs", `{"schema":1,"host":"joker","activation":"8","offset":4,"text":"two\n"}`)
	saw("two")
	post("/api/v1/deployments", deployment("joker", 8, "one\ntwo\nthree\n"))
	saw("three")
	if code, _ := w.ask("GET", "/api/v1/hosts/joker/logs?follow=1", "report:joker", ""); code != 403 {
		t.Errorf("a host may follow another: %d", code)
	}
	w.CloseStreams()
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("%q, %v", lines.Text(), lines.Err())
	}
}

// TestActsTold: the answer to a status says when the act was that was told last.
func TestActsTold(t *testing.T) {
	w := newWorld(t)
	for _, at := range []string{"2026-11-23T06:00:00.123456789Z", "2026-11-23T05:00:00Z"} { // a clock was set back
		if code, said := w.ask("POST", "/api/v1/acts", "report:joker", `{"schema":1,"host":"joker","act":"retry","at":"`+at+`"}`); code != 204 {
			t.Fatal(code, said)
		}
		var r fleet.Received
		_, body := w.ask("POST", "/api/v1/reports", "report:joker", report("joker"))
		if err := json.Unmarshal([]byte(body), &r); err != nil || r.Act == nil || r.Act.Format(time.RFC3339Nano) != at {
			t.Errorf("%s: %s, %v", at, body, err)
		}
	}
	var acts []fleet.Act
	if _, body := w.ask("GET", "/api/v1/hosts/joker/acts", "read", ""); json.Unmarshal([]byte(body), &acts) != nil || len(acts) != 2 {
		t.Errorf("%s", body)
	}
}
