package drill_test

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

// Two demos beside each other: one into a pipe, one on a terminal.
func TestDemo(t *testing.T) {
	t.Parallel()
	plain := start(t, self(t), false, nil)
	drawn := start(t, self(t), true, []string{"TERM=xterm", "NO_COLOR="})
	plain.exit(0)
	drawn.exit(0)

	plain.wants("\nPASS  19 of 19 checks passed", "push → healthy", "gitops-test is on each host: hello from the drill")
	if i := strings.IndexAny(plain.said(), "\r\x1b"); i >= 0 {
		t.Errorf("it draws into a pipe: %q", plain.said()[i:])
	}
	drawn.wants("\r\x1b[K", "starting them …", "\x1b[32mPASS\x1b[0m")
	for _, d := range []*demo{plain, drawn} {
		checkReport(t, d.report())
	}
	checkTraces(t, plain.dir)
}

func checkReport(t *testing.T, r fleet.DrillReport) {
	t.Helper()
	var checks []fleet.DrillCheck
	for _, s := range r.Scenarios {
		checks = append(checks, s.Checks...)
		if s.Result != fleet.DrillPass || s.Seconds <= 0 {
			t.Errorf("%s: %s in %v s", s.Name, s.Result, s.Seconds)
		}
	}
	if r.Schema != fleet.DrillSchema || !r.Passed || r.Where != "demo" || len(checks) != 19 {
		t.Errorf("schema %d, passed %v, %s, %d checks", r.Schema, r.Passed, r.Where, len(checks))
	}
	for _, c := range checks {
		if c.Result != fleet.DrillPass || c.Name == "" || c.Seconds < 0 {
			t.Errorf("check %+v", c)
		}
	}
	checkTiming(t, r.Timing, 1, "git-push", "ci-notice", "ci-fetch", "evaluate", "re-key", "build", "push", "publish", "notice", "fetch", "verify", "stage", "gate", "activate", "check", "commit")
	for _, s := range r.Timing.Changes[0].Spans {
		if (s.Part == fleet.PartWaiting) != (s.Stage == "gate" || s.Stage == "check") { // the hub wakes
			t.Errorf("went to waiting, or did not: %+v", s)
		}
	}
}

// With --keep it runs until Ctrl-C, one can look around, and that is a success.
func TestKeep(t *testing.T) {
	t.Parallel()
	d := start(t, self(t), true, []string{"TERM=xterm", "NO_COLOR=1"}, "--keep")
	d.await("On the forge")
	processes := d.processes()
	shell := regexp.MustCompile(`(?m)^  ratched +(nsenter .*?)\r?$`).FindStringSubmatch(d.said())
	if shell == nil {
		t.Fatalf("no way into ratched is shown:\n%s", d.said())
	}
	cmd := exec.Command("sh", "-c", shell[1])
	cmd.Stdin = strings.NewReader("garrison status && garrison history -o json && hostname")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), " idle") || !strings.Contains(string(out), `"number": 2`) {
		t.Errorf("the shell that is shown: %v\n%s", err, out)
	}
	_ = d.cmd.Process.Signal(os.Interrupt)
	d.exit(0)
	d.leavesNothing(processes)
	if strings.Contains(d.said(), "\x1b[3") || strings.Contains(d.said(), "\x1b[1m") {
		t.Error("there is colour in spite of NO_COLOR")
	}
	if r := d.report(); !r.Passed {
		t.Errorf("the report says %+v", r)
	}
}

// However it is stopped, nothing stays behind.
func TestStopped(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signal syscall.Signal
		when   string // it has said this
		code   int
	}{
		"SIGINT while starting":    {syscall.SIGINT, "Six machines", 1},
		"SIGINT while releasing":   {syscall.SIGINT, "git push", 1},
		"SIGTERM while releasing":  {syscall.SIGTERM, "CI          evaluate", 1},
		"SIGKILL while activating": {syscall.SIGKILL, "released release-2", -1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, self(t), false, nil)
			d.await(c.when)
			processes := d.processes()
			for ; len(processes) == 0; processes = d.processes() {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(100 * time.Millisecond)
			if err := d.cmd.Process.Signal(c.signal); err != nil {
				t.Fatal(err)
			}
			d.exit(c.code)
			d.leavesNothing(processes)
			if c.code < 0 {
				return
			}
			if d.wants("garrison: stopped\n"); strings.Contains(d.said(), "context canceled") {
				t.Errorf("it tells of its inside:\n%s", d.said())
			}
			if r := d.report(); r.Passed {
				t.Errorf("the report of a demo that was stopped says %+v", r)
			}
		})
	}
}

