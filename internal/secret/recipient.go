package secret

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// maxRecipientBytes bounds the text of one public key; an RSA key of 16,384 bits fits.
const maxRecipientBytes = 4096

// minRSABits is what age asks of an ssh-rsa recipient.
const minRSABits = 2048

// SameKey says whether two texts are the same public key, comments aside.
func SameKey(a, b string) bool { return nameOf(a) == nameOf(b) }

// placeholder is agenix-rekey's default of age.rekey.hostPubkey. Nobody is known to have its private key.
const placeholder = "age1qyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqszqgpqyqs3290gq"

// ParseRecipient reads a public key that files can be encrypted for: a line of
// OpenSSH (ssh-ed25519 or ssh-rsa, as in /etc/ssh/ssh_host_ed25519_key.pub) or an
// age1… string. The second value is the same key without comment; equal keys give
// equal strings. Errors say what is wrong and never repeat s, which might be a
// private key that somebody put in the wrong place.
func ParseRecipient(s string) (age.Recipient, string, error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return nil, "", errors.New("the key is empty")
	case len(s) > maxRecipientBytes:
		return nil, "", fmt.Errorf("the key has more than %d bytes", maxRecipientBytes)
	case strings.Contains(s, "PRIVATE KEY") || strings.Contains(strings.ToUpper(s), "AGE-SECRET-KEY-"):
		return nil, "", errors.New("this is a private key; give the public one, and consider the private one known")
	case strings.ContainsAny(s, "\r\n"):
		return nil, "", errors.New("the key has more than one line; give one key each")
	case strings.HasPrefix(s, "age1"):
		return parseAge(s)
	default:
		return parseSSH(s)
	}
}

func parseAge(s string) (age.Recipient, string, error) {
	if strings.ContainsAny(s, " \t") {
		return nil, "", errors.New("something follows the age1… key; give one key each, without comment")
	}
	if strings.HasPrefix(s, "age1pq1") {
		r, err := age.ParseHybridRecipient(s)
		if err != nil {
			return nil, "", errors.New("the age1pq1… key is mistyped or cut short")
		}
		return r, r.String(), nil
	}
	if ofPlugin(s) {
		return nil, "", errors.New("keys of age plugins cannot receive secrets here; give an age1…, ssh-ed25519 or ssh-rsa key")
	}
	if s == placeholder {
		return nil, "", errors.New("this is the placeholder that agenix-rekey has where no key was given; give the host's own")
	}
	r, err := age.ParseX25519Recipient(s)
	if err != nil {
		return nil, "", errors.New("the age1… key is mistyped or cut short")
	}
	return r, r.String(), nil
}

var sshType = regexp.MustCompile(`^(ssh|ecdsa|sk)-[a-z0-9@.-]{1,60}$`)

func parseSSH(s string) (age.Recipient, string, error) {
	fields := strings.Fields(s)
	kind := fields[0]
	if kind != "ssh-ed25519" && kind != "ssh-rsa" {
		if sshType.MatchString(kind) {
			return nil, "", fmt.Errorf("age cannot encrypt for %s keys; give an ssh-ed25519, ssh-rsa or age1… key", kind)
		}
		return nil, "", errors.New("not a public key; give an ssh-ed25519, ssh-rsa or age1… key")
	}
	if len(fields) == 1 {
		return nil, "", fmt.Errorf("nothing follows %s", kind)
	}
	wire, err := base64.StdEncoding.DecodeString(fields[1])
	if err != nil {
		return nil, "", fmt.Errorf("what follows %s is not base64; was it cut short?", kind)
	}
	key, err := ssh.ParsePublicKey(wire)
	if err != nil || key.Type() != kind {
		return nil, "", fmt.Errorf("what follows %s is not such a key; was it cut short?", kind)
	}
	r, err := recipientOf(key)
	if err != nil {
		return nil, "", err
	}
	return r, kind + " " + base64.StdEncoding.EncodeToString(key.Marshal()), nil
}

func recipientOf(key ssh.PublicKey) (age.Recipient, error) {
	if key.Type() == "ssh-ed25519" {
		r, err := agessh.NewEd25519Recipient(key)
		if err != nil {
			return nil, errors.New("the ssh-ed25519 key is not a point of its curve; was it mistyped?")
		}
		return r, nil
	}
	if k, ok := key.(ssh.CryptoPublicKey); ok {
		if k, ok := k.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("the ssh-rsa key has %d bits, age needs at least %d; make a new one", k.N.BitLen(), minRSABits)
		}
	}
	r, err := agessh.NewRSARecipient(key)
	if err != nil {
		return nil, errors.New("the ssh-rsa key cannot be used by age")
	}
	return r, nil
}

// postQuantum says whether a normalised recipient is of the kind that age refuses
// to mix with others.
func postQuantum(recipient string) bool { return strings.HasPrefix(recipient, "age1pq1") }

// ofPlugin says whether a recipient is of an age plugin: in bech32, what stands before the last 1 names the kind of key.
func ofPlugin(recipient string) bool {
	return strings.HasPrefix(recipient, "age1") && !postQuantum(recipient) && strings.LastIndexByte(recipient, '1') > len("age")
}

// stanzaFor says what a file encrypted for the normalised recipient has in its
// header: a kind of stanza and, for SSH keys, their tag, which is the unpadded base64 of the
// first four bytes of the SHA-256 of the key in SSH's wire form.
func stanzaFor(recipient string) (Stanza, error) {
	kind, rest, _ := strings.Cut(recipient, " ")
	switch {
	case postQuantum(recipient):
		return Stanza{Type: stanzaHybrid}, nil
	case ofPlugin(recipient):
		return Stanza{}, errors.New("what the key of an age plugin leaves in a header cannot be told")
	case strings.HasPrefix(recipient, "age1"):
		return Stanza{Type: stanzaX25519}, nil
	case kind != stanzaEd25519 && kind != stanzaRSA:
		return Stanza{}, errors.New("a recipient is neither an SSH nor an age key")
	}
	key, _, _ := strings.Cut(rest, " ")
	wire, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(wire) == 0 {
		return Stanza{}, fmt.Errorf("an %s recipient is not base64", kind)
	}
	sum := sha256.Sum256(wire)
	return Stanza{Type: kind, Tag: base64.RawStdEncoding.EncodeToString(sum[:4])}, nil
}
