package durable

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	expectHeld(t, path, false)
	l, err := TryLock(path)
	must(t, err)
	expectHeld(t, path, true)
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v", err)
	}

	got := make(chan error)
	go func() {
		second, err := Lock(path)
		if err == nil {
			err = second.Unlock()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("Lock did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, l.Unlock())
	must(t, <-got)
	expectHeld(t, path, false)
	if err := l.Unlock(); err == nil {
		t.Error("unlocked twice")
	}
}

// TestLockDiesWithItsHolder uses flock(1), another process, and kills it.
func TestLockDiesWithItsHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder := exec.Command("flock", "--no-fork", path, "sleep", "60")
	must(t, holder.Start())
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		held, err := Held(path)
		must(t, err)
		if held {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("flock(1) did not take the lock")
		}
	}
	must(t, holder.Process.Kill())
	_ = holder.Wait()
	l, err := TryLock(path)
	must(t, err)
	must(t, l.Unlock())
}

// TestHeldDoesNotDisturb looks at a free lock while others try to take it.
func TestHeldDoesNotDisturb(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Microsecond):
				if _, err := Held(path); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	for range 200 {
		l, err := TryLock(path)
		must(t, err)
		must(t, l.Unlock())
	}
	close(stop)
	<-done
}

func TestLockErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none", "lock")
	if _, err := TryLock(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if held, err := Held(path); held || err != nil {
		t.Errorf("got %v, %v", held, err)
	}
}

func expectHeld(t *testing.T, path string, want bool) {
	t.Helper()
	held, err := Held(path)
	must(t, err)
	if held != want {
		t.Errorf("held %v, want %v", held, want)
	}
}
