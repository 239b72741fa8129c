package secret

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestParseRecipient(t *testing.T) {
	for _, k := range []key{sshKey(t, "ed25519"), sshKey(t, "rsa"), ageKey(t)} {
		_, want, err := ParseRecipient(k.pub)
		must(t, err)
		if strings.Contains(want, "root@") || !strings.HasPrefix(k.pub, want) {
			t.Errorf("normalised %q to %q", k.pub, want)
		}
		for _, same := range []string{want, "  " + want + "\n", strings.Replace(want, " ", "\t ", 1)} {
			if _, got, err := ParseRecipient(same); err != nil || got != want {
				t.Errorf("%q gave %q, %v", same, got, err)
			}
		}
	}
}

func TestParseRecipientRefuses(t *testing.T) {
	ed, host := sshKey(t, "ed25519").pub, ageKey(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	weak, err := ssh.NewPublicKey(&small.PublicKey)
	must(t, err)
	fields := strings.Fields(ed)
	for text, want := range map[string]string{
		"":                                   "empty",
		" \n":                                "empty",
		ed + "\n" + ed:                       "more than one line",
		host.pub + " " + host.pub:            "something follows",
		host.pub[:30]:                        "mistyped or cut short",
		"age1pq1qqqqqq":                      "mistyped or cut short",
		placeholder:                          "placeholder",
		"age1yubikey1qqqqqqqqqqqqqq":         "plugin",
		readFile(t, host.file):               "private key",
		"age-secret-key-1qqq":                "private key",
		"-----BEGIN OPENSSH PRIVATE KEY----": "private key",
		"ssh-ed25519":                        "nothing follows",
		fields[0] + " " + fields[1][:40]:     "cut short",
		fields[0] + " %%%":                   "not base64",
		"ssh-rsa " + fields[1]:               "not such a key",
		sshKey(t, "ecdsa").pub:               "ecdsa-sha2-nistp256",
		"ssh-dss AAAA":                       "ssh-dss",
		"hunter2":                            "not a public key",
		"ssh-ed25519 " + strings.Repeat("A", maxRecipientBytes): "more than 4096 bytes",
		string(ssh.MarshalAuthorizedKey(weak)):                  "has 1024 bits",
		"ssh-ed25519 " + base64.StdEncoding.EncodeToString(append([]byte("\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20"),
			"\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)): "point",
	} {
		_, _, err := ParseRecipient(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: got %v, want %q", text, err, want)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error repeats what was given: %v", err)
		}
	}
}

func FuzzParseRecipient(f *testing.F) {
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN alice@example.com")
	f.Add("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ==")
	f.Add(newRecipient(f))
	f.Add("age1pq1qqqq")
	f.Add("age1yubikey1q")
	f.Fuzz(func(t *testing.T, s string) {
		_, normal, err := ParseRecipient(s)
		if err != nil {
			return
		}
		if _, again, err := ParseRecipient(normal); err != nil || again != normal {
			t.Errorf("%q gave %q, which gives %q, %v", s, normal, again, err)
		}
		if _, err := stanzaFor(normal); err != nil {
			t.Errorf("%q: %v", normal, err)
		}
	})
}
