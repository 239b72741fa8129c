package sops

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// flatPrefix begins the names of metadata in formats without structure.
const flatPrefix = metaKey + "_"

// line is a line of text without its end.
type line struct {
	text string
	at   span // with its end
}

func linesOf(src []byte) []line {
	var out []line
	pos := 0
	for raw := range bytes.Lines(src) {
		out = append(out, line{string(bytes.TrimSuffix(raw, []byte("\n"))), span{pos, pos + len(raw)}})
		pos += len(raw)
	}
	return out
}

// parseDotenv reads lines KEY=value and #comment, as sops has them: there are no quotes, and \n is a newline.
func (f *File) parseDotenv() error {
	var flat [][2]string
	var rest []line
	for _, l := range linesOf(f.src) {
		name, text, ok := strings.Cut(l.text, "=")
		if name, is := strings.CutPrefix(name, flatPrefix); ok && is {
			flat = append(flat, [2]string{name, text})
			f.metaAt = append(f.metaAt, l.at)
		} else {
			rest = append(rest, l)
		}
	}
	var err error
	if f.meta, err = unflatten(flat); err != nil {
		return err
	}
	f.leaves, err = readDotenv(rest, f.meta.rule)
	return err
}

func readDotenv(lines []line, rule Rule) ([]leaf, error) {
	m, err := rule.matcher()
	if err != nil {
		return nil, err
	}
	w := &walker{rule: m, stack: [][]string{nil}}
	seen := make(map[string]bool)
	for i, l := range lines {
		if l.text == "" {
			continue
		}
		end := l.at.from + len(l.text)
		if text, is := strings.CutPrefix(l.text, "#"); is {
			w.comment(nil, text, leaf{at: span{l.at.from + 1, end}})
			continue
		}
		name, text, ok := strings.Cut(l.text, "=")
		if !ok {
			return nil, fmt.Errorf("line %d (of those that are not metadata) is neither KEY=value nor a comment", i+1)
		}
		if err := unique(seen, nil, name); err != nil {
			return nil, err
		}
		w.value([]string{name}, strings.ReplaceAll(text, `\n`, "\n"), leaf{at: span{l.at.from + len(name) + 1, end}})
	}
	return w.leaves, nil
}

// dotenvMeta is the metadata as lines.
func dotenvMeta(m *metadata) string {
	var out strings.Builder
	for _, f := range m.flat() {
		fmt.Fprintf(&out, "%s%s=%s\n", flatPrefix, f[0], strings.ReplaceAll(f[1], "\n", `\n`))
	}
	return out.String()
}

// iniDefault is the section of what stands before the first one.
const iniDefault = "DEFAULT"

// parseINI reads sections, keys and comments. A comment belongs to the key or section that follows it.
func (f *File) parseINI() error {
	var flat [][2]string
	section, rest := iniDefault, []line{}
	for _, l := range linesOf(f.src) {
		if name, ok := iniSection(l.text); ok {
			section = name
		}
		if section != metaKey {
			rest = append(rest, l)
			continue
		}
		f.metaAt = append(f.metaAt, l.at)
		if name, text, _, ok := iniKey(l.text); ok {
			flat = append(flat, [2]string{name, text})
		}
	}
	var err error
	if f.meta, err = unflatten(flat); err != nil {
		return err
	}
	f.leaves, err = readINI(rest, f.meta.rule)
	return err
}

func readINI(lines []line, rule Rule) ([]leaf, error) {
	m, err := rule.matcher()
	if err != nil {
		return nil, err
	}
	w := &walker{rule: m, stack: [][]string{nil, nil}}
	section, waiting, seen := iniDefault, []leaf(nil), map[string]bool{}
	flush := func() {
		for _, c := range waiting {
			w.comment([]string{section}, c.in.(string), c)
		}
		waiting = nil
	}
	for i, l := range lines {
		text := strings.TrimSpace(l.text)
		if text == "" {
			continue
		}
		if text[0] == ';' || text[0] == '#' {
			from := l.at.from + strings.IndexByte(l.text, text[0])
			body := strings.TrimLeft(text[1:], " ")
			from += len(text) - len(body)
			waiting = append(waiting, leaf{in: body, at: span{from, from + len(body)}})
			continue
		}
		if name, ok := iniSection(l.text); ok {
			section, seen = name, map[string]bool{}
			flush()
			w.passed()
			continue
		}
		flush()
		name, value, at, ok := iniKey(l.text)
		if !ok {
			return nil, fmt.Errorf("line %d (of those that are not metadata) is neither a key, a section nor a comment", i+1)
		}
		if err := unique(seen, []string{section}, name); err != nil {
			return nil, err
		}
		w.value([]string{section, name}, value, leaf{at: span{l.at.from + at.from, l.at.from + at.to}})
	}
	flush()
	return w.leaves, nil
}

func iniSection(text string) (string, bool) {
	text = strings.TrimSpace(text)
	if len(text) > 2 && text[0] == '[' && text[len(text)-1] == ']' {
		return strings.TrimSpace(text[1 : len(text)-1]), true
	}
	return "", false
}

// iniQuotes are what names and values may stand in.
var iniQuotes = []string{`"""`, "`", `"`, `'`}

// iniKey takes a line name = value apart and says where in it the value stands.
func iniKey(text string) (name, value string, at span, ok bool) {
	trimmed := strings.TrimLeft(text, " \t")
	from := len(text) - len(trimmed)
	if t := strings.TrimSpace(trimmed); t == "" || t[0] == ';' || t[0] == '#' || t[0] == '[' {
		return "", "", span{}, false
	}
	cutAt := -1
	for _, q := range iniQuotes[:3] {
		if rest, is := strings.CutPrefix(trimmed, q); is {
			if name, _, ok = strings.Cut(rest, q); !ok {
				return "", "", span{}, false
			}
			if i := strings.IndexAny(rest[len(name)+len(q):], "=:"); i >= 0 {
				cutAt = len(q) + len(name) + len(q) + i
			}
			break
		}
	}
	if cutAt < 0 {
		if cutAt = strings.IndexAny(trimmed, "=:"); cutAt < 0 {
			return "", "", span{}, false
		}
		name = strings.TrimSpace(trimmed[:cutAt])
	}
	rest := trimmed[cutAt+1:]
	value = strings.TrimSpace(rest)
	at.from = from + cutAt + 1 + strings.Index(rest, value)
	at.to = at.from + len(value)
	for _, q := range iniQuotes {
		if len(value) >= 2*len(q) && strings.HasPrefix(value, q) && strings.HasSuffix(value, q) {
			value = value[len(q) : len(value)-len(q)]
			at = span{at.from + len(q), at.to - len(q)}
			break
		}
	}
	return name, value, at, true
}

// iniMeta is the metadata as a section.
func iniMeta(m *metadata) string {
	out := "[" + metaKey + "]\n"
	for _, f := range m.flat() {
		out += f[0] + " = " + strings.ReplaceAll(f[1], "\n", `\n`) + "\n"
	}
	return out
}

var errINI = errors.New("INI files cannot be edited or made here; use sops for that")
