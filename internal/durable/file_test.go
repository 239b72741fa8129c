package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWriteFileReplaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	for _, perm := range []os.FileMode{0o600, 0o644, 0o666, 0o400} {
		if err := WriteFile(path, []byte(perm.String()), perm); err != nil {
			t.Fatal(err)
		}
		expectFile(t, path, perm.String())
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != perm {
			t.Errorf("mode %v, want %v", info.Mode().Perm(), perm)
		}
	}
	expectNames(t, filepath.Dir(path), "state")
}

func TestWriteFileReplacesLinkNotTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	must(t, WriteFile(target, []byte("old"), 0o600))
	must(t, os.Symlink(target, link))
	must(t, WriteFile(link, []byte("new"), 0o600))
	expectFile(t, target, "old")
	expectFile(t, link, "new")
}

// TestWriteFileFails walks through the steps that can be made to fail anywhere:
// each must return its error and leave the directory as it was.
func TestWriteFileFails(t *testing.T) {
	t.Run("no directory", func(t *testing.T) {
		err := WriteFile(filepath.Join(t.TempDir(), "none", "state"), nil, 0o600)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("rename", func(t *testing.T) {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "state"), 0o700))
		if err := WriteFile(filepath.Join(dir, "state"), []byte("x"), 0o600); err == nil {
			t.Error("a directory was replaced")
		}
		expectNames(t, dir, "state")
	})
}

func TestWriteFileFullDisk(t *testing.T) {
	onSmallDisk(t, func(limit func(uint64)) {
		dir := t.TempDir()
		path := filepath.Join(dir, "state")
		must(t, WriteFile(path, []byte("old"), 0o600))
		limit(4096)
		err := WriteFile(path, bytes.Repeat([]byte("n"), 5000), 0o600)
		if !errors.Is(err, syscall.EFBIG) {
			t.Errorf("got %v", err)
		}
		expectFile(t, path, "old")
		expectNames(t, dir, "state")
	})
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	must(t, WriteFile(path, []byte("old"), 0o600))
	// A crash between the temporary file and the rename: the next writer is not disturbed.
	_, err := writeTemp(path, []byte("half"), 0o600)
	must(t, err)
	expectFile(t, path, "old")
	must(t, WriteFile(path, []byte("new"), 0o600))
	must(t, Sweep(dir))
	expectNames(t, dir, "state")
	expectFile(t, path, "new")
	must(t, Sweep(filepath.Join(dir, "none")))
}

func TestJSON(t *testing.T) {
	type doc struct{ A, B int }
	dir := t.TempDir()
	path := filepath.Join(dir, "doc.json")
	var got doc
	if found, err := ReadJSON(path, 100, &got); found || err != nil {
		t.Errorf("no file: %v, %v", found, err)
	}
	must(t, WriteJSON(path, doc{1, 2}, 0o600))
	expectFile(t, path, "{\n  \"A\": 1,\n  \"B\": 2\n}\n")
	if found, err := ReadJSON(path, 100, &got); !found || err != nil || got != (doc{1, 2}) {
		t.Errorf("got %+v, %v, %v", got, found, err)
	}
	if err := WriteJSON(path, func() {}, 0o600); err == nil {
		t.Error("a function was written as JSON")
	}
	for name, text := range map[string]string{
		"empty": "", "torn": `{"A": 1,`, "two": `{} {}`, "wrong type": `{"A": "x"}`, "zeros": "\x00\x00\x00",
		"large": `{"A": 1` + string(bytes.Repeat([]byte(" "), 100)) + `}`,
	} {
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if found, err := ReadJSON(path, 100, &got); !found || !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	if found, err := ReadJSON(dir, 100, &got); !found || err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("a directory: %v, %v", found, err)
	}
}

// onSmallDisk runs the test that calls it once more, in a process of its own in
// which writes past the given size of a file fail as on a full disk: after a part
// of the data. body runs there. The limit holds for a whole process, and this one's
// test log needs its space.
func onSmallDisk(t *testing.T, body func(limit func(bytes uint64))) {
	t.Helper()
	const marker = "DURABLE_TEST_ON_SMALL_DISK"
	if os.Getenv(marker) != t.Name() {
		c := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		c.Env = append(os.Environ(), marker+"="+t.Name())
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	signal.Ignore(syscall.SIGXFSZ)
	body(func(bytes uint64) {
		var now syscall.Rlimit
		must(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &now))
		must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: min(bytes, now.Max), Max: now.Max}))
	})
}

const noLimit = math.MaxUint64

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expectFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if string(got) != want {
		t.Errorf("%s holds %q, want %q", filepath.Base(path), got, want)
	}
}

func expectNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if len(got) != len(want) {
		t.Fatalf("directory has %q, want %q", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("directory has %q, want %q", got, want)
		}
	}
}
