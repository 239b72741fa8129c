package secret

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestLoadIdentities(t *testing.T) {
	one, two := readFile(t, ageKey(t).file), readFile(t, ageKey(t).file)
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"age":          {one, 1},
		"two":          {"# a comment\n\n" + one + two, 2},
		"line endings": {strings.ReplaceAll(one, "\n", "\r\n"), 1},
		"ed25519":      {readFile(t, sshKey(t, "ed25519").file), 1},
		"rsa":          {readFile(t, sshKey(t, "rsa").file), 1},
	} {
		ids, err := LoadIdentities(writeFile(t, c.text))
		if err != nil || len(ids) != c.want {
			t.Errorf("%s: %d identities, %v", name, len(ids), err)
		}
	}
}

func TestLoadIdentitiesRefuses(t *testing.T) {
	good := readFile(t, ageKey(t).file)
	secret := good[strings.Index(good, "AGE-SECRET-KEY-1"):]
	ssh := readFile(t, sshKey(t, "ed25519").file)
	locked := filepath.Join(t.TempDir(), "locked")
	run(t, nil, "ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", locked)
	for text, want := range map[string]string{
		"":                                   "empty",
		"# nothing\n":                        "only comments",
		"hunter2\n":                          "line 1 is not an AGE-SECRET-KEY",
		good + "hunter2\n":                   "line 4 is not",
		strings.TrimSpace(secret)[:60]:       "mistyped or cut short",
		ageKey(t).pub:                        "public key",
		sshKey(t, "ed25519").pub:             "public key",
		"AGE-PLUGIN-YUBIKEY-1QQQ":            "plugin",
		ssh[:len(ssh)/2]:                     "cannot be parsed",
		readFile(t, locked):                  "passphrase",
		readFile(t, sshKey(t, "ecdsa").file): "type ecdsa.PrivateKey",
		string(encrypt(t, good, []string{"-a"}, ageKey(t))): "encrypted by age",
		string(encrypt(t, good, nil, ageKey(t))):            "encrypted by age",
	} {
		path := writeFile(t, text)
		_, err := LoadIdentities(path)
		expectError(t, err, fleet.Local, fleet.CodeKey, want, path)
		for _, leak := range []string{"hunter2", "AGE-SECRET-KEY-1", "1QQQ"} {
			if strings.Contains(err.Error(), leak) {
				t.Errorf("repeats the file: %v", err)
			}
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	_, err := LoadIdentities(none)
	expectError(t, err, fleet.Local, fleet.CodeKey, none, "no such file")
	_, err = LoadIdentities(filepath.Dir(none))
	expectError(t, err, fleet.Local, fleet.CodeKey, "is a directory")
	_, err = LoadIdentities(writeFile(t, strings.Repeat("#\n", maxIdentityBytes)))
	expectError(t, err, fleet.Local, fleet.CodeKey, "more than 1048576 bytes")
}
