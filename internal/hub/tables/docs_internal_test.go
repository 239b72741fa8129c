package tables

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestDictionaryStays: what databases out there have was packed with it.
func TestDictionaryStays(t *testing.T) {
	sum := sha256.Sum256(dictionary)
	if hex.EncodeToString(sum[:]) != "18911dc6375686530643731a6ae9131a47069b38aa67f5ba696bceb9f6042595" {
		t.Error("the dictionary has changed: what hubs have packed cannot be read any more. Put a new one beside it, with another number")
	}
}

// TestPacked: documents come back as they were, are small, and none takes the memory.
func TestPacked(t *testing.T) {
	d, err := newDocs()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"x", "ü \x00", strings.Repeat("log\n", 10_000), `{"plain":1}`} {
		got, err := d.text(d.packText([]byte(text)))
		if err != nil || string(got) != text {
			t.Errorf("%.20q came back as %.20q, %v", text, got, err)
		}
	}
	var s fleet.Status
	if err := d.unpack([]byte(`{"host":"h"}`), &s); err != nil || s.Host != "h" {
		t.Errorf("what was never packed: %+v, %v", s, err)
	}
	for name, packed := range map[string][]byte{"cut short": d.packText([]byte(strings.Repeat("a", 1000)))[:8], "too large": d.packText(make([]byte, maxDoc+1))} {
		if _, err := d.text(packed); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
