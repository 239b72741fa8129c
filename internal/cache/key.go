package cache

import (
	"fmt"
	"strings"

	"github.com/garrison-nix/garrison/internal/nar"
)

// MarshalText writes the private half, or the public one while that is all that is known, as Nix's key files have them.
func (k Key) MarshalText() ([]byte, error) {
	if k.Private != nil {
		return []byte(k.Private.Encode()), nil
	}
	return []byte(k.Public.String()), nil
}

// UnmarshalText reads what MarshalText writes.
func (k *Key) UnmarshalText(b []byte) error {
	if private, err := nar.ParsePrivateKey(string(b)); err == nil {
		*k = KeyOf(private)
		return nil
	}
	public, err := nar.ParsePublicKey(string(b))
	if err != nil {
		return fmt.Errorf("a cache's key is neither a private nor a public key: %w", err)
	}
	*k = Key{Public: public}
	return nil
}

// KeyOf is the Key that private is.
func KeyOf(private *nar.PrivateKey) Key { return Key{Public: private.Public(), Private: private} }

// String never shows the private half.
func (k Key) String() string { return k.Public.String() }

// signers tells a cache's keys from others.
func signers(keys []Key) string {
	var b strings.Builder
	for _, k := range keys {
		b.WriteString(k.Public.String())
	}
	return b.String()
}
