// Package proc runs other programs: bounded output, a whole process group
// that ends with its context, errors that show what the program said.
//
// It also keeps time: a Timeline in the context records for each stage how
// long it took and during how much of that another program was at work, so
// that Garrison's own share is known. Start at Run.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Cmd is a program to run.
type Cmd struct {
	Program string
	Args    []string
	Dir     string
	Env     []string // added to the environment
	Stdin   io.Reader
	// Stderr gets a copy of what the program says, line by line and redacted (see Redact).
	// That it cannot be written does not stop the program.
	Stderr io.Writer
	// MaxStdout bounds what is kept, in bytes; more is an error. 0 means 64 MiB.
	MaxStdout int
	// Keep is a file that the program has open for as long as it runs, a lock, say; nil for none.
	Keep *os.File
	// Idle runs the program, and what it starts, when nobody else has use for the processor and the disk.
	Idle bool
}

const (
	defaultMaxStdout = 64 << 20
	stderrTail       = 64 << 10
	killDelay        = 10 * time.Second
)

// Of ioprio_set(2), which the library does not have.
const (
	ioprioPgrp = 2
	ioprioIdle = 3 << 13
)

// ExitError is a program that ran and failed.
type ExitError struct {
	Program string
	Args    []string
	Code    int    // exit status; -1 when a signal ended it
	Stderr  string // the last 64 KiB
	cause   error
}

func (e *ExitError) Error() string {
	said := Redact(lastLines(e.Stderr, 12))
	if said == "" {
		return fmt.Sprintf("%s: %v", e.Program, e.cause)
	}
	return fmt.Sprintf("%s: %v: %s", e.Program, e.cause, said)
}

func (e *ExitError) Unwrap() error { return e.cause }

// Run runs c and returns its standard output. When ctx ends, the program and all
// of its process group get SIGTERM, and SIGKILL ten seconds later. Errors: the context's own,
// an *ExitError, or a fleet.Error with CodeMissingTool when there is no such program.
func Run(ctx context.Context, c Cmd) ([]byte, error) {
	limit := c.MaxStdout
	if limit == 0 {
		limit = defaultMaxStdout
	}
	out := &limited{limit: limit}
	tail := &Tail{Limit: stderrTail}
	cmd := command(ctx, c)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, out, tail
	copied := &lineCopy{to: c.Stderr}
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(tail, copied)
	}
	err := finish(ctx, c, cmd)
	copied.flush()
	var exit *ExitError
	switch {
	case err == nil:
		return out.buf.Bytes(), nil
	case out.full:
		return nil, fmt.Errorf("%s said more than %d bytes", c.Program, limit)
	case errors.As(err, &exit):
		exit.Stderr = tail.String()
	}
	return nil, err
}

// Interactive runs a program that a person works with, on the terminal that this process has: an editor.
func Interactive(ctx context.Context, c Cmd, in io.Reader, out, errout io.Writer) error {
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	cmd.Env = append(environ(), c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, errout
	return finish(ctx, c, cmd)
}

// command makes the process a session of its own, hence also a group, that ends with ctx. Without a
// controlling terminal nothing that it starts (ssh, ssh-keygen, git) can stop to ask somebody for a password.
func command(ctx context.Context, c Cmd) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.Program, c.Args...)
	cmd.Dir = c.Dir
	cmd.Env = append(environ(), c.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if c.Keep != nil {
		cmd.ExtraFiles = []*os.File{c.Keep}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killDelay
	return cmd
}

// gitLocation are the variables by which git tells a hook what repository it runs in. Garrison
// may be started by a hook, but neither git nor nix may take its repository for the one we name.
var gitLocation = []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY",
	"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_QUARANTINE_PATH", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE"}

func environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(gitLocation, name)
	})
}

// finish runs cmd, keeps the time, and names what went wrong.
func finish(ctx context.Context, c Cmd, cmd *exec.Cmd) error {
	done := timelineOf(ctx).toolStarts()
	err := cmd.Start()
	if err == nil && c.Idle {
		_ = syscall.Setpriority(syscall.PRIO_PGRP, cmd.Process.Pid, 19)
		_, _, _ = syscall.Syscall(unix.SYS_IOPRIO_SET, ioprioPgrp, uintptr(cmd.Process.Pid), ioprioIdle)
	}
	if err == nil {
		err = cmd.Wait()
	}
	done()
	if cmd.Process != nil && ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // children that outlived their leader
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Success() && ctx.Err() == nil:
		return nil // it left a child behind that keeps our pipe open, as a shared connection of ssh does
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", c.Program, context.Cause(ctx))
	case cmd.Process == nil && (errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist)):
		return fleet.Errorf(fleet.Local, fleet.CodeMissingTool, "there is no program %q here", c.Program).
			WithHint("install %s, or put it on PATH", c.Program).WithCause(err)
	case cmd.ProcessState == nil:
		return fmt.Errorf("cannot run %s: %w", c.Program, err)
	}
	return &ExitError{Program: c.Program, Args: c.Args, Code: cmd.ProcessState.ExitCode(), cause: err}
}

// RunTo is Run for a program whose output, both of it, goes to a file: no pipe ends
// in this process, so the program goes on undisturbed if this process dies.
func RunTo(ctx context.Context, out *os.File, c Cmd) error {
	cmd := command(ctx, c)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, out, out
	return finish(ctx, c, cmd)
}

// Said is what the program that failed with err said on standard error, or "". It is not redacted.
func Said(err error) string {
	var e *ExitError
	if errors.As(err, &e) {
		return e.Stderr
	}
	return ""
}

// ExitCode is the exit status in err's chain, and false if there is none.
func ExitCode(err error) (int, bool) {
	var e *ExitError
	if errors.As(err, &e) {
		return e.Code, true
	}
	return 0, false
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// limited keeps the first limit bytes, then fails.
type limited struct {
	buf   bytes.Buffer
	limit int
	full  bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > l.limit {
		l.full = true
		return 0, errors.New("too much output")
	}
	return l.buf.Write(p)
}

// Tail keeps the last Limit bytes of what is written to it.
type Tail struct {
	Limit int
	b     []byte
}

func (t *Tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - t.Limit; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string { return string(t.b) }
