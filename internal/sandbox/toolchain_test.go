package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestToolchain holds where Nix lives in /usr and where it lives in /nix/store:
// TestNixInStore runs it there.
func TestToolchain(t *testing.T) {
	lan := newTestLAN(t)
	h := startHost(t, lan, HostOptions{Name: "h", Addr: addr(10)})
	program, err := exec.LookPath("nix")
	if err != nil {
		t.Fatal(err)
	}
	if real, err := filepath.EvalSymlinks(program); err != nil {
		t.Fatal(err)
	} else if strings.HasPrefix(real, storeDir) {
		program = real
	}
	t.Logf("hosts use %s", program)
	if got := run(t, h, "command -v nix"); got != program {
		t.Errorf("the host's nix is %s, the machine's %s", got, program)
	}
	want, err := h.lan.tools.closure(t)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(run(t, h, "ls /nix/store | sed s,^,/nix/store/, ; nix path-info --all >/tmp/valid"))
	got = slices.DeleteFunc(got, func(p string) bool { return p == storeDir+".links" })
	if !slices.Equal(got, want) {
		t.Errorf("the host's store has %v, want %v", got, want)
	}
	if valid := strings.Fields(run(t, h, "sort /tmp/valid")); !slices.Equal(valid, want) {
		t.Errorf("valid in the host's store are %v, want %v", valid, want)
	}
	if len(want) > 0 {
		run(t, h, "nix-store --verify --check-contents")
	}
}

// closure is what the machine says that hosts need of its store, sorted.
func (t *Toolchain) closure(tb testing.TB) ([]string, error) {
	if len(t.Roots) == 0 {
		return []string{}, nil
	}
	paths := strings.Fields(onMachine(tb, "", "nix-store", append([]string{"-qR"}, t.Roots...)...))
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// The tests above hold on a machine whose Nix is in /nix/store: a host that gets the
// newest Nix into its own store is that machine.
func TestNixInStore(t *testing.T) {
	dist := onMachine(t, "", "../../scripts/fetch-nix", "sid")
	examples, err := filepath.Abs("../../examples")
	if err != nil {
		t.Fatal(err)
	}
	lan := newTestLAN(t)
	machine := startHost(t, lan, HostOptions{
		Name: "machine", Addr: addr(10),
		Binds: []Bind{{Source: dist, Target: "/root/dist"}, {Source: examples, Target: "/root/src/examples"}},
		Files: []File{{Path: "/root/nix.nix", Data: []byte(nixInStore)}},
	})
	nix := run(t, machine, `nix build --impure --option sandbox false -o /root/nix -f /root/nix.nix; readlink /root/nix`)
	if got := run(t, machine, "nix-store -qR "+nix+" | wc -l"); got != "2" {
		t.Errorf("the closure of that Nix has %s paths", got)
	}
	unrelated := run(t, machine, "nix store add-path --name unrelated /root/src/examples")
	cmd := machine.Command(testContext(t), "sh", "-c", `
		mkdir -p /root/src/internal/sandbox; cd /root/src/internal/sandbox
		PATH="$1/bin:$PATH" exec garrison -test.v -test.run '^(TestToolchain|TestIsolation|TestExample.*)$'`, "sh", nix)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"--- PASS: TestToolchain", "--- PASS: TestExampleFleet", "hosts use " + nix + "/bin/nix"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v; no %q in:\n%s", err, want, out)
		}
	}
	if strings.Contains(string(out), unrelated) {
		t.Errorf("a host got %s", unrelated)
	}
	if _, err := os.Stat(nix); err == nil {
		t.Errorf("%s is on the machine itself", nix)
	}
}

// nixInStore makes two store paths of what fetch-nix fetched: libraries, and a nix that
// refers to them.
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
