package drill

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/garrison-nix/garrison/internal/sandbox"
)

// SSHD runs a real SSH server on a host's port 22 until the test ends. Its host key is the host's; root gets in with a key.
func SSHD(t testing.TB, h *sandbox.Host, authorized string) {
	t.Helper()
	run, err := exec.Command("../../scripts/fetch-sshd").Output()
	ok(t, err)
	root := filepath.Join(filepath.Dir(strings.TrimSpace(string(run))), "root")
	wrap, err := filepath.Glob(filepath.Join(root, "usr/lib/*/libwrap.so.0"))
	ok(t, err)
	if len(wrap) != 1 {
		t.Fatalf("libwrap is at %v", wrap)
	}
	program := filepath.Join(root, "usr/sbin/sshd")
	ldd := exec.Command("ldd", program)
	ldd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+filepath.Dir(wrap[0]))
	libraries, err := ldd.Output()
	ok(t, err)
	files := []string{program}
	for line := range strings.Lines(string(libraries)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "=>" && !strings.HasPrefix(f[0], "libc.so") {
			files = append(files, f[2])
		}
	}
	ok(t, os.MkdirAll(h.Path("/opt/sshd"), 0o755))
	ok(t, os.MkdirAll(h.Path("/root/.ssh"), 0o700))
	for _, file := range files {
		b, err := os.ReadFile(file)
		ok(t, err)
		ok(t, os.WriteFile(h.Path("/opt/sshd/"+filepath.Base(file)), b, 0o755))
	}
	ok(t, os.WriteFile(h.Path("/root/.ssh/authorized_keys"), []byte(authorized), 0o600))
	_, err = h.Run(t.Context(), "sh", "-euc", `mkdir -p -m 0755 /run/sshd
		grep -q ^sshd: /etc/passwd || echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin' >> /etc/passwd`)
	ok(t, err)
	address := net.JoinHostPort(h.Addr().String(), "22")
	cmd := h.Command(context.WithoutCancel(t.Context()), "env", "LD_LIBRARY_PATH=/opt/sshd", "/opt/sshd/sshd", "-D", "-e", "-f", "/dev/null",
		"-h", "/etc/ssh/ssh_host_ed25519_key", "-o", "ListenAddress="+address, "-o", "PidFile=none", "-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PermitRootLogin=yes")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	ok(t, cmd.Start())
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("sshd on %s: %.4000s", h.Name(), said.String())
		}
	})
	ok(t, until(t.Context(), patience, lookAgain, func() error {
		c, err := h.DialContext(t.Context(), "tcp", address)
		if err == nil {
			err = c.Close()
		}
		return err
	}))
}

// SSHClient gives root on a host a key and a configuration, which trusts the host keys of others; it returns the public key.
func SSHClient(t testing.TB, h *sandbox.Host, hostKeys map[string]string) string {
	t.Helper()
	dir := h.Path("/root/.ssh")
	ok(t, os.MkdirAll(dir, 0o700))
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "person", "-f", filepath.Join(dir, "drill-key")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v: %s", err, out)
	}
	known := ""
	for host, key := range hostKeys {
		known += fmt.Sprintf("%s %s\n", host, strings.TrimSpace(key))
	}
	ok(t, os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600))
	// That the drill asks nobody, and leaves nothing behind, does not depend on this file; that it gets in does.
	ok(t, os.WriteFile(filepath.Join(dir, "config"), []byte("Host *\n\tIdentityFile /root/.ssh/drill-key\n\tControlMaster auto\n\tControlPath /tmp/ssh-%C\n\tControlPersist 1h\n"), 0o600))
	pub, err := os.ReadFile(filepath.Join(dir, "drill-key.pub"))
	ok(t, err)
	return string(pub)
}
