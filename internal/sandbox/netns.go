package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// netns is a network namespace held by a descriptor; it has no name, so it goes when
// its last holder goes.
type netns struct{ *os.File }

// newNetns makes an empty network namespace.
func newNetns() (*netns, error) {
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	throwaway(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- result{nil, notPermitted(err)}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		done <- result{f, err}
	})
	r := <-done
	if r.err != nil {
		return nil, r.err
	}
	return &netns{r.f}, nil
}

// netnsOf opens the network namespace of a process.
func netnsOf(pid int) (*netns, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	return &netns{f}, nil
}

// do runs f on a thread inside the namespace. Sockets that f makes and processes that
// it starts are inside too; goroutines that it starts are not.
func (n *netns) do(f func() error) error {
	done := make(chan error)
	throwaway(func() {
		if err := unix.Setns(int(n.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- notPermitted(err)
			return
		}
		done <- f()
	})
	return <-done
}

// throwaway runs f on a thread that is used for nothing else and ends with f. It is never
// the main thread: that could not end, and its namespaces are what /proc shows of the process.
func throwaway(f func()) {
	go func() {
		runtime.LockOSThread() // a goroutine that ends locked takes its thread along
		if unix.Gettid() != os.Getpid() {
			f()
			return
		}
		defer runtime.UnlockOSThread()
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // another one: the main thread is taken
			f()
		}()
		<-done
	}()
}

// ip runs commands of iproute2 inside the namespace, in one process.
func (n *netns) ip(ctx context.Context, commands ...string) error {
	return n.do(func() error {
		cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fleet.Errorf(fleet.Local, fleet.CodeInternal, "ip %s: %s", strings.Join(commands, "; "),
				strings.TrimSpace(string(out))).WithCause(err)
		}
		return nil
	})
}

// dial connects from inside the namespace to a numeric address.
func (n *netns) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func notPermitted(err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EINVAL) {
		return fleet.Errorf(fleet.Local, CodeNotPermitted, "this machine allows no new namespaces").WithCause(err).
			WithHint("in a container, run it with --privileged; else look at /proc/sys/user/max_*_namespaces")
	}
	return err
}
