package drill_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cli"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// The test binary is garrison too: called with anything but test flags, it is the command. A
// copy of it with faultMark and a name at its end is a garrison with that fault.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(m.Run())
	}
	if os.Args[1] == "agent" && fault() == "corrects" {
		const file, line = "/etc/garrison/agent.toml", "onDrift = \"correct\"\n"
		if text, err := os.ReadFile(file); err == nil && !strings.HasPrefix(string(text), line) {
			_ = os.WriteFile(file, append([]byte(line), text...), 0o644)
		}
	}
	code := cli.Main(os.Args[1:], cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	if os.Args[1] == "activate" && fault() == "lie" {
		// This helper has reported a success. What it did is not what was asked for.
		_ = os.Remove("/etc/gitops-test")
		_ = os.WriteFile("/etc/gitops-test", []byte("something else\n"), 0o644)
	}
	os.Exit(code)
}

const faultMark = "\x00garrison with a fault: "

// fault is this binary's, "" for a healthy one.
func fault() string {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return ""
	}
	defer f.Close()
	end := make([]byte, 64)
	if _, err := f.Seek(-int64(len(end)), io.SeekEnd); err != nil {
		return ""
	}
	if _, err := io.ReadFull(f, end); err != nil {
		return ""
	}
	_, name, _ := bytes.Cut(end, []byte(faultMark))
	return string(name)
}

// garrisonWith is a copy of the command with a fault.
func garrisonWith(t *testing.T, fault string) string {
	t.Helper()
	program, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "garrison")
	if err := os.WriteFile(file, append(program, faultMark+fault...), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func self(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// demo is a running `garrison demo`.
type demo struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	done chan struct{}

	mu  sync.Mutex
	out bytes.Buffer
}

// start runs `garrison demo`, on a terminal or not. It ends with the test at the latest.
func start(t *testing.T, program string, terminal bool, env []string, args ...string) *demo {
	t.Helper()
	return begin(t, program, terminal, env, "demo", args...)
}

// begin starts a command with a folder of its own.
func begin(t *testing.T, program string, terminal bool, env []string, command string, args ...string) *demo {
	t.Helper()
	d := &demo{t: t, dir: filepath.Join(t.TempDir(), "demo"), done: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	d.cmd = exec.CommandContext(ctx, program, append([]string{command, "--dir", d.dir}, args...)...)
	d.cmd.Env = append(os.Environ(), env...)
	ours, theirs := pipe(t, terminal)
	d.cmd.Stdout, d.cmd.Stderr = theirs, theirs
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	go func() {
		_, _ = io.Copy(d, ours) // a terminal ends with an error
		_ = d.cmd.Wait()
		close(d.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-d.done
		_ = ours.Close()
	})
	return d
}

// pipe is a pipe, or a terminal with its far end.
func pipe(t *testing.T, terminal bool) (ours, theirs *os.File) {
	t.Helper()
	if !terminal {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		return r, w
	}
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	err = errors.Join(err, unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}

func (d *demo) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.Write(p)
}

func (d *demo) said() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.out.String()
}

// await waits until the demo has said something.
func (d *demo) await(what string) {
	d.t.Helper()
	for !strings.Contains(d.said(), what) {
		select {
		case <-d.done:
			if !strings.Contains(d.said(), what) {
				d.t.Fatalf("it ended and never said %q:\n%s", what, d.said())
			}
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// exit waits for the end and wants an exit code, and that the race detector has nothing to say of
// any of the processes.
func (d *demo) exit(want int) {
	d.t.Helper()
	<-d.done
	logs, err := filepath.Glob(d.dir + "/hosts/*/var/log/*.log")
	if err != nil {
		d.t.Fatal(err)
	}
	for _, log := range logs {
		if text, err := os.ReadFile(log); err != nil || bytes.Contains(text, []byte("DATA RACE")) {
			d.t.Errorf("%s: %v\n%s", log, err, text)
		}
	}
	if got := d.cmd.ProcessState.ExitCode(); got != want {
		d.t.Fatalf("exit code %d, want %d:\n%s", got, want, d.said())
	}
}

// report reads report.json.
func (d *demo) report() fleet.DrillReport {
	d.t.Helper()
	var r fleet.DrillReport
	data, err := os.ReadFile(filepath.Join(d.dir, "report.json"))
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// wants looks for texts in what it said.
func (d *demo) wants(texts ...string) {
	d.t.Helper()
	for _, text := range texts {
		if !strings.Contains(d.said(), text) {
			d.t.Errorf("it does not say %q:\n%s", text, d.said())
		}
	}
}

// processes are the demo's descendants that are in a namespace of its making: pid → when it was started (proc(5), field 22).
func (d *demo) processes() map[int]string {
	found := map[int]string{}
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	for _, pid := range descendants(d.cmd.Process.Pid) {
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if began := startOf(pid); err == nil && theirs != ours && began != "" {
			found[pid] = began
		}
	}
	return found
}

// startOf tells a process from a later one with the same number; "" when there is none.
func startOf(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:])) // from field 3 on
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func descendants(of int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		var pid, parent int
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it ended
		}
		rest := string(data[bytes.LastIndexByte(data, ')')+1:])
		if _, err := fmt.Sscanf(string(data), "%d", &pid); err != nil {
			continue
		}
		var state string
		if _, err := fmt.Sscanf(rest, " %s %d", &state, &parent); err == nil {
			children[parent] = append(children[parent], pid)
		}
	}
	var all []int
	for next := children[of]; len(next) > 0; next = next[1:] {
		all = append(all, next[0])
		next = append(next, children[next[0]]...)
	}
	return all
}

// leavesNothing waits until none of the demo's processes is there, nor any other that has to do with its folder. Namespaces and the mounts in them
// are gone with the last process; their numbers tell nothing, because the kernel gives them to others at once.
func (d *demo) leavesNothing(processes map[int]string) {
	d.t.Helper()
	if len(processes) == 0 {
		d.t.Fatal("no processes were seen")
	}
	var left []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if left = d.left(processes); len(left) == 0 {
			return
		}
	}
	d.t.Errorf("left behind: %v", left)
}

// left are processes of the demo's, by what was seen of them before, their command line, or what they have mounted.
func (d *demo) left(processes map[int]string) (left []string) {
	for pid, began := range processes {
		if startOf(pid) == began {
			left = append(left, fmt.Sprintf("process %d", pid))
		}
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/mountinfo"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), d.dir) {
				left = append(left, file)
			}
		}
	}
	return left
}
