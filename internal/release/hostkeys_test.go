package release

import (
	"fmt"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestSetHostKeys(t *testing.T) {
	for name, c := range map[string]struct {
		before, after string
		keys          []string
	}{
		"no file":        {"", "[secrets.hostKeys]\njoker = \"k\"\n", []string{"k"}},
		"other things":   {"# top\n[hosts]\nmanual = []", "# top\n[hosts]\nmanual = []\n\n[secrets.hostKeys]\njoker = \"k\"\n", []string{"k"}},
		"the table":      {"[secrets.hostKeys] # who\nursula = 'u'\n\n[cache]\nurl = 'x'\n", "[secrets.hostKeys] # who\njoker = [\"a\", \"b\"]\nursula = 'u'\n\n[cache]\nurl = 'x'\n", []string{"a", "b"}},
		"an entry":       {"[ secrets.hostKeys ]\n  joker='old' # since May\nursula = 'u'\n", "[ secrets.hostKeys ]\n  joker=[\"old\", \"new\"] # since May\nursula = 'u'\n", []string{"old", "new"}},
		"a list":         {"[secrets.hostKeys]\n\"joker\" = [\n  'old',\n  'new', # soon\n]\n", "[secrets.hostKeys]\n\"joker\" = \"new\"\n", []string{"new"}},
		"another joker":  {"[cache]\nurl = 'x'\n[secrets.hostKeys]\njoker2 = 'x'\n", "[cache]\nurl = 'x'\n[secrets.hostKeys]\njoker = \"k\"\njoker2 = 'x'\n", []string{"k"}},
		"Windows' lines": {"[secrets.hostKeys]\r\nursula = 'u'\r\n", "[secrets.hostKeys]\r\njoker = \"k\"\r\nursula = 'u'\r\n", []string{"k"}},
		"cut short":      {"[secrets.hostKeys]", "[secrets.hostKeys]\njoker = \"k\"\n", []string{"k"}},
		"lists of lists": {"[[check.commands]]\nname = 'joker'\nrun = 'x'\n[secrets.hostKeys]\nursula = [\n'a',\n'b']\n[[check.commands]]\nname = 'y'\nrun = '''\njoker = \"x\"\n'''\n",
			"[[check.commands]]\nname = 'joker'\nrun = 'x'\n[secrets.hostKeys]\njoker = \"k\"\nursula = [\n'a',\n'b']\n[[check.commands]]\nname = 'y'\nrun = '''\njoker = \"x\"\n'''\n", []string{"k"}},
	} {
		got, err := SetHostKeys("garrison.toml", []byte(c.before), "joker", c.keys)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	got, err := SetHostKeys("garrison.toml", nil, "joker.example.org", []string{"k"})
	if err != nil || string(got) != "[secrets.hostKeys]\n\"joker.example.org\" = \"k\"\n" {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestSetHostKeysRefuses what it cannot write into, and says what to write by hand.
func TestSetHostKeysRefuses(t *testing.T) {
	for _, text := range []string{
		"[secrets]\nhostKeys.ursula = 'u'\n", "[secrets]\nhostKeys = { ursula = 'u' }\n", "secrets.hostKeys.joker = 'j'\n",
		"[check]\ncommands = [{ name = 'x', run = '''\n[secrets.hostKeys]\n''' }]\n",
	} {
		_, err := SetHostKeys("garrison.toml", []byte(text), "joker", []string{"k"})
		if fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(fmt.Sprintf("%+v", err), "garrison.toml") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := SetHostKeys("garrison.toml", []byte("nonsense"), "joker", []string{"k"}); fleet.CodeOf(err) != fleet.CodeConfig {
		t.Errorf("%v", err)
	}
}

func FuzzSetHostKeys(f *testing.F) {
	for _, text := range []string{"", "[secrets.hostKeys]\njoker = 'a'\n", "[secrets]\neditors = ['x']\n[secrets.hostKeys]\nursula = ['a', 'b']\n[cache]\nurl = 'x'\n"} {
		f.Add([]byte(text), "joker")
		f.Add([]byte(text), "a.b")
	}
	f.Fuzz(func(t *testing.T, data []byte, host string) {
		if !fleet.ValidHostName(host) {
			return
		}
		out, err := SetHostKeys("garrison.toml", data, host, []string{"k1", "k2"})
		if err != nil {
			return
		}
		c, err := ParseConfig("garrison.toml", out)
		if keys := c.HostKeys(host); err != nil || len(keys) != 2 || keys[1] != "k2" {
			t.Errorf("%q: %v, %v", out, keys, err)
		}
	})
}
