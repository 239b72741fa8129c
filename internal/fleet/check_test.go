package fleet

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func declared(t testing.TB, text string) map[string]json.RawMessage {
	var d map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestParseChecks(t *testing.T) {
	got, err := ParseChecks(declared(t, `{
		"web": {"http": {"url": "http://127.0.0.1/health", "status": null, "contains": "ok"}, "command": [], "tcp": null, "unit": null, "timeout": null, "retries": null, "interval": null},
		"ssh": {"tcp": "[::1]:22", "http": {"url": null, "status": null, "contains": null}, "retries": 0, "interval": 0.5},
		"own": {"command": ["/bin/true", ""], "timeout": 2},
		"nginx": {"unit": "nginx@a\\x2db.service"}}`))
	want := []HealthCheck{
		{Name: "nginx", Unit: `nginx@a\x2db.service`, TimeoutSeconds: 10, Retries: 3, IntervalSeconds: 1},
		{Name: "own", Command: []string{"/bin/true", ""}, TimeoutSeconds: 2, Retries: 3, IntervalSeconds: 1},
		{Name: "ssh", TCP: "[::1]:22", TimeoutSeconds: 10, IntervalSeconds: 0.5},
		{Name: "web", HTTP: &HTTPCheck{URL: "http://127.0.0.1/health", Contains: "ok"}, Command: []string{}, TimeoutSeconds: 10, Retries: 3, IntervalSeconds: 1},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParseChecks(nil); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
}

func TestBadChecks(t *testing.T) {
	for text, want := range map[string]string{
		`{}`:                                          "one of command, http, tcp and unit",
		`"x"`:                                         "cannot unmarshal string",
		`{"a": 1}`:                                    `unknown field "a"`,
		`{"unit": "a.service", "tcp": "h:1"}`:         "one of",
		`{"unit": "a"}`:                               "full name of a systemd unit",
		`{"unit": "../a.service"}`:                    "full name",
		`{"command": ["true"]}`:                       "absolute path",
		`{"command": ["/bin/sh", "\u0000"]}`:          "NUL",
		`{"command": [7]}`:                            "cannot unmarshal number",
		`{"tcp": "host"}`:                             "host:port",
		`{"tcp": "host:http"}`:                        "host:port",
		`{"tcp": ":22"}`:                              "host:port",
		`{"tcp": "h:70000"}`:                          "host:port",
		`{"http": {"url": "ftp://x"}}`:                "not an http",
		`{"http": {"url": "http://"}}`:                "not an http",
		`{"http": {"url": "http://u:geheim@x"}}`:      "no place for secrets",
		`{"http": {"status": 200}}`:                   "not an http",
		`{"http": {"url": "http://x", "status": 99}}`: "not a status",
		`{"http": {"url": "http://x", "body": "y"}}`:  `unknown field "body"`,
		`{"unit": "a.service", "timeout": 0}`:         "timeout",
		`{"unit": "a.service", "timeout": 1e9}`:       "timeout",
		`{"unit": "a.service", "interval": -1}`:       "interval",
		`{"unit": "a.service", "retries": -1}`:        "retries",
		`{"unit": "a.service", "retries": 1.5}`:       "cannot unmarshal number",
		`{"command": ["/x", "` + strings.Repeat("x", 70000) + `"]}`: "bytes, at most",
	} {
		_, err := ParseChecks(map[string]json.RawMessage{"web": json.RawMessage(text)})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "check") || strings.Contains(err.Error(), "geheim") {
			t.Errorf("%.60s: %v", text, err)
		}
	}
	many := map[string]json.RawMessage{}
	for i := range 101 {
		many[fmt.Sprintf("c%d", i)] = json.RawMessage(`{"tcp": "h:1"}`)
	}
	if _, err := ParseChecks(many); err == nil {
		t.Error("101 checks were taken")
	}
	if _, err := ParseChecks(map[string]json.RawMessage{"a\nb": json.RawMessage(`{"tcp": "h:1"}`)}); err == nil || !strings.Contains(err.Error(), "name") {
		t.Errorf("a name of two lines: %v", err)
	}
	good := HealthCheck{Name: "a", TCP: "h:1", TimeoutSeconds: 1}
	for _, bad := range [][]HealthCheck{{{Name: "a"}}, {good, good}, {{Name: "a", TCP: "h:1"}}} {
		m := manifest()
		m.Hosts["joker"] = Entry{DrvPath: out + ".drv", Toplevel: Toplevel{OutPath: out, Checks: bad}}
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), "joker") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// Whatever a flake declares is either refused or makes a manifest that hosts accept.
func FuzzParseChecks(f *testing.F) {
	f.Add("web", []byte(`{"http": {"url": "http://x"}}`))
	f.Add("x", []byte(`{"command": ["/bin/true"], "timeout": 1, "retries": 0, "interval": 0}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		checks, err := ParseChecks(map[string]json.RawMessage{name: data})
		if err != nil {
			return
		}
		m := manifest()
		m.Hosts["joker"] = Entry{DrvPath: out + ".drv", Toplevel: Toplevel{OutPath: out, Checks: checks}}
		msg, err := m.TagMessage()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseTagMessage(msg); err != nil {
			t.Fatal(err)
		}
	})
}

// TestHistoryBeforeToplevels reads a deployment as agents wrote it that kept no more of its system than the path.
func TestHistoryBeforeToplevels(t *testing.T) {
	var d Deployment
	if err := json.Unmarshal([]byte(`{"schema":1,"host":"joker","release":{"number":3,"commit":"c","tag":"t"},"outPath":"`+out+`","previous":"/nix/store/p","result":"committed","stages":[]}`), &d); err != nil {
		t.Fatal(err)
	}
	if d.OutPath != out || d.Checks != nil || d.Built || d.Release.Number != 3 {
		t.Errorf("%+v", d)
	}
	d.Checks = []HealthCheck{{Name: "valve", Unit: "valve.service"}}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var again Deployment
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("%s: %v", text, err)
	}
}
