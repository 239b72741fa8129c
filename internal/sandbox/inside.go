package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Command runs a program inside the host, looked up in the host's PATH, with the
// host's environment (add to Env what more it needs), in /. When ctx ends, the program
// and its process group are killed. On a host that is off, the command fails to start.
// What may be inside while the host reboots is for Run.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	leader := h.leader()
	cmd := h.commandIn(ctx, leader, name, args...)
	if leader == 0 {
		cmd.Err = h.errOff()
	}
	return cmd
}

func (h *Host) commandIn(ctx context.Context, leader int, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append(append(enterArgs(leader), name), args...)...)
	cmd.Env = h.environ()
	// nsenter forks; a group of its own reaches the child too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 2 * time.Second
	return cmd
}

// Run runs a command inside the host and returns its standard output. The error says
// what it wrote to standard error.
func (h *Host) Run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := h.Command(ctx, name, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err := cmd.Start()
	if err == nil {
		awake := keepAwake(cmd.Process)
		err = cmd.Wait()
		awake()
	}
	if err == nil {
		return out.String(), nil
	}
	e := fleet.Errorf(fleet.Local, fleet.CodeInternal, "on %s, %s failed", h.opts.Name,
		strings.Join(append([]string{name}, args...), " ")).WithCause(err)
	if text := strings.TrimSpace(said.String()); text != "" {
		e.What += ": " + text
	}
	return out.String(), e
}

// keepAwake has an nsenter go on until what it returns is called. It stops itself when its program is stopped, which a systemd does with all there is
// when it shuts down, before it kills them: nobody would fetch how the program ended, and until then its namespace, and the host's next boot, waits.
func keepAwake(nsenter *os.Process) (end func()) {
	ended := make(chan struct{})
	go func() {
		for t := time.NewTicker(200 * time.Millisecond); ; {
			select {
			case <-ended:
				t.Stop()
				return
			case <-t.C:
				_ = nsenter.Signal(unix.SIGCONT) // it may have ended
			}
		}
	}()
	return func() { close(ended) }
}

// ShellCommand is a command line that gives a person a shell in the running host.
func (h *Host) ShellCommand() string {
	return fmt.Sprintf("nsenter %s env -i PATH=%s HOME=/root TERM=$TERM sh", strings.Join(enterArgs(h.leader()), " "), h.lan.Path())
}

func enterArgs(leader int) []string {
	return []string{"-t", strconv.Itoa(leader), "-m", "-u", "-i", "-n", "-p", "--"}
}

// leader is the process whose namespaces and root are the host's: its init, or the
// systemd inside; 0 when it is off.
func (h *Host) leader() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leaderLocked()
}

func (h *Host) leaderLocked() int {
	if !h.proc.alive() {
		return 0
	}
	if h.opts.Base == "" {
		return h.proc.pid
	}
	leader, err := findLeader(h.proc.pid) // another one after each reboot from inside
	if err != nil {
		return 0
	}
	return leader
}

// Path is where a person finds a file of the host: on its disk, or, while the host
// runs, for what is not on its disk (/run, /tmp), by way of its process. It does not
// follow the host's links: use Open and its kin for that.
func (h *Host) Path(path string) string {
	path = filepath.Join("/", path)
	h.mu.Lock()
	defer h.mu.Unlock()
	if leader := h.leaderLocked(); leader != 0 && (h.opts.Base != "" || volatile(path)) {
		return fmt.Sprintf("/proc/%d/root%s", leader, path)
	}
	return filepath.Join(h.disk(), path)
}

func volatile(path string) bool {
	for _, dir := range []string{"/run", "/tmp", "/dev", "/proc", "/sys", "/usr"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return true
		}
	}
	return false
}

// Open opens a file of the host for reading, following links as the host does. It works
// on a host that is off too, for what is on its disk (with Base: what it changed of
// the base). A file that is not there is fs.ErrNotExist.
func (h *Host) Open(path string) (*os.File, error) { return h.open(path, unix.O_RDONLY) }

// ReadFile reads a file of the host.
func (h *Host) ReadFile(path string) ([]byte, error) {
	f, err := h.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// Readlink is the text of a link of the host.
func (h *Host) Readlink(path string) (string, error) {
	f, err := h.open(path, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", text)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: h.opts.Name + ":" + path, Err: err}
	}
	return string(text[:n]), nil
}

// Exists says whether the host has a file, following links.
func (h *Host) Exists(path string) (bool, error) {
	f, err := h.open(path, unix.O_PATH)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, f.Close()
}

// open resolves a path with the host's root as /, so that the host's absolute links
// lead to its own files and never to the machine's.
func (h *Host) open(path string, flags uint64) (*os.File, error) {
	root := h.disk()
	if leader := h.leader(); leader != 0 {
		root = fmt.Sprintf("/proc/%d/root", leader)
	}
	dir, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	name := h.opts.Name + ":" + path
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	for {
		fd, err := unix.Openat2(int(dir.Fd()), path, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR): // a rename came in between
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
	}
}
