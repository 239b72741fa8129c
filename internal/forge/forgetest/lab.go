// Package forgetest is a real forge for tests: Gitea, with the real runner of its Actions. Forgejo has the same API and
// the same dialect of Actions.
//
// Everything runs on loopback, in folders of its own, and ends with the tests, however they end. Names of users and repositories are
// made unique, so that tests can share a forge: Start is one for one test, Lab one for all of a package. What the tests
// ask for is done through Gitea's API, and fails the test when it cannot be done. Start reading at Lab and Gitea.
package forgetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/proc/proctest"
)

// Lab is a forge that a package's tests share, started when it is first asked for. The zero value is ready; TestMain stops it when
// all tests have ended:
//
//	func TestMain(m *testing.M) { defer lab.Stop(); m.Run() }
type Lab struct {
	mu    sync.Mutex
	dir   string
	gitea *Gitea
}

// Gitea is the lab's forge.
func (l *Lab) Gitea(t testing.TB) *Gitea {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gitea == nil {
		dir, err := os.MkdirTemp("", "forgetest-")
		must(t, err)
		l.dir = dir
		g, err := newGitea(dir)
		must(t, err)
		l.gitea = g
	}
	return l.gitea
}

// Stop ends what was started and removes its files.
func (l *Lab) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gitea != nil {
		l.gitea.halt()
	}
	if l.dir != "" {
		if err := os.RemoveAll(l.dir); err != nil {
			panic(err)
		}
	}
	l.dir, l.gitea = "", nil
}

// Start starts a forge that ends with the test.
func Start(t testing.TB) *Gitea {
	t.Helper()
	lab := &Lab{}
	t.Cleanup(lab.Stop)
	return lab.Gitea(t)
}

// process is a server that runs, with all that it starts: it is the first process of a namespace, which ends with it, and it
// ends when the tests are killed.
type process struct {
	cmd    *exec.Cmd
	output *output
	ended  <-chan struct{}
}

// run starts cmd and returns when ready does without an error.
func run(cmd *exec.Cmd, ready func(context.Context) error) (*process, error) {
	p := &process{cmd: cmd, output: &output{}}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	var err error
	if p.ended, err = proctest.Start(cmd, syscall.SIGKILL); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return p, nil
		}
		select {
		case <-p.ended:
			return nil, fmt.Errorf("%s ended at once: %s", cmd.Path, p.output)
		case <-ctx.Done():
			p.stop(syscall.SIGKILL)
			return nil, fmt.Errorf("%s does not answer: %w: %s", cmd.Path, err, p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process by a signal and, after a while, by force.
func (p *process) stop(by syscall.Signal) {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(by) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// output keeps the end of what a process says.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const maxOutput = 1 << 20 // bytes

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > maxOutput {
		o.buf.Next(o.buf.Len() / 2)
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// freeAddress is an address of loopback that nobody listened on just now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// fetched is the path that one of the project's scripts prints of what it fetched.
func fetched(script string) (string, error) {
	root, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == "/" {
			return "", errors.New("there is no go.mod here or above")
		}
		root = filepath.Dir(root)
	}
	cmd := exec.Command(filepath.Join(root, "scripts", script))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", script, err, stderr.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// unique makes a name that no other test has.
func unique(name string) string { return name + "-" + strings.ToLower(rand.Text()[:8]) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// readAll reads at most 64 MiB.
func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 64<<20)) }

// await calls f until it is true, or a minute has gone.
func await(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("this does not happen: %s", what)
		}
	}
}
