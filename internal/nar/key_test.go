package nar_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nar"
)

func TestKeyRoundTrip(t *testing.T) {
	key, err := nar.GenerateKey("fleet-1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := nar.ParsePrivateKey(" " + key.Encode() + "\n")
	if err != nil {
		t.Fatal(err)
	}
	public, err := nar.ParsePublicKey(key.Public().String())
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte("1;…")
	sig := again.Sign(msg)
	if !public.Verify(msg, sig) || !nar.ValidSignature(sig) {
		t.Error("its own signature does not verify")
	}
	for name, bad := range map[string]string{
		"another name": "x" + sig, "cut": sig[:len(sig)-4], "none": "", "no name": sig[len("fleet-1"):],
	} {
		if public.Verify(msg, bad) {
			t.Errorf("%s: it verifies", name)
		}
	}
	if public.Verify([]byte("2;…"), sig) || (nar.PublicKey{Name: "fleet-1"}).Verify(msg, sig) {
		t.Error("it verifies for another text or without a key")
	}
}

func TestPrivateKeyIsNotPrinted(t *testing.T) {
	key, err := nar.GenerateKey("k")
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(key.Encode(), "k:")
	for _, s := range []string{fmt.Sprint(key), fmt.Sprintf("%q", key), fmt.Sprintf("%v", key)} {
		if strings.Contains(s, secret) {
			t.Errorf("%q gives the key away", s)
		}
	}
	_, err = nar.ParsePrivateKey("k:" + secret[:40] + "!")
	if err == nil || strings.Contains(err.Error(), secret[:20]) {
		t.Errorf("the error gives the key away: %v", err)
	}
}

func TestParsePrivateKeyRefuses(t *testing.T) {
	a, errA := nar.GenerateKey("k")
	b, errB := nar.GenerateKey("k")
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	mixed := a.Encode()[:40] + b.Encode()[40:]
	for _, s := range []string{"", "k", ":" + a.Encode()[2:], "k:", "k:AAAA", "a b:" + a.Encode()[2:], a.Public().String(), mixed} {
		if _, err := nar.ParsePrivateKey(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	if _, err := nar.GenerateKey("a:b"); err == nil {
		t.Error("a name with a colon was accepted")
	}
}
