package secret

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestEdit(t *testing.T) {
	editor, second, out := sshKey(t, "ed25519"), ageKey(t), ageKey(t)
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	alone, err := ParseEditors([]string{editor.pub}, nil)
	must(t, err)
	both, err := ParseEditors([]string{editor.pub, second.pub}, nil)
	must(t, err)
	_, normal, err := ParseRecipient(editor.pub)
	must(t, err)
	converted, err := sopsName(normal)
	must(t, err)
	now := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	yaml := "# why\na: one\nb_unencrypted: open\n"
	for path, c := range map[string]struct {
		file        []byte
		text, to    string
		keepsSuffix string
	}{
		"a.age":   {encrypt(t, "one", nil, editor), "one", "two", ""},
		"arm.age": {encrypt(t, "one", []string{"-a"}, editor), "one", "two", "-----END AGE ENCRYPTED FILE-----\n"},
		"a.yaml":  {sopsEncrypt(t, "a.yaml", yaml, editor), yaml, "# why\na: two\nb_unencrypted: closed\nc:\n    - 1\n", ""},
		"b.yaml":  {sopsEncrypt(t, "a.yaml", yaml, key{pub: converted}), yaml, "a: two\n", ""},
		"a.env":   {sopsEncrypt(t, "a.env", "A=1\n", editor), "A=1\n", "A=2\nB=3\n", ""},
		"bin":     {sopsEncrypt(t, "bin", "one\x00", editor), "one\x00", "\xff", ""},
	} {
		o, err := Open(path, c.file, ids)
		if err != nil || string(o.Data) != c.text {
			t.Errorf("%s: %q, %v", path, o.Data, err)
			continue
		}
		same, err := o.Seal([]byte(c.text), alone, now)
		if err != nil || !bytes.Equal(same, c.file) {
			t.Errorf("%s: nothing was changed, but the file was: %v", path, err)
		}
		edited, err := o.Seal([]byte(c.to), both, now)
		must(t, err)
		for _, k := range []key{editor, second} {
			ids, err := LoadIdentities(k.file)
			must(t, err)
			if o, err := Open(path, edited, ids); err != nil || string(o.Data) != c.to {
				t.Errorf("%s: %v", path, err)
			}
		}
		stranger, err := LoadIdentities(out.file)
		must(t, err)
		_, err = Open(path, edited, stranger)
		expectError(t, err, fleet.Bad, fleet.CodeSecret, path, "none of the 1 identities")
		if !strings.HasSuffix(string(edited), c.keepsSuffix) || path == "b.yaml" && !bytes.Contains(edited, []byte("recipient: "+converted)) {
			t.Errorf("%s changed its form", path)
		}
		if err := CheckStanzas(edited, both.names); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		data := o.Data[:cap(o.Data)]
		o.Wipe()
		if len(bytes.Trim(data, "\x00")) > 0 {
			t.Errorf("%s: plaintext is left", path)
		}
	}
}

func TestEditRefuses(t *testing.T) {
	editor := ageKey(t)
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	to, err := ParseEditors([]string{editor.pub}, nil)
	must(t, err)
	_, err = ParseEditors([]string{editor.pub, "TOPSECRET", "age1x1qqq"}, nil)
	expectError(t, err, fleet.Bad, fleet.CodeKey, "key 2", "key 3")
	_, err = ParseEditors(nil, nil)
	expectError(t, err, fleet.Bad, fleet.CodeKey, "no editors")
	for path, text := range map[string]string{"a.age": "", "a.yaml": "- TOPSECRET\n", "b.yaml": "sops: TOPSECRET\n", "a.json": "TOPSECRET", "a.ini": "[a]\n", "a.env": "TOPSECRET", "c.yaml": "a: &x TOPSECRET\nb: *x\n"} {
		_, err := EncryptFor(path, KindAuto, []byte(text), to, time.Now())
		expectError(t, err, fleet.Bad, fleet.CodeSecret, path)
		if strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%s: %v", path, err)
		}
	}
	file := bytes.Replace(sopsEncrypt(t, "a.yaml", "a: x\n", editor), []byte("sops:\n"), []byte("sops:\n    pgp:\n        - fp: ABCD\n"), 1)
	_, err = Open("a.yaml", file, ids)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "keys of kind pgp, which would be lost")
	_, err = Open("a.ini", sopsEncrypt(t, "a.ini", "[a]\nb=c\n", editor), ids)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "INI")
}
