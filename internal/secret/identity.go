package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// maxIdentityBytes bounds a file of private keys.
const maxIdentityBytes = 1 << 20

// LoadIdentities reads private keys from a file: age's (lines AGE-SECRET-KEY-…,
// comments and empty lines) or one OpenSSH key, ssh-ed25519 or ssh-rsa, without
// passphrase. Every error is a fleet.Error with CodeKey and class Local that names
// the file and what is expected, and repeats nothing of its content.
func LoadIdentities(path string) ([]age.Identity, error) {
	data, err := readKey(path)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the identity file %s", path).
			WithHint("it must be readable and hold AGE-SECRET-KEY lines or an OpenSSH private key").WithCause(err)
	}
	defer clear(data)
	ids, err := parseIdentities(data)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "the identity file %s cannot be used: %v", path, err).
			WithHint("it must hold AGE-SECRET-KEY lines (age-keygen) or an OpenSSH private key without passphrase, ssh-ed25519 or ssh-rsa")
	}
	return ids, nil
}

func readKey(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, maxIdentityBytes+1) // one buffer, so that no copy stays behind
	n, err := io.ReadFull(f, data)
	switch {
	case err == nil:
		clear(data)
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxIdentityBytes)
	case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF):
		clear(data)
		return nil, err
	}
	return data[:n], nil
}

func parseIdentities(data []byte) ([]age.Identity, error) {
	text := bytes.TrimSpace(data)
	switch {
	case len(text) == 0:
		return nil, errors.New("it is empty")
	case bytes.HasPrefix(text, []byte(armor.Header)), bytes.HasPrefix(text, []byte("age-encryption.org/")):
		return nil, errors.New("it is encrypted by age; decrypt it first")
	case bytes.HasPrefix(text, []byte("-----BEGIN")):
		id, err := parseSSHIdentity(text)
		if err != nil {
			return nil, err
		}
		return []age.Identity{id}, nil
	default:
		return parseAgeIdentities(text)
	}
}

func parseSSHIdentity(pem []byte) (age.Identity, error) {
	id, err := agessh.ParseIdentity(pem)
	if err == nil {
		return id, nil
	}
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		return nil, errors.New("the key is protected by a passphrase, which nobody can type here; use one without (ssh-keygen -p)")
	}
	if key, err := ssh.ParseRawPrivateKey(pem); err == nil {
		return nil, fmt.Errorf("age cannot decrypt by a key of type %s", strings.TrimPrefix(fmt.Sprintf("%T", key), "*"))
	}
	return nil, errors.New("it begins like a private key but cannot be parsed; is it complete?")
}

// parseAgeIdentities reads lines itself: the library's errors may repeat a part of a key.
func parseAgeIdentities(text []byte) ([]age.Identity, error) {
	var ids []age.Identity
	n := 0
	for raw := range bytes.Lines(text) {
		n++
		line := strings.TrimSpace(string(raw))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := parseAgeIdentity(line)
		if err != nil {
			return nil, fmt.Errorf("line %d %w", n, err)
		}
		ids = append(ids, id)
	}
	if ids == nil {
		return nil, errors.New("it has only comments")
	}
	return ids, nil
}

func parseAgeIdentity(line string) (id age.Identity, err error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		id, err = age.ParseHybridIdentity(line)
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		id, err = age.ParseX25519Identity(line)
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		return nil, errors.New("is the key of an age plugin, which is not supported")
	case strings.HasPrefix(line, "age1"), strings.HasPrefix(line, "ssh-"):
		return nil, errors.New("is a public key; the private one is needed")
	default:
		return nil, errors.New("is not an AGE-SECRET-KEY")
	}
	if err != nil {
		return nil, errors.New("is an AGE-SECRET-KEY that was mistyped or cut short")
	}
	return id, nil
}
