package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// bootEntry names the toplevel to boot: the example fleet's boot loader.
const bootEntry = "/boot/garrison-entry"

// Init is PID 1 of a host. It reads what the host is and then requests from stdin, and
// answers on stdout, one JSON document a line each; errors that nobody asked for go to
// stderr. It returns the exit code once the host was shut down by SIGTERM, and ends the
// process when stdin ends, which is to say: when the owner of the host is gone.
func Init(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) int {
	if os.Getpid() != 1 {
		fmt.Fprintf(stderr, "%s is what a sandbox host runs inside; it is not for people\n", InitCommand)
		return 2
	}
	in, out := json.NewDecoder(stdin), json.NewEncoder(stdout)
	var cfg initConfig
	if err := in.Decode(&cfg); err != nil {
		fmt.Fprintln(stderr, "cannot read what this host is:", err)
		return 1
	}
	requests := make(chan request)
	go func() {
		for {
			var r request
			if in.Decode(&r) != nil {
				os.Exit(1) // the owner is gone
			}
			requests <- r
		}
	}()
	m, err := newMachine(cfg)
	if err != nil {
		_ = out.Encode(reply{Error: err.Error()})
		return 1
	}
	if out.Encode(reply{}) != nil {
		return 1
	}
	return m.run(ctx, requests, out)
}

// machine is what an init runs: services, or a systemd with all that it runs.
type machine interface {
	run(ctx context.Context, requests <-chan request, out *json.Encoder) int
}

func newMachine(cfg initConfig) (machine, error) {
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return nil, fmt.Errorf("set the host name: %w", err)
	}
	if cfg.Base != "" {
		return newContainer(cfg)
	}
	if err := enterRoot(cfg); err != nil {
		return nil, err
	}
	os.Clearenv()
	for _, kv := range cfg.Env {
		key, value, _ := strings.Cut(kv, "=")
		if err := os.Setenv(key, value); err != nil {
			return nil, err
		}
	}
	return newSupervisor(cfg), nil
}

// run is the init's loop, the only one that touches services.
func (s *supervisor) run(ctx context.Context, requests <-chan request, out *json.Encoder) int {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	for !s.finished() {
		select {
		case <-children:
			s.reap()
		case f := <-s.timers:
			f()
		case r := <-requests:
			s.handle(r, func(answer reply) { _ = out.Encode(answer) })
		case <-stop:
			s.shutDown()
		case <-ctx.Done():
			s.shutDown()
			ctx = context.WithoutCancel(ctx)
		}
	}
	return 0
}

// handle does what the owner asks; answer is called once, maybe later.
func (s *supervisor) handle(r request, answer func(reply)) {
	result := func(err error) {
		if err != nil {
			answer(reply{Error: err.Error()})
			return
		}
		answer(reply{})
	}
	if r.Op == "boot" {
		result(s.boot())
		return
	}
	svc := s.services[r.Service]
	if svc == nil {
		result(fmt.Errorf("there is no service %q", r.Service))
		return
	}
	switch r.Op {
	case "pid":
		answer(reply{Pid: svc.pid})
	case "start":
		result(s.start(svc))
	case "stop":
		s.stop(svc, func() { result(nil) })
	case "restart":
		s.stop(svc, func() { result(s.start(svc)) })
	case "signal":
		if svc.pid == 0 {
			result(fmt.Errorf("service %s does not run", r.Service))
			return
		}
		result(unix.Kill(svc.pid, syscall.Signal(r.Signal)))
	default:
		result(fmt.Errorf("unknown request %q", r.Op))
	}
}

// boot activates the system that the boot entry names, as NixOS' stage 2 does, and
// starts the services. A failing activation does not keep the host from booting; it
// is told in /var/log/boot.log.
func (s *supervisor) boot() error {
	if err := s.bootSystem(); err != nil {
		return err
	}
	for _, name := range s.order {
		if err := s.start(s.services[name]); err != nil {
			return err
		}
	}
	return nil
}

func (s *supervisor) bootSystem() error {
	entry, err := os.ReadFile(bootEntry)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	toplevel := strings.TrimSpace(string(entry))
	if !strings.HasPrefix(toplevel, "/nix/store/") {
		return fmt.Errorf("%s names no store path: %q", bootEntry, toplevel)
	}
	if err := os.MkdirAll("/run/nixos", 0o755); err != nil {
		return err
	}
	if err := os.Symlink(toplevel, "/run/booted-system"); err != nil {
		return err
	}
	pid, err := spawn(Service{Name: "boot", Args: []string{filepath.Join(toplevel, "activate")}})
	if err != nil {
		return fmt.Errorf("the boot entry's system does not activate: %w", err)
	}
	for { // nobody else waits for children yet
		if _, err := unix.Wait4(pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
