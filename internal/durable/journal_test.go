package durable

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

type entry struct{ N int }

func TestJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	expectEntries(t, path, 0)
	j := openJournal(t, path)
	for n := range 5 {
		must(t, j.Append(entry{n}))
	}
	expectEntries(t, path, 0, 0, 1, 2, 3, 4)
	expectEntries(t, path, 2, 3, 4)
	must(t, j.Close())

	j = openJournal(t, path)
	must(t, j.Append(entry{5}))
	expectEntries(t, path, 1, 5)
	expectEntries(t, path, 100, 0, 1, 2, 3, 4, 5)
}

// TestJournalTornAnywhere cuts the file at every byte, as a crash may: every line
// that was whole is read, and the journal goes on after it.
func TestJournalTornAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	j := openJournal(t, path)
	for n := range 3 {
		must(t, j.Append(entry{n}))
	}
	whole, err := os.ReadFile(path)
	must(t, err)
	for _, rest := range []string{"", "\x00\x00\x00\x00"} { // a file system may leave zeros
		for size := range len(whole) + 1 {
			torn := string(whole[:size]) + rest
			must(t, os.WriteFile(path, []byte(torn), 0o600))
			var want []int
			for n := range strings.Count(torn, "\n") {
				want = append(want, n)
			}
			expectEntries(t, path, 0, want...)
			j := openJournal(t, path)
			must(t, j.Append(entry{9}))
			expectEntries(t, path, 0, append(want, 9)...)
			must(t, j.Close())
		}
	}
}

func TestJournalTrim(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "history")
	j := openJournal(t, path)
	for n := range 25 {
		must(t, j.Append(entry{n}))
		must(t, j.Trim(10))
		lines, err := ReadJournal[entry](path, 0)
		must(t, err)
		if len(lines) < min(n+1, 10) || len(lines) >= 20 || lines[len(lines)-1].N != n {
			t.Fatalf("after %d: %v", n, lines)
		}
	}
	expectEntries(t, path, 3, 22, 23, 24)
	expectNames(t, dir, "history")
}

// TestJournalFullDisk has an Append fail after a part of the line was written.
func TestJournalFullDisk(t *testing.T) {
	onSmallDisk(t, func(limit func(uint64)) {
		path := filepath.Join(t.TempDir(), "history")
		j := openJournal(t, path)
		must(t, j.Append(entry{1}))
		limit(4096)
		if err := j.Append(strings.Repeat("x", 5000)); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("got %v", err)
		}
		expectFile(t, path, "{\"N\":1}\n")
		must(t, j.Append(entry{2})) // a small one still fits
		expectEntries(t, path, 0, 1, 2)
	})
}

// TestJournalTrimFails loses nothing, and what is appended afterwards is in the
// file that bears the name.
func TestJournalTrimFails(t *testing.T) {
	onSmallDisk(t, func(limit func(uint64)) {
		path := filepath.Join(t.TempDir(), "history")
		j := openJournal(t, path)
		for n := range 100 {
			must(t, j.Append(entry{n}))
		}
		limit(256)
		if err := j.Trim(40); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("got %v", err)
		}
		limit(noLimit)
		must(t, j.Append(entry{100}))
		expectEntries(t, path, 2, 99, 100)
		must(t, j.Trim(40))
		must(t, j.Append(entry{101}))
		expectEntries(t, path, 3, 99, 100, 101)
	})
}

func TestJournalDamage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	must(t, os.WriteFile(path, []byte("{\"N\":1}\n{\"N\n{\"N\":3}\n"), 0o600))
	got, err := ReadJournal[entry](path, 0)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "history:2") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(got, []entry{{1}, {3}}) {
		t.Errorf("got %v", got)
	}
	must(t, os.WriteFile(path, []byte(strings.Repeat("x", MaxLineBytes+10)+"\n"), 0o600))
	if _, err := ReadJournal[entry](path, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("a line too long: %v", err)
	}
}

func TestJournalRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	j := openJournal(t, path)
	if err := j.Append(func() {}); err == nil {
		t.Error("a function was appended")
	}
	if err := j.Append(strings.Repeat("x", MaxLineBytes)); err == nil {
		t.Error("a line too long was appended")
	}
	must(t, j.Append(strings.Repeat("x", MaxLineBytes-3))) // two quotes and the newline
	got, err := ReadJournal[string](path, 0)
	if err != nil || len(got) != 1 {
		t.Errorf("got %d entries, %v", len(got), err)
	}
	if _, err := OpenJournal(filepath.Dir(path), 0o600); err == nil {
		t.Error("a directory was opened")
	}
}

func TestJournalConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	j := openJournal(t, path)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for range 10 {
				if err := errors.Join(j.Append(entry{n}), j.Trim(50)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, err := ReadJournal[entry](path, 0); err != nil || len(got) != 80 {
		t.Errorf("%d entries, %v", len(got), err)
	}
}

func openJournal(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := OpenJournal(path, 0o600)
	must(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

func expectEntries(t *testing.T, path string, newest int, want ...int) {
	t.Helper()
	entries, err := ReadJournal[entry](path, newest)
	must(t, err)
	var got []int
	for _, e := range entries {
		got = append(got, e.N)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
