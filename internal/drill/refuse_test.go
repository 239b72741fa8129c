package drill

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestRefuses has a drill refuse fleets that are not well, each for another reason; it pushes nothing to them. The drill that was killed is put
// back by --revert, and of two at once the second one goes.
func TestRefuses(t *testing.T) {
	t.Parallel()
	y := someFleet(t, "")
	y.settings(t, "[drill.hosts.ratched]\nvia = "+y.knock(t, "ratched")+"\n", y.hosts()...)
	_, tree := y.mainIs(t)
	for _, x := range []struct {
		name        string
		bring, mend func(t *testing.T)
		says        string
	}{
		{"a host that failed", func(t *testing.T) {
			y.pushFile(t, "hosts/joker/activate.sh", "false\n")
			y.hubSays(t, "joker", func(s fleet.Status) bool { return s.Phase == fleet.PhaseHeld })
		}, func(t *testing.T) { y.takeOut(t, "hosts/joker/activate.sh") }, "joker is failed"},

		{"a host under way", func(t *testing.T) {
			y.pushFile(t, "hosts/joker/activate.sh", "while [ ! -e /root/go ]; do sleep 0.1; done\n")
			y.hubSays(t, "joker", func(s fleet.Status) bool { return s.Phase == fleet.PhaseActivating })
		}, func(t *testing.T) {
			ok(t, os.WriteFile(y.world.hosts["joker"].Path("/root/go"), nil, 0o600))
			y.takeOut(t, "hosts/joker/activate.sh")
		}, "joker is under way"},

		{"a host that was switched by hand", func(t *testing.T) {
			s, err := y.status(t.Context(), "joker")
			ok(t, err)
			_, err = y.run(t.Context(), "joker", s.Last.Previous+"/bin/switch-to-configuration", "switch")
			ok(t, err)
			y.hubSays(t, "joker", func(s fleet.Status) bool { return s.Drift })
		}, func(t *testing.T) {
			ok(t, y.converged(t.Context(), y.pushFile(t, "hosts/joker/activate.sh", "true\n"))) // another system ends what somebody chose
			y.takeOut(t, "hosts/joker/activate.sh")
		}, "joker is by hand"},

		{"a host that says nothing", func(t *testing.T) {
			y.hubToml(t, "silent = \"20s\"", "silent = \"2s\"")
			ok(t, y.world.hosts["joker"].StopService(t.Context(), "agent"))
			y.hubSays(t, "joker", func(s fleet.Status) bool { return s.Seen != nil && s.Seen.Silent != nil })
		}, func(t *testing.T) {
			ok(t, y.world.hosts["joker"].StartService(t.Context(), "agent"))
			y.hubToml(t, "silent = \"2s\"", "silent = \"20s\"")
			commit, _ := y.mainIs(t)
			ok(t, y.converged(t.Context(), commit))
		}, "joker is silent"},

		{"a release that CI did not make", func(t *testing.T) {
			ok(t, y.ears.close()) // and the next one
			y.pushFile(t, "hosts/joker/build.sh", "exit 1\n")
			y.alert(t, fleet.AlertRelease, true)
		}, func(t *testing.T) { y.takeOut(t, "hosts/joker/build.sh") }, "alert release-failed"},

		{"a critical alert", func(t *testing.T) {
			y.hubToml(t, "fetch = ", "undelivered = \"1s\"\nfetch = ")
			y.alert(t, fleet.AlertDelivery, true)
		}, func(t *testing.T) {
			l, err := y.world.hosts["forge"].Listen("tcp", ears)
			ok(t, err)
			y.ears = newListener(l)
			y.alert(t, fleet.AlertDelivery, false)
		}, "alert alert-undelivered"},

		{"what a drill left that was killed", func(t *testing.T) {
			cmd := y.drillLive(t, "ratched", "--only", "happy-path", "--repeat", "50")
			ok(t, cmd.Start())
			y.marked(t)
			ok(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL))
			_ = cmd.Wait()
			commit, _ := y.mainIs(t)
			ok(t, y.converged(t.Context(), commit)) // and all is well
		}, func(t *testing.T) {
			for _, says := range []string{"is what it was before the last drill", "there is nothing to put back"} {
				out, err := y.drillLive(t, "ratched", "--revert").CombinedOutput()
				if err != nil || !strings.Contains(string(out), says) {
					t.Errorf("%v\n%s", err, out)
				}
			}
			if _, now := y.mainIs(t); now != tree {
				t.Errorf("main's files are %s, not %s", now, tree)
			}
			commit, _ := y.mainIs(t)
			ok(t, y.converged(t.Context(), commit))
		}, "garrison drill --live ratched --revert"},
	} {
		t.Run(x.name, func(t *testing.T) {
			x.bring(t)
			y.refused(t, x.says)
			x.mend(t)
		})
	}
	t.Run("two at once", func(t *testing.T) {
		cmd := y.drillLive(t, "ratched", "--only", "happy-path", "--repeat", "6")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		ok(t, cmd.Start())
		y.marked(t)
		out, err := y.drillLive(t, "ratched", "--only", "happy-path").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "is a drill's") {
			t.Errorf("%v\n%s", err, out)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the first one: %v\n%s", err, said.String())
		}
		if _, now := y.mainIs(t); now != tree {
			t.Errorf("main's files are %s, not %s", now, tree)
		}
	})
}

