// Package hostkey reads the public host key of an SSH server over the network.
//
// It guarantees that whoever answered has the private key, that nobody is logged in,
// and that neither time nor memory runs away. It does not know who answered: that is
// for a person to compare. Start at Read.
package hostkey

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Key is the public key of a host.
type Key struct {
	Public      string // as in a .pub file, without comment
	Fingerprint string // as ssh-keygen -l prints it
}

// algorithms are how a host may prove that it has its key, the best first: of the kinds that secrets can be encrypted for.
var algorithms = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}

// maxBytes bounds what a server may say until it has shown its key.
const maxBytes = 256 << 10

// errSeen ends the handshake when the key is known.
var errSeen = errors.New("the key was seen")

// Read asks the SSH server at address (host:port) for its ed25519 key, or else for its rsa key. Errors are fleet.Errors: CodeRemote
// when it cannot be reached or says nothing until timeout, CodeInvalid when it is no SSH server, CodeKey when it has no key of use.
func Read(ctx context.Context, address string, timeout time.Duration) (Key, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return Key{}, unreachable(ctx, address, timeout, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	said := &bounded{Conn: conn, left: maxBytes}
	var got ssh.PublicKey
	_, _, _, err = ssh.NewClientConn(said, address, &ssh.ClientConfig{
		HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-Garrison",
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error { got = key; return errSeen },
	})
	if got != nil { // the signature was checked before
		return Key{got.Type() + " " + base64.StdEncoding.EncodeToString(got.Marshal()), ssh.FingerprintSHA256(got)}, nil
	}
	return Key{}, said.explain(ctx, address, timeout, err)
}

// unreachable says why there is no connection.
func unreachable(ctx context.Context, address string, timeout time.Duration, err error) error {
	bad := func(format string, args ...any) *fleet.Error {
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, format, args...).WithCause(err)
	}
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return bad("there is no host %s", dns.Name).WithHint("is it spelled right? an address does, too")
	case errors.Is(err, syscall.ECONNREFUSED):
		return bad("%s refuses connections", address).WithHint("does sshd run there, on this port? --port names another")
	case errors.Is(ctx.Err(), context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded):
		return bad("%s does not answer within %s", address, timeout).WithHint("is the host up, and may this machine reach its SSH port?")
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return bad("%s cannot be reached", address)
	}
}

// explain says why a connection brought no key.
func (b *bounded) explain(ctx context.Context, address string, timeout time.Duration, err error) error {
	var none *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &none):
		return fleet.Errorf(fleet.Local, fleet.CodeKey, "%s has no key that secrets can be encrypted for, only %s", address, clean(strings.Join(none.RequestedAlgorithms, ", "))).
			WithHint("make an ed25519 host key on it: ssh-keygen -A (NixOS: services.openssh.hostKeys)").WithCause(err)
	case ctx.Err() == nil && !bytes.Contains(b.first, []byte("SSH-")):
		return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "what answers at %s is not an SSH server", address).
			WithHint("does sshd listen on another port? --port names it").WithCause(err)
	case ctx.Err() == nil:
		return fleet.Errorf(fleet.Transient, fleet.CodeRemote, "%s broke off before it showed its key", address).
			WithHint("its sshd may refuse this machine, or be busy: see its log").WithCause(err)
	default:
		return unreachable(ctx, address, timeout, err)
	}
}

// clean is what a server said, without what a terminal would act on.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return fmt.Sprintf("%.200s", s)
}

// bounded is a connection that ends after so many bytes, and remembers the first.
type bounded struct {
	net.Conn
	left  int
	first []byte
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	if room := 4096 - len(b.first); room > 0 {
		b.first = append(b.first, p[:min(n, room)]...)
	}
	return n, err
}
