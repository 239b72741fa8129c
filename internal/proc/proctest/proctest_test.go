package proctest_test

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/proc/proctest"
)

// TestStart: a program goes on while threads of the tests end, and says when it has ended.
func TestStart(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "3600")
	ended, err := proctest.Start(cmd, syscall.SIGKILL)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 50 { // at a time, that each takes a thread along, of those that are idle
		all.Go(func() {
			runtime.LockOSThread()
			time.Sleep(100 * time.Millisecond)
		})
	}
	all.Wait()
	select {
	case <-ended:
		t.Error("it has ended with a thread")
	case <-time.After(200 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
	if _, err := proctest.Start(exec.Command("/nonexistent"), syscall.SIGKILL); err == nil {
		t.Error("what is not there was started")
	}
}
