package durable

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// threeFiles are a, sub/b and c, which hold their old content; it returns them with new content.
func threeFiles(t *testing.T) (dir string, files map[string][]byte) {
	t.Helper()
	dir, files = t.TempDir(), map[string][]byte{}
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	for name, perm := range map[string]os.FileMode{"a": 0o644, "sub/b": 0o600, "c": 0o755} {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte("old"), perm))
		must(t, os.Chmod(path, perm))
		files[path] = []byte("new")
	}
	return dir, files
}

func expectAll(t *testing.T, dir, want string) {
	t.Helper()
	for name, perm := range map[string]os.FileMode{"a": 0o644, "sub/b": 0o600, "c": 0o755} {
		path := filepath.Join(dir, name)
		expectFile(t, path, want)
		if info, err := os.Lstat(path); err != nil || info.Mode().Perm() != perm {
			t.Errorf("%s has %v, %v", name, info.Mode(), err)
		}
	}
	expectNames(t, dir, "a", "c", "sub")
	expectNames(t, filepath.Join(dir, "sub"), "b")
}

func TestReplaceFiles(t *testing.T) {
	dir, files := threeFiles(t)
	must(t, ReplaceFiles(files))
	expectAll(t, dir, "new")
	must(t, ReplaceFiles(nil))
}

// TestReplaceFilesFails lets each of three files fail in turn: no file changes, nothing is left behind.
func TestReplaceFilesFails(t *testing.T) {
	for _, name := range []string{"", "b", "d"} { // before, among and behind the others
		dir, files := threeFiles(t)
		files[filepath.Join(dir, "none"+name, "x")] = nil
		if err := ReplaceFiles(files); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		expectAll(t, dir, "old")
	}
	dir, files := threeFiles(t)
	must(t, os.Symlink("a", filepath.Join(dir, "link")))
	files[filepath.Join(dir, "link")] = nil
	if err := ReplaceFiles(files); err == nil {
		t.Error("a link was replaced")
	}
	must(t, os.Remove(filepath.Join(dir, "link")))
	expectAll(t, dir, "old")
}

func TestReplaceFilesFullDisk(t *testing.T) {
	onSmallDisk(t, func(limit func(uint64)) {
		dir, files := threeFiles(t)
		limit(4096)
		files[filepath.Join(dir, "sub/b")] = bytes.Repeat([]byte("n"), 5000)
		if err := ReplaceFiles(files); !errors.Is(err, syscall.EFBIG) {
			t.Errorf("got %v", err)
		}
		expectAll(t, dir, "old")
	})
}

// TestRenameAllFails lets the rename of each file fail in turn: those before it are put back.
func TestRenameAllFails(t *testing.T) {
	for bad := range 3 {
		dir := t.TempDir()
		var lists [3][]string // new, paths, old
		for i := range 3 {
			for l, text := range []string{"new", "old", "old"} {
				name := filepath.Join(dir, string(rune('a'+3*l+i)))
				must(t, os.WriteFile(name, []byte(text), 0o600))
				lists[l] = append(lists[l], name)
			}
		}
		must(t, os.Remove(lists[0][bad]))
		if err := renameAll(lists[0], lists[1], lists[2]); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
		for _, path := range lists[1] {
			expectFile(t, path, "old")
		}
	}
}
