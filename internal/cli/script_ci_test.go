package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// ciProcess is a script's hub with CI.
type ciProcess struct {
	cmd   *exec.Cmd
	begun []byte // what all logs of runs said when it was started
}

type ciKey struct{}

// ciCmd CONFIG starts a hub with CI, whose data is in $WORK/.ci, and sets CI to its URL.
func ciCmd(ts *testscript.TestScript, _ bool, args []string) {
	c := ts.Value(ciKey{}).(*ciProcess)
	c.begun = runLogs(ts)
	var url string
	c.cmd, url = startDaemon(ts, "ci.log", "hub serves", "hub", "--config", args[0])
	ts.Setenv("CI", url)
}

// dies STAGE kills the hub with CI, as a power cut would, as soon as that stage of a run has begun.
func dies(ts *testscript.TestScript, _ bool, args []string) {
	c := ts.Value(ciKey{}).(*ciProcess)
	word := []byte("stage " + args[0] + " begins")
	was := bytes.Count(c.begun, word)
	for end := time.Now().Add(20 * time.Second); bytes.Count(runLogs(ts), word) <= was; time.Sleep(200 * time.Microsecond) {
		if time.Now().After(end) {
			ts.Fatalf("the stage %s never begins: %s", args[0], runLogs(ts))
		}
	}
	theHub(ts).killed[c.cmd] = true
	ts.Check(c.cmd.Process.Kill())
	_ = c.cmd.Wait() // it was killed
}

// ends tells the hub with CI to stop, and waits until it has.
func ends(ts *testscript.TestScript, _ bool, _ []string) {
	c := ts.Value(ciKey{}).(*ciProcess)
	ts.Check(c.cmd.Process.Signal(os.Interrupt))
	ts.Check(c.cmd.Wait())
	theHub(ts).killed[c.cmd] = true // is not waited for again
}

func runLogs(ts *testscript.TestScript) (all []byte) {
	files, err := filepath.Glob(filepath.Join(ts.Getenv("WORK"), ".ci/ci/*.log"))
	ts.Check(err)
	for _, f := range files {
		text, err := os.ReadFile(f)
		ts.Check(err)
		all = append(all, text...)
	}
	return all
}