// refused wants a drill not to begin, for a reason, and that nothing is pushed.
func (y *yard) refused(t *testing.T, says string) {
	t.Helper()
	before, _ := y.mainIs(t)
	out, err := y.drillLive(t, "ratched").CombinedOutput()
	if err == nil || !strings.Contains(string(out), says) || !strings.Contains(string(out), "nothing was drilled") {
		t.Errorf("%v:\n%s", err, out)
	}
	if now, _ := y.mainIs(t); now != before {
		t.Errorf("main is %s, was %s", now, before)
	}
	var told []fleet.DrillReport
	ok(t, y.get(t.Context(), "/api/v1/drills", &told))
	if len(told) > 0 {
		t.Errorf("the hub was told of a drill that never began: %+v", told)
	}
}

// pushFile has somebody push a file.
func (y *yard) pushFile(t *testing.T, path, text string) (commit string) {
	t.Helper()
	_, err := y.git(t.Context(), "pull", "--quiet", "--rebase", "origin", "main")
	ok(t, err)
	var data []byte
	if text != "" {
		data = []byte(text)
	}
	ok(t, y.write(path, data))
	commit, err = y.commit(t.Context(), "Somebody's work on "+path)
	ok(t, err)
	_, err = y.git(t.Context(), "push", "--quiet", "origin", "main")
	ok(t, err)
	return commit
}

// takeOut removes a file again, and waits until all is well.
func (y *yard) takeOut(t *testing.T, path string) {
	t.Helper()
	ok(t, y.converged(t.Context(), y.pushFile(t, path, "")))
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		var open []fleet.Alert
		err := y.get(t.Context(), "/api/v1/alerts", &open)
		for _, a := range open {
			if a.Host != "" && a.Severity == fleet.Critical {
				err = errors.New(a.What)
			}
		}
		return err
	}))
}

// hubSays waits until the hub knows a host as it should be.
func (y *yard) hubSays(t *testing.T, host string, is func(fleet.Status) bool) {
	t.Helper()
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		var s fleet.Status
		err := y.get(t.Context(), "/api/v1/hosts/"+host, &s)
		if err == nil && !is(s) {
			err = errors.New(s.Summary())
		}
		return err
	}))
}

// alert waits until an alert is open, or none of its kind is, and returns it.
func (y *yard) alert(t *testing.T, kind fleet.AlertKind, open bool) (found fleet.Alert) {
	t.Helper()
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		var all []fleet.Alert
		if err := y.get(t.Context(), "/api/v1/alerts", &all); err != nil {
			return err
		}
		is := false
		for _, a := range all {
			if a.Kind == kind {
				found, is = a, true
			}
		}
		if is != open {
			return fmt.Errorf("the alerts are %+v", all)
		}
		return nil
	}))
	return found
}

// marked waits until a drill has pushed.
func (y *yard) marked(t *testing.T) {
	t.Helper()
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		_, err := y.run(t.Context(), "forge", "git", "-C", bare, "cat-file", "-e", "main:"+markerFile)
		return err
	}))
}

// hubToml changes a text in hub.toml, or adds one, and starts the hub anew.
func (y *yard) hubToml(t *testing.T, from, to string) {
	t.Helper()
	const file = "/etc/garrison/hub.toml"
	old, err := y.world.hosts["forge"].ReadFile(file)
	ok(t, err)
	text := strings.Replace(string(old), from, to, 1)
	if text == string(old) {
		t.Fatalf("%s has no %q", file, from)
	}
	ok(t, os.WriteFile(y.world.hosts["forge"].Path(file), []byte(text), 0o644))
	y.hubAnew(t)
}
