package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
)

// EventKind says what an Event is.
type EventKind string

// The kinds of events.
const (
	BuildStarted EventKind = "build-started"
	BuildEnded   EventKind = "build-ended" // well or not: the exit status of the whole tells
	BuildLine    EventKind = "build-line"
	FetchStarted EventKind = "fetch-started" // a path from a substituter
	FetchEnded   EventKind = "fetch-ended"
	Counted      EventKind = "counted" // Done, Expected, Running, Failed of all builds
	Said         EventKind = "said"    // a message of Nix's own
)

// Event is something that nix tells while it builds.
type Event struct {
	Kind EventKind
	Path string // of the derivation, or the store path fetched
	Line string // of a build's log, or the message
	// Level of a message: 0 error, 1 warning, 2 notice, 3 info; above that it is talk.
	Level                           int
	Done, Expected, Running, Failed int
}

// Progress reads nix's --log-format internal-json from the writer's side: what it understands becomes
// events, and plain lines for Log; anything else is a plain line as it is. The format is that of Nix's
// JSONLogger: lines "@nix " and an object with action start, stop, result or msg.
type Progress struct {
	Log io.Writer   // gets plain lines; may be nil
	On  func(Event) // may be nil

	part   []byte
	active map[uint64]*activity
	ended  []*activity // builds, the last few
	errors []string    // messages of level error, the last few
}

type activity struct {
	kind int
	path string
	log  []string // the last lines of a build's
}

// Types of activities and results that are understood (Nix: logging.hh).
const (
	actBuilds     = 104
	actBuild      = 105
	actSubstitute = 108
	resBuildLine  = 101
	resProgress   = 105
	resPostBuild  = 107
)

const (
	maxLogLine    = 256 << 10 // bytes
	maxErrors     = 50
	maxEnded      = 200
	maxTail       = 15  // lines of a failed build's log in an error
	maxTailLine   = 500 // bytes of each
	maxActivities = 100_000
)

// Write implements io.Writer; it fails only when Log does.
func (p *Progress) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			p.keep(b)
			break
		}
		p.keep(b[:i])
		line := p.part
		p.part = p.part[:0]
		if len(line) > 0 {
			if err := p.line(line); err != nil {
				return 0, err
			}
		}
		b = b[i+1:]
	}
	return n, nil
}

func (p *Progress) keep(b []byte) {
	if room := maxLogLine - len(p.part); len(b) > room {
		b = b[:room]
	}
	p.part = append(p.part, b...)
}

// ErrorText is what nix complained of, plain, the last 50 messages, each with the end of the log of the build that it is about.
func (p *Progress) ErrorText() string {
	var b strings.Builder
	for _, e := range p.errors {
		fmt.Fprintln(&b, e)
		for _, a := range p.ended {
			if len(a.log) == 0 || !strings.Contains(e, a.path) || strings.Contains(e, a.log[len(a.log)-1]) {
				continue // newer versions show the log themselves
			}
			for _, line := range a.log {
				fmt.Fprintf(&b, "  > %s\n", line)
			}
		}
	}
	return strings.TrimSpace(b.String())
}

// message is one line of internal-json; fields mean something else for each type.
type message struct {
	Action string            `json:"action"`
	ID     uint64            `json:"id"`
	Type   int               `json:"type"`
	Level  int               `json:"level"`
	Msg    string            `json:"msg"`
	Fields []json.RawMessage `json:"fields"`
}

func (m message) text(i int) string {
	var s string
	if i < len(m.Fields) {
		_ = json.Unmarshal(m.Fields[i], &s) // a field of another kind is not a text
	}
	return s
}

func (m message) number(i int) int {
	var n float64
	if i < len(m.Fields) {
		_ = json.Unmarshal(m.Fields[i], &n) // a field of another kind is not a number
	}
	return int(n)
}

func (p *Progress) line(line []byte) error {
	text, isJSON := bytes.CutPrefix(line, []byte("@nix "))
	var m message
	if !isJSON || json.Unmarshal(text, &m) != nil {
		return p.plain(string(line))
	}
	switch m.Action {
	case "start":
		return p.start(m)
	case "stop":
		a, known := p.active[m.ID]
		delete(p.active, m.ID)
		switch {
		case known && a.kind == actBuild:
			p.ended = append(p.ended, a)
			p.ended = p.ended[max(0, len(p.ended)-maxEnded):]
			p.tell(Event{Kind: BuildEnded, Path: a.path})
		case known && a.kind == actSubstitute:
			p.tell(Event{Kind: FetchEnded, Path: a.path})
		}
	case "result":
		return p.result(m)
	case "msg":
		return p.said(m)
	}
	return nil
}

func (p *Progress) start(m message) error {
	if p.active == nil {
		p.active = map[uint64]*activity{}
	}
	if len(p.active) >= maxActivities {
		return nil
	}
	switch m.Type {
	case actBuild:
		p.active[m.ID] = &activity{kind: actBuild, path: m.text(0)}
		p.tell(Event{Kind: BuildStarted, Path: m.text(0)})
		return p.plain("building " + m.text(0))
	case actSubstitute:
		p.active[m.ID] = &activity{kind: actSubstitute, path: m.text(0)}
		p.tell(Event{Kind: FetchStarted, Path: m.text(0)})
		return p.plain("fetching " + m.text(0) + " from " + m.text(1))
	case actBuilds:
		p.active[m.ID] = &activity{kind: actBuilds}
	}
	return nil
}

func (p *Progress) result(m message) error {
	a := p.active[m.ID]
	if a == nil {
		a = &activity{}
	}
	switch {
	case m.Type == resBuildLine || m.Type == resPostBuild:
		line := clean(m.text(0))
		a.log = append(a.log, strings.ToValidUTF8(line[:min(len(line), maxTailLine)], ""))
		a.log = a.log[max(0, len(a.log)-maxTail):]
		p.tell(Event{Kind: BuildLine, Path: a.path, Line: line})
		return p.plain(drvName(a.path) + "> " + line)
	case m.Type == resProgress && a.kind == actBuilds:
		p.tell(Event{Kind: Counted, Done: m.number(0), Expected: m.number(1), Running: m.number(2), Failed: m.number(3)})
	}
	return nil
}

func (p *Progress) said(m message) error {
	text := clean(m.Msg)
	if m.Level == 0 {
		p.errors = append(p.errors, text)
		p.errors = p.errors[max(0, len(p.errors)-maxErrors):]
	}
	p.tell(Event{Kind: Said, Line: text, Level: m.Level})
	if m.Level > 3 {
		return nil
	}
	return p.plain(text)
}

func (p *Progress) tell(e Event) {
	if p.On != nil {
		p.On(e)
	}
}

func (p *Progress) plain(line string) error {
	if p.Log == nil {
		return nil
	}
	_, err := fmt.Fprintln(p.Log, line)
	return err
}

var escapes = regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`)

// clean takes colours out.
func clean(s string) string { return escapes.ReplaceAllString(s, "") }

// drvName is the name of a derivation without hash and suffix.
func drvName(path string) string {
	_, name, ok := strings.Cut(filepath.Base(path), "-")
	if !ok {
		return path
	}
	return strings.TrimSuffix(name, ".drv")
}
