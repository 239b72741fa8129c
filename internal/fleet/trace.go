package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Trace is the trace that everything about a push belongs to, as W3C's traceparent says it.
type Trace struct {
	ID     string // 32 hex digits
	Parent string // 16 hex digits: the span that caused the push; in a trace of our own that of the push itself
}

// ParseTraceparent reads a traceparent (W3C Trace Context); false when it is none.
func ParseTraceparent(s string) (Trace, bool) {
	parts := strings.Split(s, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) != 4 {
		return Trace{}, false
	}
	t := Trace{ID: parts[1], Parent: parts[2]}
	for _, p := range []struct {
		text string
		size int
	}{{parts[0], 2}, {t.ID, 32}, {t.Parent, 16}, {parts[3], 2}} {
		if len(p.text) != p.size || strings.Trim(p.text, "0123456789abcdef") != "" {
			return Trace{}, false
		}
	}
	return t, strings.Trim(t.ID, "0") != "" && strings.Trim(t.Parent, "0") != ""
}

// NewTrace is the trace of what is made of a source commit: the same, whoever asks, and however often the release is tried. What is made of one commit besides a
// release, of is to tell apart: the name of a test branch, the tag of a release that goes back to it.
func NewTrace(commit, of string) Trace {
	sum := sha256.Sum256([]byte("garrison push\x00" + commit + "\x00" + of))
	t := Trace{ID: hex.EncodeToString(sum[:16])}
	t.Parent = t.Span("push")
	return t
}

// Span is the ID of the span of that trace which what names: 16 hex digits, always the same.
func (t Trace) Span(what ...string) string {
	sum := sha256.Sum256([]byte(t.ID + "\x00" + strings.Join(what, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Own says whether the trace begins with the push.
func (t Trace) Own() bool { return t.Parent == t.Span("push") }

// String is the traceparent.
func (t Trace) String() string { return "00-" + t.ID + "-" + t.Parent + "-01" }
