package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func drillAt(i int) fleet.DrillReport {
	at := time.Date(2026, 1, 1, 3, 0, 0, 0, time.UTC).Add(time.Duration(i) * 24 * time.Hour)
	return fleet.DrillReport{Schema: fleet.DrillSchema, ID: fmt.Sprintf("ABCDEFGH%d", i), StartedAt: at, EndedAt: at.Add(time.Minute), Where: "live", Host: "ratched", Passed: true}
}

// TestKeepDrill: of the kept drills the newest stay, also when two end at once; what somebody else put there, and what cannot be read, stays and is named.
func TestKeepDrill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "drills")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir, 0o700))
	foreign := map[string]string{"19990101T000000Z-notours0.json": "{}", "notes.txt": "x", "20000101T000000Z-ABCDEFGH.json.bak": "x"}
	for name, text := range foreign {
		must(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(syscall.Mkfifo(filepath.Join(dir, "pipe.json"), 0o600))
	const more = 3
	var wg sync.WaitGroup
	next, errs := make(chan int), make(chan error, drillsKept+more)
	for range 4 {
		wg.Go(func() {
			for i := range next {
				errs <- keepDrill(dir, drillAt(i))
			}
		})
	}
	for i := range drillsKept + more {
		next <- i
	}
	close(next)
	wg.Wait()
	close(errs)
	for err := range errs {
		must(err)
	}
	must(keepDrill(dir, drillAt(drillsKept+more))) // what was removed while others were saved may have been a newer one
	all, unread, err := keptDrills(dir)
	must(err)
	if len(all) != drillsKept || all[0].ID != drillAt(more+1).ID || all[drillsKept-1].ID != drillAt(drillsKept+more).ID {
		t.Errorf("%d are kept, from %s to %s", len(all), all[0].ID, all[len(all)-1].ID)
	}
	var named []string
	for _, u := range unread {
		named = append(named, filepath.Base(u.File))
	}
	if got := strings.Join(named, " "); got != "19990101T000000Z-notours0.json 20000101T000000Z-ABCDEFGH.json.bak notes.txt pipe.json" {
		t.Errorf("named are %s", got)
	}
}

// TestKeepDrillNowhere: that a drill cannot be kept is said, with the folder.
func TestKeepDrillNowhere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keepDrill(file, drillAt(0)); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}
