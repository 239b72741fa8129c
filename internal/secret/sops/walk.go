package sops

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds how deep a file's values may be nested.
const maxDepth = 200

// span is a part of a file's text.
type span struct{ from, to int }

// leaf is a value or a comment of a file.
type leaf struct {
	path    []string
	comment bool // it stands in a comment of the file, not as a value
	secret  bool // the rule says that it is encrypted
	in      any  // what stands there: text (of an encrypted value, ENC[…]), int, float64, bool or time.Time
	at      span // where; {0, 0} if the format's reader cannot tell

	node  *yaml.Node // of a value in YAML
	field *string    // of a comment in YAML: the comment of a node that it is a line of
}

func (l *leaf) name() string {
	if len(l.path) == 0 {
		return "the top"
	}
	return strings.Join(l.path, ":")
}

// err is a problem with the leaf. It names the place and not the value.
func (l *leaf) err(err error) error {
	what := "the value at"
	if l.comment {
		what = "a comment in"
	}
	return fmt.Errorf("%s %s %w", what, l.name(), err)
}

// walker collects leaves in the order that counts for the MAC, and decides which are secret.
type walker struct {
	rule   matcher
	stack  [][]string // comments before the current place, for each level
	leaves []leaf
}

func (w *walker) enter(path []string) error {
	if len(w.stack) >= maxDepth {
		return fmt.Errorf("what stands at %s is nested too deep", placeOf(path))
	}
	w.stack = append(w.stack, nil)
	return nil
}

// leave ends a map or list, which is a value of what it stands in.
func (w *walker) leave() {
	w.stack = w.stack[:len(w.stack)-1]
	w.passed()
}

// passed forgets comments, which are about the value that follows.
func (w *walker) passed() {
	if n := len(w.stack); n > 0 {
		w.stack[n-1] = nil
	}
}

func (w *walker) comment(path []string, text string, l leaf) {
	top := len(w.stack) - 1
	w.stack[top] = append(w.stack[top], text)
	l.comment, l.in = true, text
	w.add(path, l)
}

// value notes a value; nulls are never encrypted and do not count.
func (w *walker) value(path []string, v any, l leaf) {
	if v != nil {
		l.in = v
		w.add(path, l)
	}
	w.passed()
}

func (w *walker) add(path []string, l leaf) {
	l.path = slices.Clone(path)
	l.secret = w.rule.encrypts(path, w.stack, l.comment)
	w.leaves = append(w.leaves, l)
}

// unique refuses keys that stand twice in a map.
func unique(seen map[string]bool, path []string, key string) error {
	if seen[key] {
		return fmt.Errorf("the key %s stands twice in %s", key, placeOf(path))
	}
	seen[key] = true
	return nil
}

// edit is a new text for a part of a file.
type edit struct {
	at   span
	text string
}

var errOverlap = errors.New("its values overlap")

// apply makes all edits to src.
func apply(src []byte, edits []edit) ([]byte, error) {
	slices.SortFunc(edits, func(a, b edit) int { return a.at.from - b.at.from })
	size := len(src)
	for _, e := range edits {
		size += len(e.text)
	}
	out := make([]byte, 0, size)
	done := 0
	for _, e := range edits {
		if e.at.from < done || e.at.to < e.at.from || e.at.to > len(src) {
			return nil, errOverlap
		}
		out = append(append(out, src[done:e.at.from]...), e.text...)
		done = e.at.to
	}
	return append(out, src[done:]...), nil
}
