package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	hubsqlite "github.com/garrison-nix/garrison/internal/hub/sqlite"
)

// TestPruneHub: what is too old goes soon after the start, however much it is, and then each hour; the rest goes on.
func TestPruneHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the clock is the test's: nothing here waits
		dir := t.TempDir()
		s, err := hubsqlite.Open(t.Context(), filepath.Join(dir, "hub.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		happened := 0
		tell := func(n int, age time.Duration) {
			t.Helper()
			var list []fleet.Event
			for range n {
				happened++
				e, err := fleet.NewEvent(fleet.EventAct, "/hosts/h", fmt.Sprint(happened), "h", time.Now().Add(-age), happened)
				if err != nil {
					t.Fatal(err)
				}
				list = append(list, e)
			}
			if _, err := s.PutEvents(ctx, list); err != nil {
				t.Fatal(err)
			}
		}
		left := func() int {
			t.Helper()
			list, err := s.Events(ctx, nil, 0, 10_000)
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		for id := range int64(30) {
			if err := os.WriteFile(hub.LogFile(dir, id+1), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(hub.LogFile(dir, id+1), time.Now(), time.Now().Add(-100*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		tell(2000, 3*time.Hour)
		tell(10, 0)
		go pruneHub(ctx, hub.Keep{Events: 2 * time.Hour, History: 99 * time.Hour, Logs: 1}, s, dir, slog.New(slog.NewTextHandler(io.Discard, nil)))
		time.Sleep(2 * time.Minute)
		if n := left(); n != 10 {
			t.Errorf("%d events are left", n)
		}
		if _, err := os.Stat(hub.LogFile(dir, 1)); !os.IsNotExist(err) {
			t.Errorf("the log of the first run: %v", err)
		}
		time.Sleep(3 * time.Hour)
		if n := left(); n != 0 {
			t.Errorf("after hours %d events are left", n)
		}
		cancel()
		synctest.Wait()
	})
}

// TestStandby: a second hub says that it stands by, and that it takes over.
func TestStandby(t *testing.T) {
	var lab cachetest.Lab
	t.Cleanup(lab.Stop)
	var c HubFile
	c.Database.URL = lab.PostgresURL(t)
	said := make(chan string, 10)
	log := slog.New(slog.NewTextHandler(writes(func(line string) { said <- line }), nil))
	first, err := openHubStore(t.Context(), c, log)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error)
	go func() {
		s, err := openHubStore(t.Context(), c, log)
		if err == nil {
			err = s.Close()
		}
		second <- err
	}()
	if line := <-said; !strings.Contains(line, "stands by") {
		t.Error(line)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if line := <-said; !strings.Contains(line, "takes over") {
		t.Error(line)
	}
	if err := <-second; err != nil {
		t.Error(err)
	}
}

// writes is a writer that hands on what is written.
type writes func(string)

func (w writes) Write(b []byte) (int, error) { w(string(b)); return len(b), nil }
