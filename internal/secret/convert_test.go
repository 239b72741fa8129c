package secret

import (
	"strings"
	"testing"
)

// TestSopsName compares with what ssh-to-age made of a key: both stand in sops-nix's own tests
// (pkgs/sops-install-secrets/test-assets: ssh-ed25519-key.pub, secrets.yaml).
func TestSopsName(t *testing.T) {
	got, err := sopsName("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBI1+Q+ntzANebtnicCiAY29uqLGWOaOGLEa8bUqOVmS")
	if want := "age1a8pk4akrdamj7nvqy3zywgtny8dxz7t5xzu7u8v9mhrayp9freqsqatyrs"; err != nil || got != want {
		t.Errorf("%s, %v", got, err)
	}
	key := ageKey(t).pub
	if got, err := sopsName(key); err != nil || got != key {
		t.Errorf("%s, %v", got, err)
	}
	_, rsa, err := ParseRecipient(sshKey(t, "rsa").pub)
	must(t, err)
	if _, err := sopsName(rsa); err == nil || !strings.Contains(err.Error(), "sshKeyPaths") {
		t.Errorf("an RSA key: %v", err)
	}
}

// TestConvertedIdentity: the private keys that ssh-to-age's rule gives fit the public ones.
func TestConvertedIdentity(t *testing.T) {
	for range 20 {
		k := sshKey(t, "ed25519")
		ids, err := LoadIdentities(k.file)
		must(t, err)
		_, normal, err := ParseRecipient(k.pub)
		must(t, err)
		name, err := sopsName(normal)
		must(t, err)
		if got := ids[0].(*sshIdentity).converted.Recipient().String(); got != name {
			t.Fatalf("private gives %s, public %s", got, name)
		}
		for _, to := range []key{k, {pub: name}} {
			p, err := open(encrypt(t, "value", nil, to), ids)
			if err != nil || string(p.data) != "value" {
				t.Errorf("%q, %v", p.data, err)
			}
		}
		if p, err := open(encrypt(t, "value", nil, ageKey(t)), ids); err == nil {
			t.Errorf("read another's: %q", p.data)
		}
	}
}

// TestBech32 has vectors of BIP 173; that the age library reads ours is in TestConvertedIdentity.
func TestBech32(t *testing.T) {
	if got := bech32("a", nil); got != "a12uel5l" { // a vector of BIP 173
		t.Errorf("got %s", got)
	}
	if got := bech32("abcdef", []byte{0x00, 0x44, 0x32, 0x14, 0xc7, 0x42, 0x54, 0xb6, 0x35, 0xcf, 0x84, 0x65, 0x3a, 0x56, 0xd7, 0xc6, 0x75, 0xbe, 0x77, 0xdf}); got != "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw" {
		t.Errorf("got %s", got)
	}
}
