package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/garrison-nix/garrison/internal/git/gittest"
	"github.com/garrison-nix/garrison/internal/sandbox"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"garrison": func() {
		os.Exit(Main(os.Args[1:], Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
	}})
}

// TestScript runs testdata/script/*.txtar with the real command, real git and real Nix with a
// store of each script's own. Besides testscript's commands there are those in scriptCommands.
func TestScript(t *testing.T) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	if busybox, err = filepath.EvalSymlinks(busybox); err != nil {
		t.Fatal(err)
	}
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update, Cmds: scriptCommands,
		Setup: func(e *testscript.Env) error {
			for k, v := range map[string]string{
				"HOME": e.WorkDir, "XDG_CACHE_HOME": filepath.Join(e.WorkDir, ".cache"),
				"NIX_REMOTE": "local?root=" + filepath.Join(e.WorkDir, ".store"),
				"NIX_CONFIG": sandbox.NixConf(busybox, nil, nil), "NIX_CONF_DIR": e.WorkDir,
				"GIT_CONFIG_NOSYSTEM": "1", "NO_COLOR": "1", "TZ": "UTC",
				"GORACE":          "atexit_sleep_ms=0", // the race detector's pause at each command's end
				"GIT_AUTHOR_NAME": "Editor", "GIT_AUTHOR_EMAIL": "editor@example.org",
				"GIT_COMMITTER_NAME": "Editor", "GIT_COMMITTER_EMAIL": "editor@example.org",
				"SSL_CERT_FILE": os.Getenv("SSL_CERT_FILE"), "NIX_SSL_CERT_FILE": os.Getenv("NIX_SSL_CERT_FILE"),
			} {
				e.Setenv(k, v)
			}
			bin, _, _ := strings.Cut(e.Getenv("PATH"), string(os.PathListSeparator))
			e.Setenv("GARRISON", filepath.Join(bin, "garrison"))
			e.Setenv("GIT", git)
			e.Values[hubKey{}], e.Values[ciKey{}] = &hubProcess{killed: map[*exec.Cmd]bool{}}, &ciProcess{}
			return nil
		},
	})
}

var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits": exits, "complains": complains, "fleet": fleetCmd, "hub": hubCmd, "schema": schema, "wants": wants, "until": until, "sshd": sshdCmd, "canary": canaryCmd, "quietly": quietly,
	"frail": frail, "sentonce": sentOnce, "caches": cachesCmd, "get": get, "newest": newestNix, "example": exampleCmd,
	"says": says, "ran": ran, "proofread": proofread, "ci": ciCmd, "dies": dies, "ends": ends,
}

// exits CODE PROGRAM ARGS... runs a program and wants that exit code.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits with %d, not %d:\n%s%s", strings.Join(args[1:], " "), got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

// progress is what release and the daemons say besides: stages, log lines, and other programs' words.
var progress = regexp.MustCompile(`(?m)^([a-z-]+ +[0-9.]+ s|build +.* ended|log +/.*|time=.*|  \| .*)\n`)

var update = flag.Bool("update", false, "write what scripts complain of into the scripts")

// endsOn is what is said of a token that ends soon.
var endsOn = regexp.MustCompile(`ends on [0-9-]+`)

// complains FILE wants standard error to be FILE, in which $WORK, $HUB and $ADDRESS stand for their values, and $DAY for when a token ends;
// progress does not count.
func complains(ts *testscript.TestScript, _ bool, args []string) {
	got := progress.ReplaceAllString(ts.ReadFile("stderr"), "")
	for _, name := range []string{"HUB", "CACHES", "ADDRESS", "WORK"} {
		if v := ts.Getenv(name); v != "" {
			got = strings.ReplaceAll(got, v, "$"+name)
		}
	}
	got = endsOn.ReplaceAllString(got, "ends on $$DAY")
	want := ts.ReadFile(args[0])
	switch {
	case got == want:
	case *update:
		ts.Check(rewrite(filepath.Join("testdata/script", ts.Name()+".txtar"), filepath.Base(args[0]), got))
	default:
		ts.Fatalf("it complains\n%s\nand should complain\n%s", got, want)
	}
}

// rewrite gives a file in a script another content.
func rewrite(script, name, content string) error {
	a, err := txtar.ParseFile(script)
	if err != nil {
		return err
	}
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(content)
		}
	}
	return os.WriteFile(script, txtar.Format(a), 0o644)
}

