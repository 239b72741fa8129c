package cachetest

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

// Lab is servers that a package's tests share, each started when first asked for, on free ports of loopback. They are
// real: a PostgreSQL and an S3 server. The zero value is ready; TestMain stops it when all tests have ended:
//
//	func TestMain(m *testing.M) { defer lab.Stop(); m.Run() }
type Lab struct {
	mu       sync.Mutex
	dir      string
	servers  []*process
	postgres *postgresServer
	s3       *s3Server
}

// Stop ends what was started and removes its files.
func (l *Lab) Stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.servers {
		p.stop()
	}
	if l.dir != "" {
		if err := os.RemoveAll(l.dir); err != nil {
			panic(err)
		}
	}
	l.dir, l.servers, l.postgres, l.s3 = "", nil, nil, nil
}

// folder makes a folder of that name, which its owner and the servers can use.
func (l *Lab) folder(name string) (string, error) {
	if l.dir == "" {
		dir, err := os.MkdirTemp("", "cachetest-")
		if err != nil {
			return "", err
		}
		l.dir = dir
		if err := os.Chmod(dir, 0o711); err != nil {
			return "", err
		}
	}
	dir := filepath.Join(l.dir, name)
	return dir, os.Mkdir(dir, 0o700)
}

// process is a server that runs. It does not outlive the tests, not even those that are killed.
type process struct {
	cmd    *exec.Cmd
	end    os.Signal // what makes it end at once, in order
	output *bytes.Buffer
	ended  <-chan struct{}
}

// start runs cmd until ready returns nil.
func (l *Lab) start(cmd *exec.Cmd, end syscall.Signal, ready func(context.Context) error) error {
	p := &process{cmd: cmd, end: end, output: &bytes.Buffer{}}
	cmd.Stdout, cmd.Stderr = p.output, p.output
	var err error
	if p.ended, err = proctest.Start(cmd, end); err != nil {
		return err
	}
	l.servers = append(l.servers, p)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended at once: %s", cmd.Path, p.output)
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", cmd.Path, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(p.end) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

// freePort is a port of loopback that nobody listened on just now.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port, l.Close()
}

// onFreePort calls start with another port while it fails: somebody else may have been quicker.
func onFreePort(start func(port string) error) error {
	var errs error
	for range 3 {
		port, err := freePort()
		if err == nil {
			err = start(port)
		}
		if err == nil {
			return nil
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// fetched is the path that one of the project's scripts prints of what it fetched.
func fetched(script string) (string, error) {
	root, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		if root == "/" {
			return "", fmt.Errorf("there is no go.mod here or above")
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

// unique is a name that no other test has.
func unique() string { return "t" + strings.ToLower(rand.Text()) }

// Proxy is a TCP server on loopback in front of another, that can be told to break what passes through it.
type Proxy struct {
	Address string

	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
	mode   ProxyMode
}

// ProxyMode is what a Proxy does with connections.
type ProxyMode int

// The modes of a Proxy.
const (
	Passing  ProxyMode = iota // everything
	Refusing                  // new connections are closed, those that are open were broken
	Silent                    // connections stay open, and nothing comes through any more
)

// NewProxy starts a proxy in front of target, a host and port.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &Proxy{Address: l.Addr().String(), target: target, conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.Set(Refusing)
		all.Wait()
	})
	return p
}

// Set changes what the proxy does from now on.
func (p *Proxy) Set(mode ProxyMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mode = mode
	if mode == Refusing {
		for c := range p.conns {
			_ = c.Close()
		}
	}
}

func (p *Proxy) now() ProxyMode {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode
}

// hold notes a connection that Set may have to break; false if it must not be.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return p.mode != Refusing
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) serve(c net.Conn) {
	defer p.drop(c)
	if !p.hold(c) {
		return
	}
	up, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer p.drop(up)
	if !p.hold(up) {
		return
	}
	done := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{c, up}, {up, c}} {
		go func() {
			_, _ = io.Copy(passing{way[0], p}, way[1])
			done <- struct{}{}
		}()
	}
	<-done
	_, _ = c.Close(), up.Close()
	<-done
}

// passing swallows what is written while its proxy is silent.
type passing struct {
	net.Conn
	p *Proxy
}

func (w passing) Write(b []byte) (int, error) {
	if w.p.now() == Silent {
		return len(b), nil
	}
	return w.Conn.Write(b)
}
