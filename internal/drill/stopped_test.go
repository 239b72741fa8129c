package drill_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/sandbox"
)

// TestDrillStopped: a drill that is stopped while a host has another disk mounted, or somebody stands before the cache, leaves nothing.
func TestDrillStopped(t *testing.T) {
	t.Parallel()
	base, err := sandbox.HostBase(t.Context(), "../../scripts/host-base")
	must(t, err)
	for scenario, when := range map[string]string{"disk-full": "agent's state is full", "cache-wrong-key": "ok   the host does not take it"} {
		t.Run(scenario, func(t *testing.T) {
			t.Parallel()
			d := begin(t, self(t), false, nil, "drill", "--only", scenario, "--host-base", base)
			d.await(when)
			processes := d.processes()
			for ; len(processes) == 0; processes = d.processes() {
				time.Sleep(time.Millisecond)
			}
			// The folder is that one's: a second drill in it starts nothing, and takes nothing away.
			second := exec.CommandContext(t.Context(), self(t), "drill", "--only", "check-fails", "--host-base", base, "--dir", d.dir)
			if out, _ := second.CombinedOutput(); second.ProcessState.ExitCode() != 2 || !strings.Contains(string(out), "runs in "+d.dir) {
				t.Errorf("a second one: %s, %s", second.ProcessState, out)
			}
			must(t, d.cmd.Process.Signal(os.Interrupt))
			d.exit(1)
			d.leavesNothing(processes)
			d.wants("garrison: stopped\n")
		})
	}
}
