package nix

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Event says how far nix is with building, each time that this changes.
type Event struct {
	Building []string // names of what is being built, oldest first
	Ended    string   // the name of what has just been built, well or not; "" when something else changed
	Builds   Count
	Fetches  Count // paths from substituters
}

// Count is how many of a kind nix has done, expects, is at, and gave up.
type Count struct{ Done, Expected, Running, Failed int }

// Progress reads nix's --log-format internal-json from the writer's side: what it understands becomes
// events, and plain lines for Log; anything else is a plain line as it is. The format is that of Nix's
// JSONLogger: lines "@nix " and an object with action start, stop, result or msg.
type Progress struct {
	Log io.Writer   // gets plain lines; may be nil
	On  func(Event) // may be nil

	part   []byte
	active map[uint64]*activity
	event  Event
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
	actFetches    = 103
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
		if known && a.kind == actBuild {
			p.ended = append(p.ended, a)
			p.ended = p.ended[max(0, len(p.ended)-maxEnded):]
			name := drvName(a.path)
			if i := slices.Index(p.event.Building, name); i >= 0 {
				p.event.Building = slices.Delete(p.event.Building, i, i+1)
			}
			p.tell(name)
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
		p.event.Building = append(p.event.Building, drvName(m.text(0)))
		p.tell("")
		return p.plain("building " + m.text(0))
	case actSubstitute:
		return p.plain("fetching " + m.text(0) + " from " + m.text(1))
	case actBuilds, actFetches:
		p.active[m.ID] = &activity{kind: m.Type}
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
		return p.plain(drvName(a.path) + "> " + line)
	case m.Type == resProgress && a.kind == actBuilds:
		p.count(&p.event.Builds, m)
	case m.Type == resProgress && a.kind == actFetches:
		p.count(&p.event.Fetches, m)
	}
	return nil
}

func (p *Progress) said(m message) error {
	text := clean(m.Msg)
	if m.Level == 0 {
		p.errors = append(p.errors, text)
		p.errors = p.errors[max(0, len(p.errors)-maxErrors):]
	}
	if m.Level > 3 {
		return nil
	}
	return p.plain(text)
}

func (p *Progress) count(c *Count, m message) {
	if now := (Count{m.number(0), m.number(1), m.number(2), m.number(3)}); now != *c {
		*c = now
		p.tell("")
	}
}

func (p *Progress) tell(ended string) {
	if p.On != nil {
		e := p.event
		e.Building, e.Ended = slices.Clone(e.Building), ended
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
