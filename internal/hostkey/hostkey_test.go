package hostkey_test

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git/gittest"
	"github.com/garrison-nix/garrison/internal/hostkey"
)

const long = time.Minute

// keygen makes a key pair and returns its file, its public half without comment, and its fingerprint.
func keygen(t *testing.T, kind string) (file, public, fingerprint string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), kind)
	if out, err := exec.Command("ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pub, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("ssh-keygen", "-l", "-f", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	return file, strings.Join(strings.Fields(string(pub))[:2], " "), strings.Fields(string(out))[1]
}

func sshd(t *testing.T, keys ...string) string {
	t.Helper()
	address, stop, err := gittest.SSHD(keys)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return address
}

func TestRead(t *testing.T) {
	ed, edPublic, edPrint := keygen(t, "ed25519")
	rsa, rsaPublic, rsaPrint := keygen(t, "rsa")
	ecdsa, _, _ := keygen(t, "ecdsa")
	for address, want := range map[string]hostkey.Key{
		sshd(t, rsa, ecdsa, ed): {Public: edPublic, Fingerprint: edPrint}, // not the first, but the best
		sshd(t, ecdsa, rsa):     {Public: rsaPublic, Fingerprint: rsaPrint},
	} {
		if got, err := hostkey.Read(t.Context(), address, long); err != nil || got != want {
			t.Errorf("got %+v, want %+v: %v", got, want, err)
		}
	}
}

// listen answers everybody on a loopback port by f.
func listen(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			f(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestReadRefuses(t *testing.T) {
	ecdsa, _, _ := keygen(t, "ecdsa")
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	closed.Close()
	swallow := func(c net.Conn) { // reads until the other side goes
		for b := make([]byte, 1024); ; {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}
	for name, c := range map[string]struct {
		address string
		timeout time.Duration
		class   fleet.Class
		code    fleet.Code
		says    string
	}{
		"refused":      {refused, long, fleet.Transient, fleet.CodeRemote, "refuses connections"},
		"no such host": {"nowhere.invalid:22", long, fleet.Transient, fleet.CodeRemote, "nowhere.invalid"},
		"only ecdsa":   {sshd(t, ecdsa), long, fleet.Local, fleet.CodeKey, "only ecdsa-sha2-nistp256"},
		"silent":       {listen(t, swallow), 100 * time.Millisecond, fleet.Transient, fleet.CodeRemote, "does not answer within 100ms"},
		"hangs up":     {listen(t, func(net.Conn) {}), long, fleet.Local, fleet.CodeInvalid, "is not an SSH server"},
		"not SSH": {listen(t, func(c net.Conn) {
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		}), long, fleet.Local, fleet.CodeInvalid, "is not an SSH server"},
		"endless": {listen(t, func(c net.Conn) {
			for err := error(nil); err == nil; {
				_, err = c.Write([]byte(strings.Repeat("x\n", 32<<10)))
			}
		}), long, fleet.Local, fleet.CodeInvalid, "is not an SSH server"},
		"breaks off": {listen(t, func(c net.Conn) {
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
		}), long, fleet.Transient, fleet.CodeRemote, "broke off"},
		"silent after its version": {listen(t, func(c net.Conn) {
			_, _ = c.Write([]byte("SSH-2.0-x\r\n"))
			swallow(c)
		}), 100 * time.Millisecond, fleet.Transient, fleet.CodeRemote, "does not answer within 100ms"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := hostkey.Read(t.Context(), c.address, c.timeout)
			if fleet.ClassOf(err) != c.class || fleet.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("class %s, code %s: %v", fleet.ClassOf(err), fleet.CodeOf(err), err)
			}
		})
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	_, err = hostkey.Read(ctx, listen(t, func(c net.Conn) { cancel(why); swallow(c) }), long)
	if !errors.Is(err, why) {
		t.Errorf("stopped: %v", err)
	}
}
