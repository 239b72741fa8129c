package tomlfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

type example struct {
	Name  string     `toml:"name"`
	Maybe *bool      `toml:"maybe"`
	Poll  Duration   `toml:"poll"`
	Waits []Duration `toml:"waits"`
	Hosts struct {
		Manual []string `toml:"manual"`
	} `toml:"hosts"`
	Remotes []struct {
		URL string `toml:"url"`
	} `toml:"remotes"`
	Keys map[string]struct {
		Public string `toml:"public"`
	} `toml:"keys"`
}

func TestDecode(t *testing.T) {
	var v example
	err := Decode("x.toml", []byte("name='a'\npoll='90s'\n[hosts]\nmanual=['h']\n[[remotes]]\nurl='u'\n[keys.k]\npublic='p'\n"), &v)
	if err != nil || time.Duration(v.Poll) != 90*time.Second || v.Hosts.Manual[0] != "h" || v.Remotes[0].URL != "u" || v.Keys["k"].Public != "p" {
		t.Fatalf("got %+v, %v", v, err)
	}
}

func TestErrorsNameFileLineAndNearMiss(t *testing.T) {
	for _, c := range []struct{ in, want, hint string }{
		{"name='a'\nnmae='b'\n", `x.toml:2: unknown key "nmae"`, `did you mean "name"?`},
		{"[hosts]\nmanaul=[]\n", `x.toml:2: unknown key "hosts.manaul"`, `did you mean "manual"?`},
		{"[[remotes]]\nurk='u'\n", `x.toml:2: unknown key "remotes.urk"`, `did you mean "url"?`},
		{"[keys.k]\npubic='p'\n", `x.toml:2: unknown key "keys.k.pubic"`, `did you mean "public"?`},
		{"zzzzzzzzz=1\n", `x.toml:1: unknown key "zzzzzzzzz"`, "allowed here: hosts, keys, maybe, name, poll, remotes, waits"},
		{"name=3\n", "x.toml:1:6: name must be a string", ""},
		{"maybe='yes'\n", "x.toml:1:7: maybe must be true or false", ""},
		{"[hosts]\nmanual='h'\n", `x.toml:2:8: hosts.manual must be a list of strings: ["…"]`, ""},
		{"waits='1s'\n", `waits must be a list of strings: ["…"]`, ""},
		{"waits=['1s', 'soon']\n", `"soon" is not a positive duration`, ""},
		{"hosts=1\n", "hosts must be a table: […]", ""},
		{"remotes='u'\n", "remotes must be a list of tables: [[…]]", ""},
		{"[keys.k]\npublic=1\n", "keys.k.public must be a string", ""},
		{"name='a'\nname='b'\n", "name is already defined", ""},
		{"name='a\n", "x.toml:1:", ""},
		{"poll='-1s'\n", "positive duration", ""},
		{"poll='soon'\n", "positive duration", ""},
	} {
		var v example
		err := Decode("x.toml", []byte(c.in), &v)
		if err == nil || fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v", c.in, err)
			continue
		}
		if c.hint != "" && err.(*fleet.Error).Hint != c.hint {
			t.Errorf("%q: hint %q", c.in, err.(*fleet.Error).Hint)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name='a'\n[hosts]\nx=1\n")
	f.Fuzz(func(t *testing.T, s string) {
		var v example
		if err := Decode("x.toml", []byte(s), &v); err != nil && fleet.CodeOf(err) != fleet.CodeConfig {
			t.Fatal(err)
		}
	})
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	var v example
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, []byte(strings.Repeat("#", MaxBytes+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "nowhere.toml"), dir, large} {
		if err := Read(file, &v); fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
	if d := Duration(0); d.Or(time.Second) != time.Second || Duration(time.Hour).Or(time.Second) != time.Hour {
		t.Error("Or")
	}
}
