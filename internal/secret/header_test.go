package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
)

func TestStanzas(t *testing.T) {
	ed, rsa, x := sshKey(t, "ed25519"), sshKey(t, "rsa"), ageKey(t)
	for _, args := range [][]string{nil, {"-a"}} {
		file := encrypt(t, "value", args, ed, rsa, x, x)
		got, err := Stanzas(iotest.OneByteReader(bytes.NewReader(file)))
		must(t, err)
		edTag, err := stanzaFor(ed.pub)
		must(t, err)
		rsaTag, err := stanzaFor(rsa.pub)
		must(t, err)
		want := fmt.Sprintf("[%s %s X25519 X25519]", edTag, rsaTag)
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

func TestStanzasRefuses(t *testing.T) {
	file := encrypt(t, "value", nil, ageKey(t))
	armored := encrypt(t, "value", []string{"-a"}, ageKey(t))
	line := strings.Repeat("A", 64) + "\n"
	for name, c := range map[string]struct {
		text string
		want error
	}{
		"empty":           {"", ErrNotAge},
		"text":            {"password: hunter2\n", ErrNotAge},
		"version 2":       {"age-encryption.org/v2\n-> hunter2\n", ErrNotAge},
		"cut":             {string(file[:40]), ErrHeader},
		"armor cut":       {string(armored[:60]), ErrHeader},
		"armored text":    {"-----BEGIN AGE ENCRYPTED FILE-----\nhunter2\n", ErrHeader},
		"no stanza":       {"age-encryption.org/v1\n--- hunter2\n", ErrHeader},
		"endless":         {"age-encryption.org/v1\n-> X25519 a\n" + strings.Repeat(line, 64<<10), ErrHeader},
		"endless line":    {"age-encryption.org/v1\n" + strings.Repeat("-> ", 4<<20), ErrHeader},
		"endless armor":   {"-----BEGIN AGE ENCRYPTED FILE-----\n" + strings.Repeat("A", 8<<20), ErrHeader},
		"too many spaces": {strings.Repeat("\n", 4096) + string(armored), ErrNotAge},
	} {
		r := &counted{r: strings.NewReader(c.text)}
		_, err := Stanzas(r)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: repeats the file: %v", name, err)
		}
		if r.n > maxHeaderBytes {
			t.Errorf("%s: %d bytes were read", name, r.n)
		}
	}
	broken := errors.New("broken")
	for _, before := range []string{"", "age-encryption.org/v1\n", string(file[:40])} {
		if _, err := Stanzas(io.MultiReader(strings.NewReader(before), iotest.ErrReader(broken))); !errors.Is(err, broken) {
			t.Errorf("after %d bytes: %v", len(before), err)
		}
	}
}

type counted struct {
	r io.Reader
	n int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestCheckStanzas(t *testing.T) {
	ed, rsa, x, other := sshKey(t, "ed25519"), sshKey(t, "rsa"), ageKey(t), sshKey(t, "ed25519")
	for _, c := range []struct {
		in, for_ []key
		want     string
	}{
		{[]key{ed, rsa, x}, []key{x, ed, rsa}, ""},
		{[]key{x, x}, []key{x, ageKey(t)}, ""}, // anonymous: only counted
		{[]key{ed}, []key{ed, other}, "not encrypted for ssh-ed25519"},
		{[]key{ed, other}, []key{ed}, "also encrypted for ssh-ed25519"},
		{[]key{other}, []key{ed}, "; it is also"},
		{[]key{ed, x}, []key{ed}, "also encrypted for X25519"},
		{[]key{ed, x, x}, []key{ed}, "2× X25519"},
		{[]key{ed}, []key{x}, "not encrypted for X25519"},
		{[]key{ed, ed}, []key{ed}, "also encrypted for ssh-ed25519"},
	} {
		var public []string
		for _, k := range c.for_ {
			public = append(public, k.pub)
		}
		err := CheckStanzas(encrypt(t, "value", nil, c.in...), public)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
	if err := CheckStanzas(encrypt(t, "value", nil, ed), []string{"ssh-ed25519 %"}); err == nil {
		t.Error("nonsense as recipient")
	}
	if err := CheckStanzas(nil, nil); !errors.Is(err, ErrNotAge) {
		t.Errorf("got %v", err)
	}
}

func TestCheckStanzasToleratesGreaseOnly(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	recipient := id.Recipient()
	for kind, ok := range map[string]bool{"Xj3}-grease": true, "something-new": true, "scrypt": false, "piv-p256": false} {
		file, err := seal(plaintext{data: []byte("value")}, []age.Recipient{recipient, stanzaOf(kind)})
		must(t, err)
		if err := CheckStanzas(file, []string{recipient.String()}); (err == nil) != ok {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// stanzaOf is a recipient that adds a stanza of its kind.
type stanzaOf string

func (s stanzaOf) Wrap([]byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: string(s), Args: []string{"tag"}, Body: []byte("body")}}, nil
}

func FuzzStanzas(f *testing.F) {
	x := ageKey(f)
	for _, args := range [][]string{nil, {"-a"}} {
		f.Add(encrypt(f, "value", args, x, sshKey(f, "ed25519")))
	}
	f.Add([]byte("age-encryption.org/v1\n-> X25519 a\n\n--- \n"))
	f.Add([]byte("\n\n-----BEGIN AGE ENCRYPTED FILE-----\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		stanzas, err := Stanzas(bytes.NewReader(file))
		if err == nil && len(stanzas) == 0 {
			t.Error("neither stanzas nor an error")
		}
		if err != nil && !errors.Is(err, ErrNotAge) && !errors.Is(err, ErrHeader) {
			t.Errorf("error %v", err)
		}
		if (CheckStanzas(file, nil) == nil) && err != nil {
			t.Error("a file without header passes")
		}
	})
}
