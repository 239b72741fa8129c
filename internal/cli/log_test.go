package cli

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestJournalLines(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(newJournal(&out, slog.LevelInfo))
	log.Info("fetched", "stage", "fetch", "release", 7)
	log.With("release", 8).WithGroup("g").Warn("two\nlines", "time", "kept")
	log.Error("broken", "err", "no \"space\"")
	log.Debug("unseen")
	const want = "<6>msg=fetched stage=fetch release=7\n<4>msg=\"two\\nlines\" release=8 g.time=kept\n<3>msg=broken err=\"no \\\"space\\\"\"\n"
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	stream := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	if !isJournal(f, stream) {
		t.Error("it is not known as the journal")
	}
	for _, other := range []string{"", "1:2", "nonsense", stream + "0"} {
		if isJournal(f, other) {
			t.Errorf("it is taken for the stream %q", other)
		}
	}
	if isJournal(&bytes.Buffer{}, stream) {
		t.Error("a buffer is taken for the journal")
	}
}
