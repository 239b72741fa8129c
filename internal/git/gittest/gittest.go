// Package gittest serves repositories to tests as forges do: by git's own HTTP backend, and by a real sshd, both on loopback.
//
// They end with the test. Start at HTTP and SSH.
package gittest

import (
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// HTTP serves the repositories below root, to user with password if they are given, and returns the URL that has both. answer, when
// set, handles pushes.
func HTTP(t testing.TB, root, user, password string, answer func(w http.ResponseWriter, r *http.Request, push http.Handler)) string {
	t.Helper()
	exe, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(exe)), "git-http-backend"), Stderr: os.Stderr,
		Env: []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=user"}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
			w.Header().Set("WWW-Authenticate", "Basic realm=x")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if answer != nil && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "git-receive-pack") {
			answer(w, r, backend)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	if user == "" {
		return s.URL
	}
	return strings.Replace(s.URL, "http://", "http://"+user+":"+password+"@", 1)
}

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

// SSHD is the program that scripts/fetch-sshd keeps, called from a package's folder two below the root.
func SSHD(t testing.TB) string {
	t.Helper()
	cmd := exec.Command("../../scripts/fetch-sshd")
	if cache := os.Getenv("NIXTEST_CACHE"); cache != "" { // nixtest gives tests another one
		cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+cache)
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
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
	sshd := SSHD(t)
	for range 5 { // another may take the port between our look and sshd's
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		port := l.Addr().(*net.TCPAddr).Port
		must(l.Close())
		config := fmt.Sprintf("ListenAddress 127.0.0.1:%d\nHostKey %s/host\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"+
			"KbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\nPermitUserRC no\nAllowTcpForwarding no\n", port, dir, dir)
		must(os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o600))
		log, err := os.Create(filepath.Join(dir, "log"))
		must(err)
		cmd := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(dir, "config"))
		cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Setsid: true}
		must(cmd.Start())
		log.Close()
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		t.Cleanup(func() {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		})
		if !listens(port, ended) {
			continue
		}
		known := filepath.Join(dir, "known_hosts")
		must(os.WriteFile(known, []byte(fmt.Sprintf("[127.0.0.1]:%d %s", port, public["host"])), 0o600))
		return &Server{URL: fmt.Sprintf("ssh://root@127.0.0.1:%d", port), Key: filepath.Join(dir, "key"), OtherKey: filepath.Join(dir, "other"), KnownHosts: known}
	}
	said, _ := os.ReadFile(filepath.Join(dir, "log"))
	t.Fatalf("sshd does not listen: %s", said)
	return nil
}

// listens waits until somebody listens on the port, or the server ended.
func listens(port int, ended chan struct{}) bool {
	for {
		if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
			c.Close()
			select {
			case <-ended:
				return false // it was somebody else
			case <-time.After(20 * time.Millisecond):
				return true
			}
		}
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}
