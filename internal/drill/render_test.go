package drill

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestReportOfEvil: what hosts, logs and git say gets into no report as anything but text, and every report can be read.
func TestReportOfEvil(t *testing.T) {
	const evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'`|]]>&\x00\x1b[31m\xff\n# x"
	x := fleet.Spread{Count: 1, Median: 1, P95: 1, Most: 1}
	r := fleet.DrillReport{Schema: 1, ID: evil, Version: evil, Where: evil, Host: evil, Error: evil, StartedAt: time.Now(), EndedAt: time.Now(),
		Timing: &fleet.DrillTiming{Repeat: 1, LimitSeconds: 1, PushToHealthy: x, Stages: []fleet.DrillStage{{Stage: evil, What: evil, Spread: x}},
			Changes: []fleet.DrillChange{{Commit: evil, Seconds: 1, Spans: []fleet.DrillSpan{{Stage: evil, Ended: 1, Part: fleet.DrillPart(evil)}}}}}}
	for _, result := range []fleet.DrillResult{fleet.DrillFail, fleet.DrillPass, fleet.DrillSkip} {
		r.Scenarios = append(r.Scenarios, fleet.DrillScenario{Name: evil, Title: evil, Result: result, Detail: evil, Commands: []string{evil}, Next: []string{evil},
			Checks: []fleet.DrillCheck{{Name: evil, Result: fleet.DrillFail, Detail: evil}, {Name: evil, Result: fleet.DrillPass, Detail: evil}}})
	}
	for _, format := range Formats {
		var b bytes.Buffer
		if err := Write(&b, r, format); err != nil {
			t.Fatalf("%s: %v", format, err)
		}
		text := b.String()
		switch format {
		case "html":
			if strings.Contains(text, "<script") || strings.Contains(text, "<img") {
				t.Errorf("it has tags of others:\n%s", text)
			}
		case "markdown":
			for line := range strings.Lines(text) {
				if quoted := strings.HasPrefix(line, "    "); !quoted && (strings.Contains(line, "<script") || strings.HasPrefix(line, "# x")) {
					t.Errorf("it is more than text: %q", line)
				}
			}
		case "junit":
			d := xml.NewDecoder(&b)
			for {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%v in\n%s", err, text)
				}
			}
		case "json":
			if !json.Valid(b.Bytes()) {
				t.Errorf("no JSON:\n%s", text)
			}
		}
	}
}

// TestReadable: what is seen of others is cut, and does nothing to a terminal.
func TestReadable(t *testing.T) {
	s := newSession(DrillOptions{Options: Options{Out: io.Discard}})
	r := s.begin("x", "x")
	r.see("a log", func() (string, error) { return "red \x1b[31m\u202e\xff\n\tend\r", nil })
	r.see("a long one", func() (string, error) { return "", errors.New(strings.Repeat("x", 1<<20)) })
	r.end(errors.New("\x1b]0;title\x07"))
	if got := r.Checks[0].Detail; got != "red [31m\ufffd\n\tend" {
		t.Errorf("%q", got)
	}
	if got := len(r.Checks[1].Detail); got > mostRead+10 {
		t.Errorf("%d bytes", got)
	}
	if got := s.report.Scenarios[0].Detail; got != "]0;title" {
		t.Errorf("%q", got)
	}
}
