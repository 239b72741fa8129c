package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// after is what afterDeploy runs: it keeps its environment, and hangs, with a child, while it is told to.
const after = `#!/bin/sh
echo "said $1 of $GARRISON_RELEASE"
echo "whispered $2" >&2
env | grep -E '^(GARRISON|COMIN)_' | sort > /run/after/new
mv /run/after/new "/run/after/$GARRISON_RELEASE"
if [ -e /run/after/hang ]; then
  sleep 1000 &
  echo $! > /run/after/child
  wait
fi
[ ! -e /run/after/fail ] || exit 3
`

// TestAfterDeploy has a program run after every deployment: it is told what happened, its output is logged, and
// neither that it fails nor that it hangs is in the way of anything.
func TestAfterDeploy(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{systemd: true, config: "afterDeploy = [\"/opt/after\", \"a  b\", \"$x\"]\nafterDeployTime = \"2s\"\n",
		files: []sandbox.File{{Path: "/opt/after", Mode: 0o755, Data: []byte(after)}}})
	b.must("mkdir -p /run/after")
	told := func(n int) string {
		t.Helper()
		var text string
		b.eventually(fmt.Sprintf("it ran after release-%d", n), func() bool {
			data, err := b.host.ReadFile(fmt.Sprintf("/run/after/%d", n))
			text = "\n" + string(data)
			return err == nil
		})
		return text
	}
	holds := func(text string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(text, "\n"+w+"\n") {
				t.Errorf("it was not told %q, but %s", w, text)
			}
		}
	}
	says := func(want ...string) {
		t.Helper()
		for _, w := range want {
			b.eventually("the agent's log says "+w, func() bool {
				log, err := b.host.ReadFile("/var/log/agent.log")
				return err == nil && strings.Contains(string(log), w)
			})
		}
	}

	b.deploy("good1")
	source := b.lab.manifest.Source
	holds(told(1), "GARRISON_HOST=joker", "GARRISON_RELEASE=1", "GARRISON_COMMIT="+b.tip, "GARRISON_RESULT=committed", "GARRISON_ERROR=",
		"GARRISON_OUT_PATH="+b.lab.out("good1"), "GARRISON_SOURCE_COMMIT="+source.Commit, "GARRISON_SOURCE_BRANCH=main", "GARRISON_SUBJECT="+source.Subject,
		"COMIN_GIT_SHA="+source.Commit, "COMIN_GIT_REF=origin/main", "COMIN_GIT_MSG="+source.Subject, "COMIN_HOSTNAME=joker",
		"COMIN_GENERATION=release-1", "COMIN_STATUS=done", "COMIN_ERROR_MSG=")
	says(`msg="afterDeploy says" release=1 command=/opt/after line="said a  b of 1"`, `line="whispered $x"`, `msg="afterDeploy is done" release=1`)
	// The flake that it is told of is one.
	if got := b.must(`nix --extra-experimental-features 'nix-command flakes' eval --raw "$(sed -n 's/^COMIN_FLAKE_URL=//p' /run/after/1)#nixosConfigurations.good1.config.networking.hostName"`); got != "good1" {
		t.Errorf("the flake's host is called %q", got)
	}

	n := b.publish("fails")
	s := b.ended(n)
	told2 := told(n)
	holds(told2, "GARRISON_RESULT="+string(s.Last.Result), "GARRISON_PREVIOUS="+b.lab.out("good1"), "GARRISON_OUT_PATH="+b.lab.out("fails"), "COMIN_STATUS=failed")
	if s.Last.Result != fleet.RolledBack || !strings.Contains(told2, "\nGARRISON_ERROR="+strings.Split(s.Last.Failure.Message, "\n")[0]) || strings.Contains(told2, "\nCOMIN_ERROR_MSG=\n") {
		t.Errorf("of a %s deployment (%q) it was told %s", s.Last.Result, s.Last.Failure.Message, told2)
	}

	// While it hangs, another release is deployed; then it is ended with its child, and runs for the other one.
	b.must("touch /run/after/hang")
	b.deploy("good2")
	told(b.number)
	b.eventually("its child runs", func() bool { _, err := b.run("test -s /run/after/child"); return err == nil })
	b.must("rm /run/after/hang; touch /run/after/fail")
	b.deploy("good3")
	says(fmt.Sprintf(`msg="afterDeploy took too long and was stopped" release=%d`, b.number-1))
	holds(told(b.number), "GARRISON_RESULT=committed", "GARRISON_OUT_PATH="+b.lab.out("good3"))
	says(fmt.Sprintf(`msg="afterDeploy failed" release=%d`, b.number), "exit status 3")
	if _, err := b.run("kill -0 $(cat /run/after/child)"); err == nil {
		t.Error("the child of the one that hung is alive")
	}
	b.says(0)
}

func TestAfterDeployIsConfigured(t *testing.T) {
	t.Parallel()
	read := func(more string) (agent.Config, error) {
		file := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(file, []byte("host = \"joker\"\nremote = \"file:///f\"\nallowedSigners = \"/s\"\n"+more), 0o600); err != nil {
			t.Fatal(err)
		}
		return agent.ReadConfig(file)
	}
	if c, err := read(`afterDeploy = ["/a", "b"]`); err != nil || len(c.AfterDeploy) != 2 || time.Duration(c.AfterDeployTime) != 5*time.Minute {
		t.Errorf("read %+v, %v", c, err)
	}
	for text, says := range map[string]string{
		`afterDeploy = ["notify"]`: `afterDeploy must begin with a program's absolute path, not "notify"`,
		`afterDeploy = "/a"`:       "afterDeploy must be a list of strings",
		`afterDeployTime = "0s"`:   "is not a positive duration",
		`afterDeployTimes = "1m"`:  `did you mean "afterDeployTime"?`,
	} {
		if _, err := read(text); fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(fmt.Sprintf("%v %+v", err, fleet.FailureOf("", err)), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
