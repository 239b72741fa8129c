package activate

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/garrison-nix/garrison/internal/proc"
)

const (
	maxSaid   = 2 << 10 // bytes of what a command said that are told
	endTime   = time.Second
	endRounds = 20 // looks for what a command left behind
)

// marker is a variable in the environment of a request's commands, by which everything they start is found again.
func marker(id string) string { return "GARRISON_CHECK=" + id }

// runCommand runs a check's program with nothing of this process's environment, and ends it with ctx. Whatever it started and
// left behind ends with it.
func runCommand(ctx context.Context, argv []string, mark string) error {
	said := &proc.Tail{Limit: maxSaid}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/run/current-system/sw/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "USER=root", "LOGNAME=root", "LANG=C.UTF-8", mark}
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		endAll(cmd.Process.Pid, mark)
		return nil
	}
	cmd.WaitDelay = endTime
	err := cmd.Run()
	if cmd.Process != nil {
		endAll(0, mark)
	}
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("%s was killed: %w", argv[0], context.Cause(ctx))
	case err == nil || cmd.ProcessState != nil && cmd.ProcessState.Success():
		return nil
	case cmd.ProcessState != nil:
		err = fmt.Errorf("%s: %w", argv[0], err)
	}
	if text := strings.TrimSpace(strings.ToValidUTF8(said.String(), "")); text != "" {
		err = fmt.Errorf("%w\n%s", err, text)
	}
	return err
}

// endAll kills a process (0 for none), what descends from it, and everything marked, until nothing of it is left.
func endAll(pid int, mark string) {
	for range endRounds {
		left := family(pid, mark)
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			_ = syscall.Kill(p, syscall.SIGKILL)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// family finds the living processes that are root, descend from one of the family, or have the mark in their environment.
func family(root int, mark string) []int {
	parents, of := map[int]int{}, map[int]bool{}
	entries, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range entries {
		pid, err := strconv.Atoi(filepath.Base(dir))
		parent, alive := parentOf(dir)
		if err != nil || !alive || pid == os.Getpid() {
			continue
		}
		parents[pid] = parent
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		of[pid] = pid == root || bytes.Contains(append([]byte{0}, env...), []byte("\x00"+mark+"\x00"))
	}
	for grown := true; grown; {
		grown = false
		for pid, parent := range parents {
			if of[parent] && !of[pid] {
				of[pid], grown = true, true
			}
		}
	}
	var all []int
	for pid, is := range of {
		if is {
			all = append(all, pid)
		}
	}
	return all
}

// parentOf reads a process's stat; a zombie is not alive.
func parentOf(dir string) (parent int, alive bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // its name may hold anything
	if len(fields) < 2 || fields[0] == "Z" || fields[0] == "X" {
		return 0, false
	}
	parent, err = strconv.Atoi(fields[1])
	return parent, err == nil
}
