package notify

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/template"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// EventTest is the type of what a test sends; its data has a text.
const EventTest = "garrison.notify.test"

// Fields are what a template may use.
type Fields struct {
	Type    string       // of the event
	Subject string       // what it is about: a host, a release's tag, an alert's key
	Source  string       // who said so
	Time    time.Time    // when it happened
	Alert   *fleet.Alert // nil in what is no alert
	Firing  bool         // an alert began
	Over    bool         // an alert is resolved
	Title   string       // the line that would be sent without a template
	Text    string       // the text that would be sent without a template
	Data    any          // the event's data, as FORMATS.md has them
	Hub     string       // URL
}

// fieldsOf says of an event what people are told without templates.
func fieldsOf(e fleet.Event, hub string) Fields {
	f := Fields{Type: e.Type, Subject: e.Subject, Source: e.Source, Time: e.Time, Hub: hub, Firing: e.Type == fleet.EventAlert, Over: e.Type == fleet.EventResolved}
	_ = json.Unmarshal(e.Data, &f.Data) // nil when it cannot be read
	if f.Firing || f.Over {
		var a fleet.Alert
		if json.Unmarshal(e.Data, &a) == nil {
			f.Alert = &a
			f.Title, f.Text = alertText(a, f.Over)
			return f
		}
	}
	f.Title = oneLine(eventLine(e), maxSaid)
	f.Text = clock(e.Time)
	return f
}

func alertText(a fleet.Alert, over bool) (title, text string) {
	title = strings.ToUpper(string(a.Severity)) + ": " + a.What
	var b strings.Builder
	if over {
		title = "resolved: " + a.What
		if a.ResolvedAt != nil {
			fmt.Fprintf(&b, "over since %s, after %s\n", clock(*a.ResolvedAt), a.ResolvedAt.Sub(a.Since).Round(time.Second))
		}
		return oneLine(title, maxSaid), strings.TrimSpace(b.String())
	}
	fmt.Fprintf(&b, "since %s\n", clock(a.Since))
	if a.Detail != "" {
		b.WriteString(a.Detail + "\n")
	}
	if len(a.Commands) > 0 {
		b.WriteString("Next:\n")
		for _, c := range a.Commands {
			b.WriteString("  " + c + "\n")
		}
	}
	return oneLine(title, maxSaid), strings.TrimSpace(b.String())
}

// eventLine says in a line what happened.
func eventLine(e fleet.Event) string {
	if e.Type == EventTest {
		return "test: Garrison's hub reaches you"
	}
	return e.Words()
}

// Texts are what a sender's messages look like. The zero value is the default.
type Texts struct {
	title, text *template.Template // nil: the default
}

// ParseTexts reads templates; "" is the default.
func ParseTexts(title, text string) (t Texts, err error) {
	parse := func(name, text string) (*template.Template, error) {
		if text == "" {
			return nil, nil
		}
		return template.New(name).Option("missingkey=error").Parse(text)
	}
	if t.title, err = parse("title", title); err == nil {
		t.text, err = parse("text", text)
	}
	return t, err
}

// Message says what is to be sent of events: of several, that there are so many, and of each a line. bad says why a template could not be used; the default is in its place.
func (t Texts) Message(events []fleet.Event, hub string) (m Message, bad error) {
	m.Events = events
	f := fieldsOf(events[0], hub)
	if len(events) > 1 {
		return digest(events, hub), nil
	}
	if f.Alert != nil {
		m.Severity = f.Alert.Severity
	}
	m.Resolved = f.Over
	var badTitle, badText error
	m.Title, badTitle = filled(t.title, f, f.Title)
	m.Title = oneLine(m.Title, maxSaid)
	m.Text, badText = filled(t.text, f, f.Text)
	if bad = errors.Join(badTitle, badText); bad != nil {
		m.Text += "\n(The configured text could not be made: " + oneLine(bad.Error(), maxSaid) + ")"
	}
	return m, bad
}

func filled(t *template.Template, f Fields, def string) (string, error) {
	if t == nil {
		return def, nil
	}
	var b limited
	if err := t.Execute(&b, f); err != nil {
		return def, err
	}
	return strings.ToValidUTF8(b.String(), "�"), nil
}

// limited takes so much and no more.
type limited struct{ strings.Builder }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) > maxMessage {
		return 0, fmt.Errorf("it has more than %d bytes", maxMessage)
	}
	return l.Builder.Write(p)
}

// digest tells of many events at once.
func digest(events []fleet.Event, hub string) Message {
	m := Message{Events: events, Resolved: true}
	var lines []string
	for _, e := range events {
		f := fieldsOf(e, hub)
		m.Resolved = m.Resolved && f.Over
		if f.Alert != nil && f.Firing && m.Severity != fleet.Critical {
			m.Severity = f.Alert.Severity
		}
		lines = append(lines, f.Title)
	}
	const most = 20
	m.Title = fmt.Sprintf("%d more: %s; …", len(events), lines[0])
	m.Title = oneLine(m.Title, maxSaid)
	if more := len(lines) - most; more > 0 {
		lines = append(lines[:most], fmt.Sprintf("and %d more; all of them: garrison alerts --all", more))
	}
	m.Text = strings.Join(lines, "\n")
	return m
}
