package drill_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAgentThatCorrects: an agent that says that the host was switched by hand, and is about to switch it back, does not leave it alone.
func TestAgentThatCorrects(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), garrisonWith(t, "corrects"), "drill", "--only", "manual-switch", "--dir", filepath.Join(t.TempDir(), "drill"))
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+t.TempDir()) // no base of systemd hosts
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 6 || !strings.Contains(string(out), "FAIL the agent says so, looks at git again, and leaves it alone") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

// TestNotBegun: of a drill that cannot begin, the reports that were asked for say why.
func TestNotBegun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), self(t), "drill", "--dir", filepath.Join(dir, "drill"), "--report", "junit="+filepath.Join(dir, "r.xml"), "--report", "html="+filepath.Join(dir, "r.html"))
	cmd.Env = append(os.Environ(), "PATH="+t.TempDir())
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(string(out), "not in PATH") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	for file, want := range map[string]string{"r.xml": `failures="1"`, "r.html": "It did not come to its end"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(text), want) || !strings.Contains(string(text), "not in PATH") {
			t.Errorf("%v\n%s", err, text)
		}
	}
}
