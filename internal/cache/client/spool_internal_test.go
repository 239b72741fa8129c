package client

import (
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestSpoolThatCannotBeRead is told from a network that fails.
func TestSpoolThatCannotBeRead(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := &spool{}
	if _, err := s.Write(make([]byte, spoolInMemory+1)); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := s.whole()()
	if n, err := io.Copy(io.Discard, b.r); n != spoolInMemory+1 || err != nil || b.failed() != nil {
		t.Errorf("%d bytes, %v, %v", n, err, b.failed())
	}
	if err := s.file.Close(); err != nil {
		t.Fatal(err)
	}
	b = s.whole()()
	_, err := io.Copy(io.Discard, b.r)
	if failed := b.failed(); err == nil || !errors.Is(failed, os.ErrClosed) || fleet.CodeOf(failed) != fleet.CodeState || !strings.Contains(failed.Error(), os.Getenv("TMPDIR")) {
		t.Errorf("%v, %v", err, failed)
	}
}
