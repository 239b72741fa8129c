package git

import (
	"strings"
	"testing"
)

func TestParseTags(t *testing.T) {
	tags := parseTags("a\trefs/tags/release-1\nb\trefs/tags/release-1^{}\nc\trefs/tags/release-2\n")
	if tags["release-1"] != (Ref{ID: "a", Commit: "b"}) || tags["release-2"] != (Ref{ID: "c", Commit: "c"}) || len(tags) != 2 {
		t.Errorf("%v", tags)
	}
}

func FuzzParseTags(f *testing.F) {
	f.Add("a\trefs/tags/release-1\nb\trefs/tags/release-1^{}\n")
	f.Add("\n\t\nx")
	f.Fuzz(func(t *testing.T, out string) {
		for name := range parseTags(out) {
			if strings.HasSuffix(name, "\n") {
				t.Errorf("%q", name)
			}
		}
	})
}

// FuzzParseCredentials: whatever stands in the file, what comes of it fits into one line of a header.
func FuzzParseCredentials(f *testing.F) {
	for _, text := range []string{"", "user:token\n", "token", "a:b:c", "x\r\nHost: y", "user:\n", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		user, token, err := parseCredentials(text)
		if err == nil && (token == "" || strings.ContainsAny(user+token, "\r\n\x00")) {
			t.Errorf("%q: %q, %q", text, user, token)
		}
	})
}
