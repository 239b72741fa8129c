package fleet

import (
	"strings"
	"testing"
)

func TestParseTraceparent(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	got, ok := ParseTraceparent("00-" + id + "-" + span + "-00")
	if !ok || got.ID != id || got.Parent != span || got.Own() {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := ParseTraceparent("01-" + id + "-" + span + "-01-more"); !ok {
		t.Error("a newer version may say more")
	}
	for _, bad := range []string{
		"", "x", "00-1-2-01", "00-" + id + "-" + span, "00-" + id + "-" + span + "-01-more", "ff-" + id + "-" + span + "-01", "0g-" + id + "-" + span + "-01",
		"00-" + strings.ToUpper(id) + "-" + span + "-01", "00-" + strings.Repeat("0", 32) + "-" + span + "-01", "00-" + id + "-" + strings.Repeat("0", 16) + "-01",
	} {
		if _, ok := ParseTraceparent(bad); ok {
			t.Errorf("%q was taken", bad)
		}
	}
}

// again is t as another party reads it.
func again(t Trace) Trace {
	read, _ := ParseTraceparent(t.String())
	return read
}

func TestNewTrace(t *testing.T) {
	const commit = "7c211433f02071597741e6ff5a8ea34789abbf43"
	main := NewTrace(commit, "")
	if again(main) != main || !main.Own() {
		t.Errorf("%s is read as %+v", main, again(main))
	}
	if main != NewTrace(commit, "") || main.ID == NewTrace(commit, "web1-test").ID || main.ID == NewTrace(strings.Repeat("0", 40), "").ID {
		t.Error("a trace does not follow from what it is of")
	}
	if main.Span("a", "b") != again(main).Span("a", "b") || main.Span("a", "b") == main.Span("ab") || main.Span("a") == NewTrace(commit, "x").Span("a") || len(main.Span("a")) != 16 {
		t.Error("a span's ID does not follow from what it is")
	}
	for _, c := range []struct {
		ref  ReleaseRef
		want Trace
	}{
		{ReleaseRef{Number: 1, Source: Source{Commit: commit, Branch: "main"}}, main},
		{ReleaseRef{Number: 1, Source: Source{Commit: commit}, Trace: "nonsense"}, main},
		{ReleaseRef{Test: "release-web1-test-1", Source: Source{Commit: commit, Branch: "web1-test"}}, NewTrace(commit, "web1-test")},
		{ReleaseRef{Number: 1, Source: Source{Commit: commit}, Trace: NewTrace(commit, "release-2").String()}, NewTrace(commit, "release-2")},
	} {
		if got := c.ref.Push(); got != c.want {
			t.Errorf("%+v belongs to %s", c.ref, got)
		}
	}
}
