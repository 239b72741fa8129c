package agent

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestConfirmed walks over histories: "a" was committed, "a!" failed, "<a" is an operator's roll-back.
func TestConfirmed(t *testing.T) {
	for history, want := range map[string]string{
		"":                "",
		"a b c":           "a b c",
		"a b! c":          "a c",
		"a b <a":          "a",
		"a b c <b":        "a b",
		"a b c <b <a":     "a",
		"a b c <b d":      "a b d",
		"a b <a b":        "a b",
		"a b <a! c":       "a b c",
		"a b a":           "a b a",
		"a b a <b":        "a b",
		"a b b c":         "a b c",
		"b <a":            "b a", // the history before was trimmed
		"a b a b <a":      "a b a",
		"a b c <a c <a d": "a d",
	} {
		var past []fleet.Deployment
		for word := range strings.FieldsSeq(history) {
			d := fleet.Deployment{Result: fleet.Committed, Toplevel: fleet.Toplevel{OutPath: strings.Trim(word, "<!")}}
			if strings.HasSuffix(word, "!") {
				d.Result = fleet.RolledBack
			}
			if strings.HasPrefix(word, "<") {
				d.Choice = &fleet.Choice{Act: fleet.ActRollback}
			}
			past = append(past, d)
		}
		var got []string
		for _, d := range confirmed(past) {
			got = append(got, d.OutPath)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q leads over %q, not %q", history, got, want)
		}
	}
}

// FuzzNamed has inotify's buffers as no kernel would fill them.
func FuzzNamed(f *testing.F) {
	event := append(append(make([]byte, 12), 16, 0, 0, 0), "current-system\x00\x00"...)
	f.Add(event)
	f.Add(event[:20])
	f.Fuzz(func(t *testing.T, events []byte) { named(events, map[string]bool{"current-system": true}) })
	if !named(event, map[string]bool{"current-system": true}) || named(event, map[string]bool{"system": true}) {
		f.Error("an event is not read")
	}
}
