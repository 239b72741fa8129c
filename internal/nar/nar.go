// Package nar knows Nix's formats for moving store paths: the archive (NAR), the
// description of a path (narinfo), hashes, and the keys that sign.
//
// It does no I/O beyond the readers and writers it is given, and everything
// that parses outside bytes refuses what it does not understand with an error
// that says what was wrong, in bounded memory.
//
// The formats are those of Nix (its manual, "Nix Archive" and "Binary cache";
// docs/FORMATS.md has the parts that Garrison relies on). Start at PathInfo and NarInfo;
// Check verifies an archive, Writer makes one.
package nar

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/nix-community/go-nix/pkg/nixbase32"
)

// HashSize is the number of bytes in a Hash.
const HashSize = 32

// Hash is a SHA-256, the only algorithm that binary caches use.
type Hash [HashSize]byte

const (
	hashPrefix = "sha256:"
	sriPrefix  = "sha256-"
	nix32Len   = 52
)

// ParseHash reads a SHA-256 as Nix prints it: "sha256:" and Nix's base 32 or
// hexadecimal, or SRI ("sha256-" and base 64).
func ParseHash(s string) (Hash, error) {
	if b64, ok := strings.CutPrefix(s, sriPrefix); ok {
		return hashOf(s, base64.StdEncoding.Strict().DecodeString, b64)
	}
	digits, ok := strings.CutPrefix(s, hashPrefix)
	if !ok {
		return Hash{}, fmt.Errorf("hash %q does not start with %q or %q", shorten(s), hashPrefix, sriPrefix)
	}
	if len(digits) == hex.EncodedLen(HashSize) {
		return hashOf(s, hex.DecodeString, digits)
	}
	return ParseNix32(digits)
}

// ParseNix32 reads 52 characters of Nix's base 32, as they stand in names of files.
func ParseNix32(s string) (Hash, error) {
	if len(s) != nix32Len {
		return Hash{}, fmt.Errorf("hash %q is not 52 characters of Nix's base 32", shorten(s))
	}
	return hashOf(s, nixbase32.DecodeString, s)
}

func hashOf(whole string, decode func(string) ([]byte, error), digits string) (h Hash, err error) {
	b, err := decode(digits)
	if err != nil {
		return Hash{}, fmt.Errorf("hash %q: %w", shorten(whole), err)
	}
	if len(b) != HashSize {
		return Hash{}, fmt.Errorf("hash %q has %d bytes, a SHA-256 has %d", shorten(whole), len(b), HashSize)
	}
	copy(h[:], b)
	return h, nil
}

// String is "sha256:" and Nix's base 32.
func (h Hash) String() string { return hashPrefix + h.Nix32() }

// Nix32 is h in Nix's base 32: 52 characters.
func (h Hash) Nix32() string { return nixbase32.EncodeToString(h[:]) }

// IsZero says whether h was never set.
func (h Hash) IsZero() bool { return h == Hash{} }

// MarshalText writes what String gives.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what ParseHash reads.
func (h *Hash) UnmarshalText(b []byte) (err error) {
	*h, err = ParseHash(string(b))
	return err
}

const (
	hashPartLen = 32  // characters before the "-" of a store path's base name
	nameMax     = 211 // characters after it
)

// SplitStorePath takes a store path apart: "/nix/store", the 32 characters of
// hash, and the name. It fails on anything that is not the full path of one store object.
func SplitStorePath(p string) (dir, hash, name string, err error) {
	dir, base := path.Split(p)
	dir = strings.TrimSuffix(dir, "/")
	if !path.IsAbs(dir) || path.Clean(dir) != dir {
		return "", "", "", fmt.Errorf("%q is not a store path: it is not absolute", shorten(p))
	}
	hash, name, err = splitBase(base)
	if err != nil {
		return "", "", "", fmt.Errorf("%q is not a store path: %w", shorten(p), err)
	}
	return dir, hash, name, nil
}

// HashPart returns the 32 characters that name a store path in a cache.
func HashPart(storePath string) (string, error) {
	_, hash, _, err := SplitStorePath(storePath)
	return hash, err
}

// ValidHashPart says whether s is 32 characters of Nix's base 32.
func ValidHashPart(s string) bool {
	if len(s) != hashPartLen {
		return false
	}
	for i := range len(s) {
		if !nixbase32.Is(s[i]) {
			return false
		}
	}
	return true
}

func splitBase(base string) (hash, name string, err error) {
	if len(base) < hashPartLen+2 || base[hashPartLen] != '-' {
		return "", "", errors.New("its last part is not a hash, a dash and a name")
	}
	hash, name = base[:hashPartLen], base[hashPartLen+1:]
	if !ValidHashPart(hash) {
		return "", "", errors.New("its hash has characters outside Nix's base 32")
	}
	if len(name) > nameMax {
		return "", "", fmt.Errorf("its name is longer than %d characters", nameMax)
	}
	if name == "." || name == ".." || strings.ContainsFunc(name, notInName) {
		return "", "", errors.New("its name has characters that Nix does not allow")
	}
	return hash, name, nil
}

func notInName(r rune) bool {
	return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune("+-._?=", r)
}

// shorten keeps an error's line readable whatever was sent.
func shorten(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
