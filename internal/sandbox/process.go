package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is the init of a running host, as its owner sees it.
type process struct {
	cmd     *exec.Cmd
	pid     int
	in      io.WriteCloser
	replies chan reply // closed when the init ends
	log     string     // where it wrote its errors
	done    chan struct{}
}

const hostNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC

// forkLoop starts inits on one thread. The kernel sends an init its SIGKILL when the
// thread that started it ends, so that thread must live as long as the LAN.
func (l *LAN) forkLoop() {
	runtime.LockOSThread() // and never unlocked
	for f := range l.forks {
		f()
	}
}

// onForkThread runs f where forkLoop does, unless the LAN is closed.
func (l *LAN) onForkThread(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.New("the LAN is closed")
	}
	done := make(chan error)
	l.forks <- func() { done <- f() }
	return <-done
}

// fork starts an init in namespaces of its own and tells it its configuration.
func (l *LAN) fork(cfg initConfig, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(l.opts.Self, InitCommand)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH"))
	cmd.Stderr = log
	// A group of its own: Ctrl-C on a terminal is for the owner, who then ends the host.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: hostNamespaces, Pdeathsig: syscall.SIGKILL, Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := l.onForkThread(cmd.Start); err != nil {
		return nil, notPermitted(err)
	}
	p := &process{
		cmd: cmd, pid: cmd.Process.Pid, in: in,
		replies: make(chan reply), log: logFile, done: make(chan struct{}),
	}
	go p.read(out)
	if err := json.NewEncoder(in).Encode(cfg); err != nil {
		p.kill()
		return nil, p.explain(err)
	}
	return p, nil
}

// read hands on replies until the init ends, then reaps it.
func (p *process) read(out io.Reader) {
	for d := json.NewDecoder(out); ; {
		var r reply
		if d.Decode(&r) != nil {
			break
		}
		p.replies <- r
	}
	_ = p.cmd.Wait()
	close(p.done)
	close(p.replies)
}

// alive says whether the init runs; a nil process does not.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// hello waits for the init's word that the root is built.
func (p *process) hello(ctx context.Context) error {
	_, err := p.answer(ctx)
	return err
}

// call asks the init for something and waits for the answer. A call that ctx cut short
// leaves the init unusable, so it is killed.
func (p *process) call(ctx context.Context, r request) (reply, error) {
	if err := json.NewEncoder(p.in).Encode(r); err != nil {
		return reply{}, p.explain(err)
	}
	return p.answer(ctx)
}

func (p *process) answer(ctx context.Context) (reply, error) {
	select {
	case r, ok := <-p.replies:
		switch {
		case !ok:
			return reply{}, p.explain(errors.New("its init ended"))
		case r.Error != "":
			return reply{}, errors.New(r.Error)
		}
		return r, nil
	case <-ctx.Done():
		p.kill()
		return reply{}, context.Cause(ctx)
	}
}

// explain adds the last line of what the init wrote to its log.
func (p *process) explain(err error) error {
	f, openErr := os.Open(p.log)
	if openErr != nil {
		return err
	}
	defer f.Close()
	var last string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" {
			last = line
		}
	}
	if last == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, last)
}

// terminate asks the init to shut down and waits for its end, or ctx's.
func (p *process) terminate(ctx context.Context) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-ctx.Done():
	}
}

// kill ends the init and with it everything in its namespaces, and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	for range p.replies { // an unread one would hold up the reader
	}
	_ = p.in.Close()
	<-p.done
}

func signalNumber(sig os.Signal) (int, bool) {
	s, ok := sig.(syscall.Signal)
	return int(s), ok
}