// schema N KEYS... wants standard output to be a JSON object with "schema": N and those keys.
func schema(ts *testscript.TestScript, _ bool, args []string) {
	var got map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &got))
	if fmt.Sprint(got["schema"]) != args[0] {
		ts.Fatalf("the schema is %v", got["schema"])
	}
	for _, key := range args[1:] {
		if _, there := got[key]; !there {
			ts.Fatalf("there is no %q in %v", key, got)
		}
	}
}

// wants FILE TEXT waits until TEXT is in FILE.
func wants(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		b, err := os.ReadFile(ts.MkAbs(args[0]))
		if err == nil && bytes.Contains(b, []byte(args[1])) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%q does not come into %s: %v\n%s", args[1], args[0], err, b)
		}
	}
}

// until TEXT PROGRAM ARGS... runs a program again and again until it prints TEXT.
func until(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_ = ts.Exec(args[1], args[2:]...)
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("%q does not come", args[0])
		}
	}
}

// minimalFlake is a fleet of two hosts without secrets, in one file.
const minimalFlake = `{
  outputs = { self }:
    let
      host = name: {
        config.system.build.toplevel = derivation {
          name = "nixos-system-${name}";
          system = SYSTEM;
          builder = "/bin/sh";
          args = [ "-c" "mkdir $out; echo ${name} ${builtins.readFile ./text} > $out/name" ];
        };
      };
    in { nixosConfigurations = { joker = host "joker"; ursula = host "ursula"; }; };
}
`

// fleetCmd makes $WORK/fleet, a clone of $WORK/origin.git with a commit of minimalFlake on main, and
// $WORK/key and $WORK/other-key, which may sign releases and may not.
func fleetCmd(ts *testscript.TestScript, _ bool, _ []string) {
	work := ts.Getenv("WORK")
	ts.Check(os.MkdirAll(filepath.Join(work, "fleet"), 0o755))
	for name, text := range map[string]string{
		"fleet/flake.nix": strings.ReplaceAll(minimalFlake, "SYSTEM", strconv.Quote(nixSystem())), "fleet/text": "first",
	} {
		ts.Check(os.WriteFile(filepath.Join(work, name), []byte(text), 0o644))
	}
	for _, args := range [][]string{
		{"git", "init", "--quiet", "--bare", "--initial-branch=main", work + "/origin.git"},
		{"git", "init", "--quiet", "--initial-branch=main", work + "/fleet"},
		{"git", "-C", work + "/fleet", "remote", "add", "origin", work + "/origin.git"},
		{"git", "-C", work + "/fleet", "add", "--all"},
		{"git", "-C", work + "/fleet", "commit", "--quiet", "--message", "The fleet"},
		{"git", "-C", work + "/fleet", "push", "--quiet", "origin", "main"},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "release", "-f", work + "/key"},
		{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "other", "-f", work + "/other-key"},
	} {
		ts.Check(ts.Exec(args[0], args[1:]...))
	}
	pub, err := os.ReadFile(filepath.Join(work, "key.pub"))
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(work, "signers"), append([]byte("garrison "), pub...), 0o644))
}

// sshdCmd NAME KEYS... answers by a real sshd with those host keys, and sets NAME to its address.
func sshdCmd(ts *testscript.TestScript, _ bool, args []string) {
	var keys []string
	for _, k := range args[1:] {
		keys = append(keys, ts.MkAbs(k))
	}
	address, stop, err := gittest.SSHD(keys)
	ts.Check(err)
	ts.Defer(func() { ts.Check(stop()) })
	ts.Setenv(args[0], address)
}

// newestNix puts the newest Nix that Debian has before the system's.
func newestNix(ts *testscript.TestScript, _ bool, _ []string) {
	dir, err := exec.Command("../../scripts/fetch-nix", "sid").Output()
	ts.Check(err)
	ts.Setenv("PATH", filepath.Join(strings.TrimSpace(string(dir)), "bin")+string(os.PathListSeparator)+ts.Getenv("PATH"))
}

// nixSystem is this machine's system, as Nix calls it.
func nixSystem() string {
	if runtime.GOARCH == "arm64" {
		return "aarch64-linux"
	}
	return "x86_64-linux"
}
