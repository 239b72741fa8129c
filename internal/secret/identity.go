package secret

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
	"golang.org/x/crypto/ssh"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// maxIdentityBytes bounds a file of private keys.
const maxIdentityBytes = 1 << 20

// LoadIdentities reads private keys from a file: age's (lines AGE-SECRET-KEY-…,
// comments and empty lines; AGE-PLUGIN-…, as hardware keys have them) or one OpenSSH key, ssh-ed25519 or
// ssh-rsa, without passphrase. An ssh-ed25519 key also decrypts for the age key that ssh-to-age makes of it. Plugins
// cannot ask for anything: see LoadIdentitiesWith. Every error is a fleet.Error with CodeKey and class Local that
// names the file and what is expected, and repeats nothing of its content.
func LoadIdentities(path string) ([]age.Identity, error) {
	return LoadIdentitiesWith(path, nil)
}

// LoadIdentitiesWith is LoadIdentities for somebody at a terminal: ui is what plugins ask through
// (a PIN, a touch), for example plugin.NewTerminalUI. They are asked when a file is decrypted.
func LoadIdentitiesWith(path string, ui *plugin.ClientUI) ([]age.Identity, error) {
	if ui == nil {
		ui = silentUI()
	}
	data, err := readKey(path)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read the identity file %s", path).
			WithHint("it must be readable and hold AGE-SECRET-KEY lines or an OpenSSH private key").WithCause(err)
	}
	defer clear(data)
	ids, err := parseIdentities(data, ui)
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

func parseIdentities(data []byte, ui *plugin.ClientUI) ([]age.Identity, error) {
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
		return parseAgeIdentities(text, ui)
	}
}

func parseSSHIdentity(pem []byte) (age.Identity, error) {
	id, err := agessh.ParseIdentity(pem)
	if err == nil {
		return withConverted(id, pem)
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

// withConverted adds the age key made of an ssh-ed25519 key, which sops files may be encrypted for.
func withConverted(id age.Identity, pem []byte) (age.Identity, error) {
	ed, ok := id.(*agessh.Ed25519Identity)
	if !ok {
		return id, nil
	}
	raw, err := ssh.ParseRawPrivateKey(pem)
	if err != nil {
		return nil, errors.New("it begins like a private key but cannot be parsed; is it complete?")
	}
	key, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return id, nil
	}
	defer clear(*key)
	converted, err := convertIdentity(*key)
	if err != nil {
		return nil, errors.New("no age key can be made of the ssh-ed25519 key")
	}
	return &sshIdentity{ed, converted}, nil
}

// silentUI answers no question of a plugin.
func silentUI() *plugin.ClientUI {
	nobody := errors.New("there is nobody to ask")
	return &plugin.ClientUI{
		DisplayMessage: func(string, string) error { return nobody },
		RequestValue:   func(string, string, bool) (string, error) { return "", nobody },
		Confirm:        func(string, string, string, string) (bool, error) { return false, nobody },
		WaitTimer:      func(string) {},
	}
}

// parseAgeIdentities reads lines itself: the library's errors may repeat a part of a key.
func parseAgeIdentities(text []byte, ui *plugin.ClientUI) ([]age.Identity, error) {
	var ids []age.Identity
	n := 0
	for raw := range bytes.Lines(text) {
		n++
		line := strings.TrimSpace(string(raw))
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		id, err := parseAgeIdentity(line, ui)
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

func parseAgeIdentity(line string, ui *plugin.ClientUI) (id age.Identity, err error) {
	switch {
	case strings.HasPrefix(line, "AGE-SECRET-KEY-PQ-1"):
		id, err = age.ParseHybridIdentity(line)
	case strings.HasPrefix(line, "AGE-SECRET-KEY-1"):
		id, err = age.ParseX25519Identity(line)
	case strings.HasPrefix(line, "AGE-PLUGIN-"):
		if id, err = plugin.NewIdentity(line, ui); err != nil {
			return nil, errors.New("is the key of an age plugin that was mistyped or cut short")
		}
		return id, nil
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

// OwnersOf says, sorted, which hosts have a public key that one of the private keys belongs to.
func OwnersOf(ids []age.Identity, hostKeys map[string][]string) []string {
	var owners []string
	for _, host := range sortedKeys(hostKeys) {
		if slices.ContainsFunc(hostKeys[host], func(key string) bool { return fits(ids, key) }) {
			owners = append(owners, host)
		}
	}
	return owners
}

// fits tries whether what is wrapped for a public key can be unwrapped by one of the private keys.
func fits(ids []age.Identity, public string) bool {
	r, _, err := ParseRecipient(public)
	if err != nil {
		return false
	}
	key := make([]byte, 16) // of age's size
	_, _ = rand.Read(key)   // it never fails
	stanzas, err := r.Wrap(key)
	return err == nil && slices.ContainsFunc(ids, func(id age.Identity) bool {
		got, err := id.Unwrap(stanzas)
		return err == nil && bytes.Equal(got, key)
	})
}
