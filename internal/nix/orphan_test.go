package nix

import (
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/proc"
)

// The temporary folder of a program that outlives whoever started it stays until the program ends.
func TestFolderOfAnOrphanStays(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, held, _, err := tempFolder()
	if err != nil {
		t.Fatal(err)
	}
	in, feed := io.Pipe()
	defer in.Close()
	read := make(chan struct{}) // closed when the program's input is read, so after its start
	started, ended := filepath.Join(dir, "started"), make(chan error, 1)
	go func() {
		_, err := proc.Run(t.Context(), proc.Cmd{Program: "sh", Args: []string{"-c", "touch " + started + "; read -r line"}, Stdin: &firstRead{in, read}, Keep: held})
		ended <- err
	}()
	<-read
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := held.Close(); err != nil { // as the kernel does it for one that is killed
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(started); err != nil {
		t.Errorf("it was swept away under a program that runs: %v", err)
	}
	if _, err := io.WriteString(feed, "end\n"); err != nil {
		t.Fatal(err)
	}
	feed.Close()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("it is not swept away: %v", err)
	}
}

// firstRead closes read before it is read the first time.
type firstRead struct {
	io.Reader
	read chan struct{}
}

func (f *firstRead) Read(b []byte) (int, error) {
	if f.read != nil {
		close(f.read)
		f.read = nil
	}
	return f.Reader.Read(b)
}
