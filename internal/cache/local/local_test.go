package local_test

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/local"
	"github.com/garrison-nix/garrison/internal/fleet"
)

func open(t *testing.T, dir string) *local.Store {
	t.Helper()
	s, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
	})
	return s
}

func TestBlobs(t *testing.T) {
	cachetest.Blobs(t, func(t *testing.T) cache.Blobs { return open(t, filepath.Join(t.TempDir(), "deep", "cache")) })
}

func TestOpenIsExclusive(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	if _, err := local.Open(dir); fleet.CodeOf(err) != fleet.CodeBusy {
		t.Errorf("a second process got in: %v", err)
	}
}

func TestOpenRemovesUnfinishedUploads(t *testing.T) {
	dir := t.TempDir()
	s, err := local.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	cachetest.PutBlob(t, s, "whole.nar", "content")
	if err := os.WriteFile(filepath.Join(dir, "tmp", "put-123"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d unfinished uploads are left, %v", len(left), err)
	}
	if _, ok, err := s.Stat(t.Context(), "whole.nar"); !ok || err != nil {
		t.Error("finished content is gone", err)
	}
}

func TestFailedPutLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.Put(t.Context(), "abc", func(io.Writer) error { return io.ErrUnexpectedEOF }); err == nil {
		t.Fatal("it succeeded")
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 0 {
		t.Errorf("%d temporary files are left, %v", len(left), err)
	}
}

func TestKeyIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := local.Key(dir, "fleet")
	if err != nil {
		t.Fatal(err)
	}
	again, err := local.Key(dir, "fleet")
	if err != nil || again.Encode() != first.Encode() {
		t.Errorf("another key the second time, %v", err)
	}
	fi, err := os.Stat(filepath.Join(dir, "keys", "fleet"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v, %v", fi.Mode(), err)
	}
}

func TestDamagedKeyIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	file := filepath.Join(dir, "keys", "fleet")
	for _, content := range []string{"", "fleet:nonsense"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := local.Key(dir, "fleet"); fleet.CodeOf(err) != fleet.CodeKey {
			t.Errorf("%q: %v", content, err)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != content {
			t.Errorf("%q was overwritten: %v", content, err)
		}
	}
	if _, err := local.Key(dir, "../x"); fleet.CodeOf(err) != fleet.CodeInvalid {
		t.Errorf("a key outside the directory: %v", err)
	}
}
