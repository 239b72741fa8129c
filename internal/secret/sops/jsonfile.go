package sops

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// metaKey is where metadata stand in formats with structure.
const metaKey = "sops"

var errJSON = errors.New("it is not well-formed JSON")

// jsonReader walks over JSON with the positions of what it meets.
type jsonReader struct {
	src []byte
	dec *json.Decoder
	w   *walker

	top   map[string]span // values of the outermost object, from key to end
	value map[string]span // the same, values alone
	open  int             // just behind the outermost {
	last  int             // end of the outermost object's last value
}

func (f *File) parseJSON() error {
	var outer struct {
		Sops *stored `json:"sops"`
	}
	if err := json.Unmarshal(f.src, &outer); err != nil {
		return errJSON
	}
	if outer.Sops == nil {
		return ErrNotSops
	}
	var err error
	if f.meta, err = outer.Sops.metadata(); err != nil {
		return err
	}
	r, err := readJSON(f.src, f.meta.rule)
	if err != nil {
		return err
	}
	f.leaves, f.metaAt = r.w.leaves, []span{r.value[metaKey]}
	return nil
}

// readJSON collects the leaves of an object, those under metaKey apart.
func readJSON(src []byte, rule Rule) (*jsonReader, error) {
	m, err := rule.matcher()
	if err != nil {
		return nil, err
	}
	r := &jsonReader{src: src, dec: json.NewDecoder(bytes.NewReader(src)), w: &walker{rule: m}, top: map[string]span{}, value: map[string]span{}}
	r.dec.UseNumber()
	t, err := r.dec.Token()
	if err != nil {
		return nil, errJSON
	}
	if t != json.Delim('{') {
		return nil, errors.New("its outermost JSON value is not an object")
	}
	r.open = int(r.dec.InputOffset())
	if err := r.object(nil); err != nil {
		return nil, err
	}
	if _, err := r.dec.Token(); err != io.EOF {
		return nil, errors.New("something follows its JSON object")
	}
	return r, nil
}

// next reads a token and says where it stands.
func (r *jsonReader) next() (json.Token, span, error) {
	from := int(r.dec.InputOffset())
	t, err := r.dec.Token()
	if err != nil {
		return nil, span{}, errJSON
	}
	to := int(r.dec.InputOffset())
	for from < to && strings.IndexByte(" \t\r\n,:", r.src[from]) >= 0 {
		from++
	}
	return t, span{from, to}, nil
}

func (r *jsonReader) object(path []string) error {
	if err := r.w.enter(path); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for {
		t, at, err := r.next()
		if err != nil {
			return err
		}
		if t == json.Delim('}') {
			break
		}
		key, _ := t.(string)
		if err := unique(seen, path, key); err != nil {
			return err
		}
		if err := r.member(path, key, at.from); err != nil {
			return err
		}
	}
	r.w.leave()
	return nil
}

func (r *jsonReader) member(path []string, key string, from int) error {
	w := r.w
	if len(path) == 0 && key == metaKey {
		r.w = &walker{rule: w.rule, stack: [][]string{nil}} // not a part of the values
		defer func() { r.w = w }()
	}
	start, err := r.any(append(path, key))
	if err == nil && len(path) == 0 {
		r.last = int(r.dec.InputOffset())
		r.top[key], r.value[key] = span{from, r.last}, span{start, r.last}
	}
	return err
}

// any reads a value and says where it starts.
func (r *jsonReader) any(path []string) (int, error) {
	t, at, err := r.next()
	if err != nil {
		return 0, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			return at.from, r.object(path)
		}
		return at.from, r.list(path)
	case json.Number:
		v, err := number(t)
		if err != nil {
			return 0, fmt.Errorf("the value at %s %w", placeOf(path), err)
		}
		r.w.value(path, v, leaf{at: at})
	default:
		r.w.value(path, t, leaf{at: at})
	}
	return at.from, nil
}

func number(n json.Number) (any, error) {
	if i, err := n.Int64(); err == nil {
		return int(i), nil
	}
	f, err := n.Float64()
	return f, quiet(err, "is a number out of range")
}

func (r *jsonReader) list(path []string) error {
	if err := r.w.enter(path); err != nil {
		return err
	}
	for r.dec.More() {
		if _, err := r.any(path); err != nil {
			return err
		}
	}
	if _, _, err := r.next(); err != nil {
		return err
	}
	r.w.leave()
	return nil
}

// jsonText is v as JSON, with &, < and > as they are.
func jsonText(v any, prefix, indent string) string {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if indent != "" {
		enc.SetIndent(prefix, indent)
	}
	if err := enc.Encode(v); err != nil { // only strings, bools and numbers come here
		return "null"
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// jsonMeta writes metadata in the order that sops has.
func jsonMeta(m *metadata, indent string) string {
	if indent == "" {
		var parts []string
		for _, f := range m.fields() {
			parts = append(parts, jsonText(f.name, "", "")+":"+jsonText(jsonValue(f), "", ""))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	var parts []string
	inner := indent + indent
	for _, f := range m.fields() {
		parts = append(parts, inner+jsonText(f.name, "", "")+": "+jsonText(jsonValue(f), inner, indent))
	}
	return "{\n" + strings.Join(parts, ",\n") + "\n" + indent + "}"
}

// jsonValue orders an entry as sops does: enc before recipient.
func jsonValue(f field) any {
	entries, ok := f.value.([]Entry)
	if !ok {
		return f.value
	}
	type entry struct {
		Enc       string `json:"enc"`
		Recipient string `json:"recipient"`
	}
	out := []entry{} // [], not null
	for _, e := range entries {
		out = append(out, entry{e.Enc, e.Recipient})
	}
	return out
}

// indentOf is the white space before the first key; empty if it stands in the line of the {.
func indentOf(src []byte, open int) string {
	rest := src[open:]
	text := bytes.TrimLeft(rest, " \t\r\n")
	space := string(rest[:len(rest)-len(text)])
	_, indent, found := strings.Cut(space, "\n")
	if !found || strings.Contains(indent, "\n") || len(indent) > 16 || indent == "" {
		return ""
	}
	return indent
}

// without removes a member of the outermost object.
func (r *jsonReader) without(key string) edit {
	at := r.top[key]
	before := bytes.TrimRight(r.src[:at.from], " \t\r\n")
	if n := len(before); n > 0 && before[n-1] == ',' {
		return edit{span{n - 1, at.to}, ""}
	}
	after := r.src[at.to:]
	rest := bytes.TrimLeft(after, " \t\r\n")
	if len(rest) > 0 && rest[0] == ',' {
		at.to += len(after) - len(rest) + 1
	}
	return edit{at, ""}
}

// isBinary says whether the file is one value that stands for a whole file.
func (f *File) isBinary() bool {
	return f.format == JSON && !slices.ContainsFunc(f.leaves, func(l leaf) bool { return !slices.Equal(l.path, []string{"data"}) })
}
