package sqlite

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub/hubtest"
	"github.com/garrison-nix/garrison/internal/hub/tables"
)

func TestStore(t *testing.T) { hubtest.Store(t, anew) }

func TestRollout(t *testing.T) { hubtest.Rollout(t, anew) }

// anew makes an empty database, and opens it as often as it was closed.
func anew(t *testing.T) func() hubtest.Kept {
	file := filepath.Join(t.TempDir(), "a folder?", "hub.db")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	return func() hubtest.Kept {
		s, err := Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestDamagedDatabase(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(file, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); fleet.CodeOf(err) != fleet.CodeState || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
	if _, err := Open(t.Context(), filepath.Join(file, "hub.db")); fleet.CodeOf(err) != fleet.CodeState {
		t.Errorf("%v", err)
	}
}

// TestErrorsSayWhatToDo: of a database that is locked, read-only, damaged, in no folder, on a full disk; also while it is in use.
func TestErrorsSayWhatToDo(t *testing.T) {
	put := func(s *tables.Store, text string) error {
		return s.PutDiff(t.Context(), fleet.HostDiff{Schema: 1, Host: "h" + text, Unknown: text})
	}
	for want, hurt := range map[string]func(t *testing.T, file string) error{
		"end that one": func(t *testing.T, file string) error {
			s, err := open(t.Context(), file, time.Millisecond)
			must(t, err)
			defer s.Close()
			other, err := connect(file, 1, 0)
			must(t, err)
			defer other.Close()
			tx, err := other.Begin()
			must(t, err)
			defer tx.Rollback()
			return put(s, "x")
		},
		"mounted for writing": func(t *testing.T, file string) error {
			dir := filepath.Dir(file)
			must(t, syscall.Mount("garrison-test", dir, "tmpfs", 0, "size=2m"))
			t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
			s, err := Open(t.Context(), file)
			must(t, err)
			must(t, s.Close())
			must(t, syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
			_, err = Open(t.Context(), file)
			return err
		},
		"the disk is full": func(t *testing.T, file string) error {
			dir := filepath.Dir(file)
			must(t, syscall.Mount("garrison-test", dir, "tmpfs", 0, "size=1m"))
			t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
			s, err := Open(t.Context(), file)
			must(t, err)
			defer s.Close()
			for range 1000 {
				if err := put(s, rand.Text()+strings.Repeat(rand.Text(), 100)); err != nil {
					return err
				}
			}
			return nil
		},
		"it is damaged": func(t *testing.T, file string) error {
			s, err := Open(t.Context(), file)
			must(t, err)
			must(t, s.Close())
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			must(t, err)
			_, err = f.WriteAt(bytes.Repeat([]byte("damage"), 10_000), 4096)
			must(t, errors.Join(err, f.Close()))
			_, err = Open(t.Context(), file)
			return err
		},
		"the folder that it is in": func(t *testing.T, file string) error {
			_, err := Open(t.Context(), filepath.Join(file, "none", "hub.db"))
			return err
		},
	} {
		t.Run(want, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "hub.db")
			err := hurt(t, file)
			var e *fleet.Error
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			if e.Code != fleet.CodeState || !strings.Contains(e.What, file) || !strings.Contains(e.Hint, want) {
				t.Errorf("%v; hint: %q", err, e.Hint)
			}
		})
	}
}