// A host whose activation reports a success that is none does not deceive the demo.
func TestLyingHost(t *testing.T) {
	t.Parallel()
	d := start(t, garrisonWith(t, "lie"), true, []string{"TERM=dumb"})
	d.exit(6)
	if strings.Contains(d.said(), "\x1b") {
		t.Error("it draws on a dumb terminal")
	}
	d.wants("FAIL gitops-test is on each host", `says "something else\n"`, "the first release did not arrive")
	r := d.report()
	if r.Passed || len(r.Scenarios) != 1 || r.Scenarios[0].Result != fleet.DrillFail {
		t.Errorf("the report says %+v", r)
	}
}

// A program that is missing is named before anything is started.
func TestMissingProgram(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	for _, tool := range sandbox.DefaultTools {
		if program, err := exec.LookPath(tool); err == nil && tool != "age" && tool != "nix-store" {
			if err := os.Symlink(program, filepath.Join(bin, tool)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tool := range []string{"ip", "nsenter"} {
		program, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(program, filepath.Join(bin, tool)); err != nil {
			t.Fatal(err)
		}
	}
	d := start(t, self(t), false, []string{"PATH=" + bin})
	d.exit(1)
	d.wants("garrison: hosts need programs that are not in PATH: nix-store, age\n", "scripts/setup")
}

func newestNix(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("../../scripts/fetch-nix", "sid").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// The demo runs where Nix lives in /nix/store, and with the newest: on a host with that in its own store.
func TestNixInStore(t *testing.T) {
	t.Parallel()
	lan, err := sandbox.NewLAN(t.Context(), sandbox.Options{Dir: t.TempDir(), Self: self(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lan.Close(); err != nil {
			t.Error(err)
		}
	})
	machine, err := lan.Start(t.Context(), sandbox.HostOptions{
		Name: "machine", Addr: netip.MustParseAddr("192.0.2.10"),
		Binds: []sandbox.Bind{{Source: newestNix(t), Target: "/root/dist"}},
		Files: []sandbox.File{{Path: "/root/nix.nix", Data: []byte(nixInStore)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := machine.Run(t.Context(), "sh", "-euc", `
		cd /root
		nix build --impure --option sandbox false -o /root/nix -f /root/nix.nix
		nix=$(readlink /root/nix)
		PATH="$nix/bin:$PATH" garrison demo --dir /root/demo
		ls -d "/root/demo/hosts/joker$nix"
		$nix/bin/nix --version
		grep -o "agent runs.*nix=.*" /root/demo/hosts/joker/var/log/agent.log`)
	if err != nil || !strings.Contains(out, "19 of 19 checks passed") {
		t.Fatalf("%v\n%s", err, out)
	}
	version := regexp.MustCompile(`(?m)^nix \(Nix\) (\S+)$`).FindStringSubmatch(out)
	if version == nil || !strings.Contains(out, "nix="+version[1]) || strings.HasPrefix(version[1], "2.8.") {
		t.Errorf("the hosts do not use the machine's Nix %v:\n%s", version, out)
	}
}

// nixInStore makes two store paths of what fetch-nix fetched: libraries, and a nix that refers to them.
const nixInStore = `
let
  system = builtins.currentSystem;
  dist = builtins.path { path = /root/dist; name = "dist"; };
  build = name: script: derivation {
    inherit name system dist;
    builder = "/bin/sh";
    args = [ "-euc" ("PATH=/usr/bin:/bin\n" + script) ];
  };
  libraries = build "nix-libraries" "cp -r $dist/lib $out";
in
build "nix-newest" ''
  mkdir -p $out
  cp -r $dist/bin $out/bin
  chmod -R u+w $out
  cp /usr/bin/busybox $out/bin/busybox
  patchelf --set-interpreter ${libraries}/ld-linux* --set-rpath ${libraries} $out/bin/nix
''
`
