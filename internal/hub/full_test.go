package hub_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/sqlite"
)

// small is a world whose database is on a file system of 2 MiB.
func small(t *testing.T) (w *world, dir string) {
	t.Helper()
	dir = t.TempDir()
	must(t, syscall.Mount("garrison-test", dir, "tmpfs", 0, "size=2m"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	s, err := sqlite.Open(t.Context(), filepath.Join(dir, "hub.db"))
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	w = newWorld(t)
	w.Hub.Store = s
	return w, dir
}

// TestFullDisk: what cannot be kept is told again; the hub says once what is wrong, where, and what to do, goes on, and says when it is over.
func TestFullDisk(t *testing.T) {
	w, dir := small(t)
	tell := func(want int) {
		t.Helper()
		if got, body := w.ask("POST", "/api/v1/reports", "report:joker", report("joker")); got != want {
			t.Fatalf("%d %s", got, body)
		}
	}
	tell(200)
	filler := filepath.Join(dir, "filler")
	f, err := os.Create(filler)
	must(t, err)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	must(t, f.Close())
	got := 0
	for range 300 { // the log that SQLite writes ahead has some room
		if got, _ = w.ask("POST", "/api/v1/deployments", "report:joker", `{"schema":1,"deployment":{"schema":1,"host":"joker","release":{"number":1},"endedAt":"2026-01-01T00:00:00Z"},"log":"`+noise()+`"}`); got != 204 {
			break
		}
	}
	if got != 503 {
		t.Fatalf("with a full disk: %d", got)
	}
	tell(503)
	tell(503)
	said := w.log.String()
	if n := strings.Count(said, "reports cannot be kept"); n != 1 || !strings.Contains(said, filepath.Join(dir, "hub.db")) {
		t.Errorf("said %d times:\n%s", n, said)
	}
	if got, body := w.ask("GET", "/api/v1/hosts", "read", ""); got != 200 || !strings.Contains(body, "joker") {
		t.Errorf("what is known is not shown: %d %s", got, body)
	}
	must(t, os.Remove(filler))
	tell(200)
	if !strings.Contains(w.log.String(), "reports are kept again") {
		t.Errorf("nothing says that it is over:\n%s", w.log)
	}
}

// noise is 32 KiB that nobody can pack.
func noise() string {
	var all strings.Builder
	for all.Len() < 32<<10 {
		all.WriteString(hub.HashToken(all.String()[max(0, all.Len()-64):] + strings.Repeat("x", all.Len()%97)))
	}
	return all.String()
}
