package gittest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Server is an sshd with keys of its own.
type Server struct {
	URL        string // of its root folder
	Key        string // a file with the private key that it lets in
	OtherKey   string // one that it does not let in
	KnownHosts string // a file with its host key
}

// Command is an ssh, for GIT_SSH_COMMAND or core.sshCommand, that uses a key and trusts the hosts in a file, and nothing of this machine's configuration.
func Command(key, knownHosts string) string {
	return fmt.Sprintf("ssh -F none -o BatchMode=yes -o ConnectTimeout=15 -o IdentitiesOnly=yes -o IdentityAgent=none -o GlobalKnownHostsFile=none -o UserKnownHostsFile=%s -i %s", knownHosts, key)
}

// SSH starts a server.
func SSH(t testing.TB) *Server {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	public := map[string]string{}
	for _, name := range []string{"host", "key", "other"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
		pub, err := os.ReadFile(filepath.Join(dir, name+".pub"))
		must(err)
		public[name] = string(pub)
	}
	must(os.WriteFile(filepath.Join(dir, "authorized"), []byte(public["key"]), 0o600))
	address, stop, err := SSHD([]string{filepath.Join(dir, "host")}, "AuthorizedKeysFile="+dir+"/authorized", "StrictModes=no", "UsePAM=no", "PasswordAuthentication=no",
		"KbdInteractiveAuthentication=no", "PermitRootLogin=yes", "PermitUserRC=no", "AllowTcpForwarding=no")
	must(err)
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	host, port, err := net.SplitHostPort(address)
	must(err)
	known := filepath.Join(dir, "known_hosts")
	must(os.WriteFile(known, fmt.Appendf(nil, "[%s]:%s %s", host, port, public["host"]), 0o600))
	return &Server{URL: "ssh://root@" + address, Key: filepath.Join(dir, "key"), OtherKey: filepath.Join(dir, "other"), KnownHosts: known}
}

// SSHD answers on a free loopback port, each connection by an sshd of its own that has the given host keys (files) and options. Call it from
// a package's folder two below the root. stop ends what it started and waits for that.
func SSHD(keys []string, options ...string) (address string, stop func() error, err error) {
	fetch := exec.Command("../../scripts/fetch-sshd")
	if cache := os.Getenv("NIXTEST_CACHE"); cache != "" { // nixtest gives tests another one
		fetch.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
	}
	program, err := fetch.Output()
	if err != nil {
		return "", nil, fmt.Errorf("%v: %w", fetch, err)
	}
	s := &sshd{program: strings.TrimSpace(string(program)), args: []string{"-i", "-e", "-f", "/dev/null", "-o", "LoginGraceTime=60"}, running: map[*exec.Cmd]bool{}}
	for _, k := range keys {
		s.args = append(s.args, "-h", k)
	}
	for _, o := range options {
		s.args = append(s.args, "-o", o)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s.tasks.Go(func() { s.serve(l) })
	return l.Addr().String(), func() error {
		err := l.Close()
		s.kill()
		s.tasks.Wait()
		return errors.Join(s.failed, err)
	}, nil
}

type sshd struct {
	program string
	args    []string
	tasks   sync.WaitGroup

	mu      sync.Mutex
	running map[*exec.Cmd]bool // nil once they are killed
	failed  error
}

func (s *sshd) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = s.answer(conn)
		}
		s.mu.Lock()
		s.failed = errors.Join(s.failed, err)
		s.mu.Unlock()
	}
}

// answer has an sshd of its own talk to whoever connected.
func (s *sshd) answer(conn net.Conn) error {
	defer conn.Close()
	socket, err := conn.(*net.TCPConn).File()
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Stdin, cmd.Stdout, cmd.SysProcAttr = socket, socket, &syscall.SysProcAttr{Setsid: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return nil
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.running[cmd] = true
	s.tasks.Go(func() {
		_ = cmd.Wait() // it fails where nobody logs in
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, cmd)
	})
	return nil
}

func (s *sshd) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cmd := range s.running {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	s.running = nil
}
