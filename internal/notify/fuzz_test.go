package notify

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// FuzzRetryAfter: whatever a server asks for, it is left alone for a time between nothing and an hour.
func FuzzRetryAfter(f *testing.F) {
	for _, s := range []string{"", "0", "120", "-1", "99999999999999999999", "Sat, 28 Nov 2026 12:00:00 GMT", "1.5", "\x00"} {
		f.Add(s, `{"retry_after_ms": 2000, "parameters": {"retry_after": 3}}`)
	}
	f.Add("", `{"retry_after_ms": 1e308, "parameters": {"retry_after": -1}}`)
	f.Add("", `[`)
	f.Fuzz(func(t *testing.T, header, body string) {
		for _, d := range []time.Duration{retryAfter(header, time.Now()), matrixAfter([]byte(body)), telegramAfter([]byte(body))} {
			if d < 0 || d > maxAfter {
				t.Errorf("%q %q: %s", header, body, d)
			}
		}
	})
}

// FuzzMessage: whatever is in a template and in an event, there is a message, bounded and in UTF-8.
func FuzzMessage(f *testing.F) {
	alert := `{"what":"web1 holds release-413","severity":"critical","commands":["garrison explain"],"since":"2026-11-28T12:00:00Z"}`
	for _, text := range []string{"", "{{.Title}}", "{{.Alert.What}}", "{{index .Alert.Commands 7}}", "{{range .Alert.Commands}}{{.}}{{end}}", "{{.Nothing}}", "{{.Data.what}}", "{{template \"x\"}}"} {
		f.Add(text, fleet.EventAlert, alert)
		f.Add(text, fleet.EventAct, `{"host":"web1","act":"retry"}`)
		f.Add(text, fleet.EventRun, "\xff")
	}
	f.Fuzz(func(t *testing.T, text, kind, data string) {
		if strings.Contains(text, "range") || strings.Contains(text, "printf") || strings.Contains(text, "define") {
			return // who writes the hub's configuration can have it count to a milliard
		}
		texts, err := ParseTexts("", text)
		if err != nil {
			return
		}
		m, _ := texts.Message([]fleet.Event{{Type: kind, Data: []byte(data)}}, "")
		if !utf8.ValidString(m.Title) || strings.ContainsAny(m.Title, "\n\r\x1b") || len([]rune(m.Title)) > maxSaid {
			t.Errorf("the title is %q", m.Title)
		}
		_ = facetsOf(fleet.Event{Type: kind, Data: []byte(data)})
	})
}

// FuzzHidden: no answer shows a secret, nor breaks a line.
func FuzzHidden(f *testing.F) {
	f.Add(`{"error":"the token s3cr3t-token is bad"}`, "s3cr3t-token")
	f.Add("\x1b]0;title\x07", "abcd")
	f.Fuzz(func(t *testing.T, answer, secret string) {
		got := hidden(oneLine(answer, maxSaid), secret)
		if len(secret) >= leastSecret && !strings.Contains(secret, "…") && strings.Contains(got, secret) {
			t.Errorf("%q shows %q", got, secret)
		}
		if strings.ContainsAny(got, "\n\r\x1b") {
			t.Errorf("it has more than a line: %q", got)
		}
	})
}
