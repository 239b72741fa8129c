package cli

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
)

// canary is a secret's value that must be seen nowhere.
const canary = "GARRISON-CANARY-4f1c"

// canaryCmd FILE RECIPIENT encrypts the canary, and from then on has git and nix look around whenever they are called.
func canaryCmd(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command("age", "-R", ts.MkAbs(args[1]), "-o", ts.MkAbs(args[0]))
	cmd.Stdin = strings.NewReader(canary + "\n")
	ts.Check(cmd.Run())
	work := ts.Getenv("WORK")
	shims := filepath.Join(work, ".shims")
	if os.Mkdir(shims, 0o755) != nil {
		return // they are there
	}
	ts.Check(os.WriteFile(filepath.Join(work, ".pattern"), []byte(canary+"\n"), 0o600))
	for _, program := range []string{"git", "nix"} {
		real, err := exec.LookPath(program)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(shims, program), fmt.Appendf(nil, `#!/bin/sh
echo %[1]s >> %[2]s/.looked
{ printf '%%s\n' "$@"; env; } | grep -qf %[2]s/.pattern && echo "%[1]s is told the secret: $1 $2 $3" >> %[2]s/.leaks
%[2]s/look "%[1]s $3"
exec %[3]s "$@"
`, program, work, real), 0o755))
	}
	ts.Check(os.WriteFile(filepath.Join(work, "look"), fmt.Appendf(nil, `#!/bin/sh
grep -rqf %[1]s/.pattern %[1]s/fleet %[1]s/.tmp %[1]s/.cache %[1]s/.hub 2> /dev/null && echo "a file has the secret: $1" >> %[1]s/.leaks
exit 0
`, work), 0o755))
	ts.Setenv("PATH", shims+":"+ts.Getenv("PATH"))
}

// quietly CODE PROGRAM ARGS... runs a program that must exit with CODE, and wants the canary neither in what it says nor in the
// arguments or environment of any process meanwhile, nor in a file or git object.
func quietly(ts *testscript.TestScript, neg bool, args []string) {
	ended := make(chan struct{})
	var seen string
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			if s := inProcesses(); s != "" {
				seen = s
				return
			}
			select {
			case <-ended:
				return
			default:
			}
		}
	})
	exits(ts, neg, args)
	close(ended)
	wg.Wait()
	work := ts.Getenv("WORK")
	for _, repo := range []string{"fleet/.git", "origin.git"} {
		objects, err := exec.Command(ts.Getenv("GIT"), "--git-dir", filepath.Join(work, repo), "cat-file", "--batch-all-objects", "--batch").Output()
		ts.Check(err)
		if bytes.Contains(objects, []byte(canary)) {
			seen += " an object in " + repo
		}
	}
	for _, said := range []string{"stdout", "stderr"} {
		if strings.Contains(ts.ReadFile(said), canary) {
			seen += " " + said
		}
	}
	ts.Check(filepath.WalkDir(work, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || filepath.Base(path) == ".pattern" || strings.Contains(path, "/.store/") {
			return nil
		}
		if data, err := os.ReadFile(path); err == nil && bytes.Contains(data, []byte(canary)) {
			seen += " " + path
		}
		return nil
	}))
	if leaks, err := os.ReadFile(filepath.Join(work, ".leaks")); err == nil {
		seen += " " + string(leaks)
	}
	if seen != "" {
		ts.Fatalf("the secret was seen:%s", seen)
	}
}

// inProcesses says which process has the canary in its arguments or environment.
func inProcesses() string {
	for _, what := range []string{"cmdline", "environ"} {
		names, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, []byte(canary)) {
				return " " + name + " " + strings.ReplaceAll(string(data[:min(len(data), 200)]), "\x00", " ")
			}
		}
	}
	return ""
}
