package secret

import (
	"strings"
	"testing"
	"time"

	"filippo.io/age"
)

// FuzzFile shows arbitrary bytes to everything that looks at a secret file without a key.
func FuzzFile(f *testing.F) {
	id, err := age.GenerateX25519Identity()
	must(f, err)
	_, ssh, err := ParseRecipient("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN")
	must(f, err)
	to, err := ParseEditors([]string{ssh, id.Recipient().String()}, nil)
	must(f, err)
	for path, text := range map[string]string{"a.age": "x", "a.yaml": "a: x\n", "a.json": `{"a": "x"}`, "a.env": "A=x\n", "bin.sops": "x"} {
		file, err := EncryptFor(path, KindAuto, []byte(text), to, time.Unix(1e9, 0))
		must(f, err)
		f.Add(file)
		f.Add(file[:len(file)/2])
	}
	file, err := seal(plaintext{data: []byte("x"), armored: true}, to.recipients)
	must(f, err)
	f.Add(file)
	f.Add([]byte("age-encryption.org/v1\n-> X25519 \n--- \n"))
	f.Add([]byte("version https://git-lfs.github.com/spec/v1\n"))
	keys := NewKeyring(map[string][]string{"joker": {ssh}}, []string{id.Recipient().String()})
	f.Fuzz(func(t *testing.T, data []byte) {
		kind, why := KindOf(data), whyPlain(data)
		_, err := ReadersOf(data, keys)
		if kind == KindAuto && err == nil {
			t.Error("a file of no kind has readers")
		}
		if err := CheckStanzas(data, nil); kind == KindAuto && err == nil {
			t.Error("a file of no kind is encrypted")
		}
		if _, err := PlanReseal([]SourceFile{{"f", data, to}}, keys); err == nil && kind == KindAuto || len(data) > 0 && kind == KindAuto && why == "" && strings.TrimSpace(string(data)) != "" {
			t.Errorf("%q passes for encrypted: %v", data, err)
		}
		if o, err := Open("f", data, []age.Identity{id}); err == nil {
			o.Wipe()
		}
	})
}

// FuzzIdentities reads arbitrary bytes as private keys; errors repeat nothing of them.
func FuzzIdentities(f *testing.F) {
	id, err := age.GenerateX25519Identity()
	must(f, err)
	f.Add([]byte("# a comment\n\n" + id.String() + "\n"))
	f.Add([]byte("AGE-PLUGIN-YUBIKEY-1QQPQQ"))
	f.Add([]byte("AGE-SECRET-KEY-PQ-1QQQQ"))
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ==\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nMAA=\n-----END RSA PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ids, err := parseIdentities(data, silentUI())
		if (err == nil) != (len(ids) > 0) {
			t.Errorf("%d identities, %v", len(ids), err)
		}
		if err == nil {
			return
		}
		for word := range strings.FieldsSeq(string(data)) {
			if len(word) > 24 && strings.Contains(err.Error(), word) {
				t.Errorf("the error repeats what was read: %v", err)
			}
		}
	})
}
