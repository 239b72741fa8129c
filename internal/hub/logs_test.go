package hub_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

func TestLogsOfOldRunsGo(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for id := range int64(50) { // the first 40 are old
		must(t, os.WriteFile(hub.LogFile(dir, id+1), []byte("x"), 0o600))
		if id < 40 {
			must(t, os.Chtimes(hub.LogFile(dir, id+1), now, now.Add(-time.Hour)))
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "other.log"), nil, 0o600))
	must(t, os.Chtimes(filepath.Join(dir, "other.log"), now, now.Add(-time.Hour)))
	must(t, hub.PruneLogs(dir, now.Add(-time.Minute)))
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 21 {
		t.Errorf("%d are left, %v", len(left), err)
	}
	for id, want := range map[int64]bool{30: false, 31: true, 50: true} {
		if _, err := os.Stat(hub.LogFile(dir, id)); (err == nil) != want {
			t.Errorf("log %d: %v", id, err)
		}
	}
	if err := hub.PruneLogs(filepath.Join(dir, "none"), now); fleet.CodeOf(err) != fleet.CodeState {
		t.Error(err)
	}
}
