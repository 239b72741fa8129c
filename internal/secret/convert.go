package secret

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha512"
	"errors"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/plugin"
	"filippo.io/edwards25519"
	"golang.org/x/crypto/ssh"
)

// A host that sops-nix decrypts on has no age key of its own as a rule: sops.age.sshKeyPaths makes one of its SSH
// host key as ssh-to-age does (https://github.com/Mic92/ssh-to-age). That is the map of the curve Ed25519 is on to
// the one X25519 is on (RFC 7748, section 4.1); the private key is the first half of the SHA-512 of
// the seed, which is the scalar that Ed25519 signs with (RFC 8032, section 5.1.5).

// sopsName is the age1… key that stands in a sops file for a normalised recipient.
func sopsName(normal string) (string, error) {
	kind, _, _ := strings.Cut(normal, " ")
	switch {
	case strings.HasPrefix(normal, "age1"):
		return normal, nil
	case kind != stanzaEd25519:
		return "", errors.New("sops-nix makes an age key only of an ssh-ed25519 host key (sops.age.sshKeyPaths); give that, or the age1… key of sops.age.keyFile")
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(normal))
	if err != nil {
		return "", errors.New("the ssh-ed25519 key is damaged")
	}
	public, ok := key.(ssh.CryptoPublicKey).CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("the ssh-ed25519 key is damaged")
	}
	point, err := new(edwards25519.Point).SetBytes(public)
	if err != nil {
		return "", errors.New("the ssh-ed25519 key is not a point of its curve; was it mistyped?")
	}
	converted, err := ecdh.X25519().NewPublicKey(point.BytesMontgomery())
	if err != nil {
		return "", err
	}
	return plugin.EncodeX25519Recipient(converted)
}

// namesOf are the forms in which a normalised recipient stands in files: its own, and that of sops files.
func namesOf(normal string) []string {
	if name, err := sopsName(normal); err == nil && name != normal {
		return []string{normal, name}
	}
	return []string{normal}
}

// sshIdentity is an ssh-ed25519 key that decrypts what is encrypted for it, and for the age key made of it.
type sshIdentity struct {
	*agessh.Ed25519Identity
	converted *age.X25519Identity
}

// Unwrap implements age.Identity.
func (i *sshIdentity) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	key, err := i.Ed25519Identity.Unwrap(stanzas)
	if errors.Is(err, age.ErrIncorrectIdentity) {
		return i.converted.Unwrap(stanzas)
	}
	return key, err
}

// convertIdentity makes the age key of an ssh-ed25519 private key.
func convertIdentity(key ed25519.PrivateKey) (*age.X25519Identity, error) {
	sum := sha512.Sum512(key.Seed())
	defer clear(sum[:])
	text := bech32("age-secret-key-", sum[:32])
	return age.ParseX25519Identity(strings.ToUpper(text))
}

// bech32 encodes data as BIP 173 says. The age library has it, but only for public keys.
func bech32(prefix string, data []byte) string {
	const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
	var five []byte // data in groups of five bits
	acc, bits := uint(0), 0
	for _, b := range data {
		acc = acc<<8 | uint(b)
		for bits += 8; bits >= 5; {
			bits -= 5
			five = append(five, byte(acc>>bits&31))
		}
	}
	if bits > 0 {
		five = append(five, byte(acc<<(5-bits)&31))
	}
	defer clear(five)
	out := []byte(prefix + "1")
	for _, v := range append(five, bech32Sum(prefix, five)...) {
		out = append(out, alphabet[v])
	}
	defer clear(out)
	return string(out)
}

// bech32Sum is BIP 173's checksum.
func bech32Sum(prefix string, five []byte) []byte {
	var high, low []byte
	for _, c := range []byte(prefix) {
		high, low = append(high, c>>5), append(low, c&31)
	}
	chk := uint32(1)
	for _, part := range [][]byte{high, {0}, low, five, make([]byte, 6)} {
		for _, v := range part {
			top := chk >> 25
			chk = chk&0x1ffffff<<5 ^ uint32(v)
			for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
				if top>>i&1 == 1 {
					chk ^= g
				}
			}
		}
	}
	chk ^= 1
	sum := make([]byte, 6)
	for i := range sum {
		sum[i] = byte(chk >> (5 * (5 - i)) & 31)
	}
	return sum
}
