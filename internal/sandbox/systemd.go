package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// container is the machine of a host with a systemd: this init only keeps
// systemd-nspawn, with the overlay that is the host's root in a mount namespace that
// ends with it.
type container struct {
	args  []string
	log   *os.File
	nspid int // of systemd-nspawn; 0 while it does not run
	begun bool
}

// rebootExit is how systemd-nspawn ends when the system inside wants to reboot.
const rebootExit = 133

// newContainer mounts the host's root: Base below, what the host keeps above.
func newContainer(cfg initConfig) (machine, error) {
	program, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		return nil, err
	}
	root := filepath.Join(cfg.Root, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	b := &rootBuilder{root: "/"}
	b.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	b.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	b.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755") // nspawn keeps locks there
	b.mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s",
		cfg.Base, filepath.Join(cfg.Root, "upper"), filepath.Join(cfg.Root, "work")))
	if b.err != nil {
		return nil, b.err
	}
	log, err := os.OpenFile(filepath.Join(cfg.Root, "console.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	args := []string{program, "--quiet", "--directory=" + root, "--boot", "--machine=" + cfg.Name, "--hostname=" + cfg.Hostname,
		"--register=no", "--keep-unit", "--network-namespace-path=/proc/1/ns/net", "--capability=CAP_NET_ADMIN", // of its own network
		"--console=pipe", "--resolv-conf=off", "--timezone=off"}
	for _, bind := range cfg.Binds {
		kind := "--bind-ro="
		if bind.Writable {
			kind = "--bind="
		}
		args = append(args, kind+bind.Source+":"+bind.Target)
	}
	return &container{args: args, log: log}, nil
}

// run is the init's loop. It ends when the system inside was shut down.
func (c *container) run(ctx context.Context, requests <-chan request, out *json.Encoder) int {
	defer c.log.Close()
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	for {
		select {
		case <-children:
			if status, ended := c.reap(); ended {
				if status.ExitStatus() != rebootExit {
					return 0
				}
				if err := c.start(); err != nil {
					fmt.Fprintln(c.log, "cannot boot again:", err)
					return 1
				}
			}
		case r := <-requests:
			_ = out.Encode(c.handle(r))
		case <-stop:
			if !c.begun {
				return 0
			}
			_ = unix.Kill(c.nspid, unix.SIGTERM) // an orderly shutdown of the system inside
		case <-ctx.Done():
			return 0
		}
	}
}

func (c *container) handle(r request) reply {
	if r.Op != "boot" {
		return reply{Error: "services of a host with systemd are its units"}
	}
	if err := c.start(); err != nil {
		return reply{Error: err.Error()}
	}
	return reply{}
}

func (c *container) start() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	c.nspid, err = syscall.ForkExec(c.args[0], c.args, &syscall.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []uintptr{null.Fd(), c.log.Fd(), c.log.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true},
	})
	c.begun = err == nil
	return err
}

// reap takes the exit status of every child that ended, and says whether nspawn did.
func (c *container) reap() (result unix.WaitStatus, ended bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || pid <= 0:
			return result, ended
		case pid == c.nspid:
			c.nspid, result, ended = 0, status, true
		}
	}
}
