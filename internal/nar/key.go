package nar

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// PublicKey verifies signatures of paths. Its text is what nix.conf lists in trusted-public-keys.
type PublicKey struct {
	Name string
	key  ed25519.PublicKey
}

// PrivateKey signs paths. Its text is what `nix-store --generate-binary-cache-key` writes.
type PrivateKey struct {
	Name string
	key  ed25519.PrivateKey
}

// GenerateKey makes a key of that name.
func GenerateKey(name string) (*PrivateKey, error) {
	if err := checkKeyName(name); err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("generate a signing key: %w", err)
	}
	return &PrivateKey{Name: name, key: key}, nil
}

// ParsePrivateKey reads "name:base64 of 64 bytes", blanks around it ignored.
// Its errors never contain the key.
func ParsePrivateKey(s string) (*PrivateKey, error) {
	name, b, err := parseKey(s, ed25519.PrivateKeySize)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
	if !key.Equal(ed25519.PrivateKey(b)) {
		return nil, fmt.Errorf("private key %q: its two halves do not belong together", name)
	}
	return &PrivateKey{Name: name, key: key}, nil
}

// ParsePublicKey reads "name:base64 of 32 bytes", blanks around it ignored.
func ParsePublicKey(s string) (PublicKey, error) {
	name, b, err := parseKey(s, ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("public key: %w", err)
	}
	return PublicKey{Name: name, key: b}, nil
}

func parseKey(s string, size int) (name string, b []byte, err error) {
	name, b64, ok := strings.Cut(strings.TrimSpace(s), ":")
	if !ok {
		return "", nil, errors.New("it is not a name, a colon and base64")
	}
	if err := checkKeyName(name); err != nil {
		return "", nil, err
	}
	b, err = base64.StdEncoding.DecodeString(b64)
	if err != nil {
		return "", nil, fmt.Errorf("%q is not followed by base64", name)
	}
	if len(b) != size {
		return "", nil, fmt.Errorf("%q has %d bytes, not %d", name, len(b), size)
	}
	return name, b, nil
}

func checkKeyName(name string) error {
	if name == "" || !oneWord(name) || strings.Contains(name, ":") {
		return fmt.Errorf("%q cannot name a key: it is empty or has blanks or colons", shorten(name))
	}
	return nil
}

// Public returns the key that verifies what k signs.
func (k *PrivateKey) Public() PublicKey {
	return PublicKey{Name: k.Name, key: k.key.Public().(ed25519.PublicKey)}
}

// Sign returns the signature of a fingerprint, "name:base64".
func (k *PrivateKey) Sign(fingerprint []byte) string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, fingerprint))
}

// Encode returns the secret text that ParsePrivateKey reads.
func (k *PrivateKey) Encode() string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key)
}

// String names the key without giving it away: keys end up in logs.
func (k *PrivateKey) String() string { return k.Name + ":(private key)" }

// String is the text that ParsePublicKey reads.
func (k PublicKey) String() string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key)
}

// Verify says whether sig is k's signature of the fingerprint.
func (k PublicKey) Verify(fingerprint []byte, sig string) bool {
	name, b, err := parseKey(sig, ed25519.SignatureSize)
	return err == nil && name == k.Name && len(k.key) == ed25519.PublicKeySize && ed25519.Verify(k.key, fingerprint, b)
}

// ValidSignature says whether s has the form of a signature, whoever made it.
func ValidSignature(s string) bool {
	_, _, err := parseKey(s, ed25519.SignatureSize)
	return err == nil && oneWord(s)
}
