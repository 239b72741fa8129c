package cli

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestPlainJSON: what does something to a terminal does not come through, however it is written; all else does.
func TestPlainJSON(t *testing.T) {
	for said, want := range map[string]string{
		`{"a":"x\u001b[2J\u009b1m\u0007"}`:              "x\ufffd[2J\ufffd1m\ufffd",
		"{\"a\":\"\u009b1m\x7f\"}":                      "\ufffd1m?",
		`{"a":"a\r\b\fb\\u001b"}`:                       "a\ufffd\ufffd\ufffdb\\u001b",
		`{"a":"ü\u00fc\n\t\"\\ \ud83d\ude00 é \u00a0"}`: "üü\n\t\"\\ 😀 é \u00a0",
	} {
		for name, from := range map[string]io.Reader{"at once": strings.NewReader(said), "byte by byte": iotest.OneByteReader(strings.NewReader(said)), "with the end": iotest.DataErrReader(strings.NewReader(said))} {
			var v struct{ A string }
			if err := json.NewDecoder(newPlainJSON(from)).Decode(&v); err != nil || v.A != want {
				t.Errorf("%q %s: %q, %v; want %q", said, name, v.A, err, want)
			}
		}
	}
	for _, cut := range []string{`{"a":"\`, `{"a":"\u00`, "{\"a\":\"\xc2", `{"a":"\u00zz"}`} {
		got, err := io.ReadAll(newPlainJSON(strings.NewReader(cut)))
		if err != nil || string(got) != cut {
			t.Errorf("%q: %q, %v", cut, got, err)
		}
	}
}

// TestPlainJSONAtOnce: what has come is not held back until there is more, as streams have it.
func TestPlainJSONAtOnce(t *testing.T) {
	r, w := io.Pipe()
	defer w.Close()
	go func() { _, _ = w.Write([]byte("data: {\"kind\":\"wake\"}\n\n")) }()
	p, got := newPlainJSON(r), ""
	for b := make([]byte, 100); !strings.HasSuffix(got, "\n\n"); {
		n, err := p.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		got += string(b[:n])
	}
}
