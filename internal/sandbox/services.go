package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supervisor keeps the services of a host. Only the init's loop calls its methods.
type supervisor struct {
	services map[string]*service
	order    []string
	timers   chan func() // what timers want the loop to do
	stopping bool        // the host is shutting down
	killed   bool        // everything was sent SIGKILL
	others   bool        // the last look found processes besides this one
}

// service is a Service and its process.
type service struct {
	Service
	pid     int      // 0 when it does not run
	wanted  bool     // it should run; false once it was told to stop
	boots   int      // counts its starts, so that a late timer can tell
	stopped []func() // called when it has ended
}

func newSupervisor(cfg initConfig) *supervisor {
	s := &supervisor{services: map[string]*service{}, timers: make(chan func())}
	for _, spec := range cfg.Services {
		s.services[spec.Name] = &service{Service: spec}
		s.order = append(s.order, spec.Name)
	}
	return s
}

// after makes the loop call f later.
func (s *supervisor) after(d time.Duration, f func()) {
	time.AfterFunc(d, func() { s.timers <- f })
}

// start starts a service unless it runs.
func (s *supervisor) start(svc *service) error {
	if svc.pid != 0 || s.stopping {
		return nil
	}
	pid, err := spawn(svc.Service)
	if err != nil {
		return fmt.Errorf("service %s: %w", svc.Name, err)
	}
	svc.pid, svc.wanted = pid, true
	svc.boots++
	return nil
}

// stop ends a service and its process group, then calls done.
func (s *supervisor) stop(svc *service, done func()) {
	svc.wanted = false
	if svc.pid == 0 {
		done()
		return
	}
	svc.stopped = append(svc.stopped, done)
	_ = unix.Kill(-svc.pid, unix.SIGTERM)
	boot := svc.boots
	s.after(stopGrace, func() {
		if svc.pid != 0 && svc.boots == boot {
			_ = unix.Kill(-svc.pid, unix.SIGKILL)
		}
	})
}

// reap takes the exit status of every process that ended, orphans among them.
func (s *supervisor) reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		s.others = !errors.Is(err, unix.ECHILD)
		if err != nil || pid <= 0 {
			return
		}
		for _, svc := range s.services {
			if svc.pid == pid {
				s.ended(svc)
			}
		}
	}
}

func (s *supervisor) ended(svc *service) {
	svc.pid = 0
	callbacks := svc.stopped
	svc.stopped = nil
	for _, f := range callbacks {
		f()
	}
	if svc.wanted && svc.Restart {
		s.again(svc)
	}
}

// again starts a service after a while, and tries once more when that fails.
func (s *supervisor) again(svc *service) {
	s.after(restartDelay, func() {
		if svc.wanted && s.start(svc) != nil {
			s.again(svc)
		}
	})
}

// shutDown asks every process in the host to end; those that do not are killed after
// a while. The init's end then takes the rest.
func (s *supervisor) shutDown() {
	if s.stopping {
		return
	}
	s.stopping = true
	_ = unix.Kill(-1, unix.SIGTERM)
	s.after(stopGrace, func() {
		s.killed = true
		_ = unix.Kill(-1, unix.SIGKILL)
	})
	s.reap() // tells whether there is anybody to wait for
}

func (s *supervisor) finished() bool { return s.stopping && (s.killed || !s.others) }

// spawn starts a program in a session of its own with its output in the host's log.
func spawn(svc Service) (pid int, err error) {
	if len(svc.Args) == 0 {
		return 0, errors.New("it has no program")
	}
	program, err := exec.LookPath(svc.Args[0])
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(filepath.Join("/var/log", svc.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	// Not os/exec: its Wait would race with reap for the exit status.
	return syscall.ForkExec(program, svc.Args, &syscall.ProcAttr{
		Dir: "/", Env: mergeEnv(os.Environ(), svc.Env),
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
}

// mergeEnv is base with the variables of over in place of its own.
func mergeEnv(base, over []string) []string {
	merged := append([]string(nil), base...)
next:
	for _, kv := range over {
		key, _, _ := strings.Cut(kv, "=")
		for i := range merged {
			if strings.HasPrefix(merged[i], key+"=") {
				merged[i] = kv
				continue next
			}
		}
		merged = append(merged, kv)
	}
	return merged
}
