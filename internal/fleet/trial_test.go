package fleet

import (
	"strings"
	"testing"
)

// TestTestNames: no name of a test is one of a release, and a host's are not another's.
func TestTestNames(t *testing.T) {
	for _, host := range []string{"joker", "a", "1", "1-test-2", "a-test", "a.b"} {
		name := TestTagName(host, 7)
		if n, ok := TestTagNumber(host, name); n != 7 || !ok {
			t.Errorf("%s of %s: %d, %v", name, host, n, ok)
		}
		if n, ok := TagNumber(name); ok {
			t.Errorf("%s is taken for release %d", name, n)
		}
		for _, other := range []string{"jok", "a-", "1-test", "b"} {
			if n, ok := TestTagNumber(other, name); ok {
				t.Errorf("%s is taken for test %d of %s", name, n, other)
			}
		}
	}
	for _, bad := range []string{"release-joker-test", "release-joker-test-", "release-joker-test-0", "release-joker-test-01", "release-joker-test-+1", "release-joker-test-1-2", "release-1"} {
		if n, ok := TestTagNumber("joker", bad); ok {
			t.Errorf("%s is taken for %d", bad, n)
		}
	}
}

func TestTestManifest(t *testing.T) {
	const path = "/nix/store/00000000000000000000000000000000-x"
	m := Manifest{Schema: 1, Number: 3, Test: "joker", Base: 12, Source: Source{Commit: strings.Repeat("a", 40), Subject: "S"},
		Hosts: map[string]Entry{"joker": {Toplevel: Toplevel{OutPath: path}, DrvPath: path + ".drv"}}}
	message, err := m.TagMessage()
	if err != nil || !strings.HasPrefix(string(message), "release-joker-test-3: S\n\n") {
		t.Fatalf("%s, %v", message, err)
	}
	got, err := ParseTagMessage(message)
	if err != nil || got.Test != "joker" || got.Base != 12 || got.Name() != "release-joker-test-3" {
		t.Errorf("%+v, %v", got, err)
	}
}
