package sops

import (
	"bytes"
	"testing"
	"time"

	"filippo.io/age"
)

// newFile is a file of ours for a key that is not kept.
func newFile(f *testing.F, format Format, text string) []byte {
	f.Helper()
	id, err := age.GenerateX25519Identity()
	must(f, err)
	out, err := Encrypt(format, []byte(text), []Recipient{{id.Recipient().String(), id.Recipient()}}, Like{}, time.Unix(1e9, 0))
	must(f, err)
	return out
}

// FuzzParse: no file makes the reader fail otherwise than by an error, and what it reads hangs together.
func FuzzParse(f *testing.F) {
	for _, s := range []struct {
		format Format
		text   string
	}{{YAML, exampleYAML}, {JSON, exampleJSON}, {Dotenv, exampleDotenv}, {Binary, "x"}} {
		f.Add(newFile(f, s.format, s.text))
	}
	f.Add([]byte("[a]\n; c\nb = ENC[AES256_GCM,data:,iv:,tag:,type:str]\n[sops]\nmac=x\nlastmodified = 2024-01-01T00:00:00Z\nage__list_0__map_enc=x\n"))
	f.Add([]byte("a: &a [*a]\nsops: {mac: x, lastmodified: 2024-01-01, age: [{}]}\n"))
	f.Add([]byte("a: 1\nsops:\n    mac: x\n    lastmodified: \"2024-01-01T00:00:00Z\"\n    age:\n        - {}\n---\n- x\n"))
	key := make([]byte, keyBytes)
	f.Fuzz(func(t *testing.T, src []byte) {
		file, err := Parse(src)
		if err != nil {
			return
		}
		_, _ = file.Check(), file.Empty()
		for _, l := range file.leaves {
			if l.at.from < 0 || l.at.to > len(src) || l.at.from > l.at.to {
				t.Fatalf("a value stands at %v of %d bytes", l.at, len(src))
			}
			if !l.comment && len(l.path) > 0 && !bytes.ContainsAny([]byte(l.path[0]), "/") && !file.Has(l.path[0]) {
				t.Fatalf("does not have %q", l.path[0])
			}
		}
		if _, err := file.unlockWith(key); err == nil {
			t.Fatal("the MAC fits a key that nobody has used")
		}
		if _, err := file.Unlock(nil); err == nil {
			t.Fatal("unlocked by nobody")
		}
	})
}

// FuzzEncrypt: what Encrypt takes, it writes so that it reads back as it was; it verifies that itself, so that only
// its errors count here.
func FuzzEncrypt(f *testing.F) {
	for _, text := range examples {
		f.Add([]byte(text))
	}
	id, err := age.GenerateX25519Identity()
	must(f, err)
	to := []Recipient{{id.Recipient().String(), id.Recipient()}}
	f.Fuzz(func(t *testing.T, plain []byte) {
		for _, format := range []Format{YAML, JSON, Dotenv, Binary} {
			out, err := Encrypt(format, plain, to, Like{}, time.Unix(1e9, 0))
			if err != nil {
				continue
			}
			file, err := Parse(out)
			must(t, err)
			u, err := file.Unlock([]age.Identity{id})
			must(t, err)
			if got, err := u.Plain(format); format == Binary && (err != nil || !bytes.Equal(got, plain)) {
				t.Fatalf("%q became %q, %v", plain, got, err)
			}
		}
	})
}

// FuzzCut: an encrypted value is taken apart or refused.
func FuzzCut(f *testing.F) {
	f.Add("ENC[AES256_GCM,data:,iv:AA==,tag:AAAAAAAAAAAAAAAAAAAAAA==,type:str]")
	c, err := newCrypt(make([]byte, keyBytes))
	must(f, err)
	f.Add(c.seal(value{typeString, []byte("x")}, "a:"))
	f.Fuzz(func(t *testing.T, text string) {
		v, err := c.open(text, "a:")
		if err != nil {
			return
		}
		_, _ = v.typed()
		if again, err := c.open(c.seal(v, "a:"), "a:"); err != nil || !bytes.Equal(again.data, v.data) {
			t.Fatalf("%q, %v", text, err)
		}
	})
}
