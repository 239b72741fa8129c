package nix

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/garrison-nix/garrison/internal/proc"
)

// The temporary folder of a program that outlives whoever started it stays until the program ends.
func TestFolderOfAnOrphanStays(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir, held, _, err := tempFolder()
	if err != nil {
		t.Fatal(err)
	}
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	started, ended := filepath.Join(dir, "started"), make(chan error, 1)
	go func() {
		_, err := proc.Run(t.Context(), proc.Cmd{Program: "sh", Args: []string{"-c", "touch " + started + "; read -r line"}, Stdin: in, Keep: held})
		ended <- err
	}()
	for {
		if _, err := os.Stat(started); err == nil {
			break
		}
	}
	if err := held.Close(); err != nil { // as the kernel does it for one that is killed
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(started); err != nil {
		t.Errorf("it was swept away under a program that runs: %v", err)
	}
	if _, err := feed.WriteString("end\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	sweep()
	if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
		t.Errorf("it is not swept away: %v", err)
	}
}
