package nix

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// event is one of inotify's, as the kernel lays it out.
func event(mask uint32, name string) []byte {
	b := make([]byte, 16, 64)
	binary.NativeEndian.PutUint32(b[4:], mask)
	if name != "" {
		padded := append([]byte(name), make([]byte, 16-len(name)%16)...)
		binary.NativeEndian.PutUint32(b[12:], uint32(len(padded)))
		b = append(b, padded...)
	}
	return b
}

// TestLostEvents: what the kernel had no room to tell of is looked for.
func TestLostEvents(t *testing.T) {
	const a, b = "00000000000000000000000000000000-a", "00000000000000000000000000000000-b"
	var got []string
	found := func(p string) { got = append(got, filepath.Base(p)) }
	events := slices.Concat(event(unix.IN_DELETE, a+".lock"), event(unix.IN_DELETE, "x.lock"), event(unix.IN_DELETE, b))
	if unlocked(events, found) || !slices.Equal(got, []string{a}) {
		t.Errorf("%v", got)
	}
	if !unlocked(event(unix.IN_Q_OVERFLOW, ""), found) {
		t.Error("lost events are overlooked")
	}
	dir := t.TempDir()
	for _, name := range []string{a, ".links", b + ".lock"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got = nil
	if err := changedSince(dir, time.Now(), found); err != nil || !slices.Contains(got, a) {
		t.Errorf("%v, %v", got, err)
	}
	got = nil
	if err := changedSince(dir, time.Now().Add(time.Hour), found); err != nil || len(got) != 0 {
		t.Errorf("%v, %v", got, err)
	}
}
