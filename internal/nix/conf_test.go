package nix_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nix"
)

func TestAddToConf(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "extra-substituters = a b\n"},
		"others":          {"# c\ncores = 4", "# c\ncores = 4\nextra-substituters = a b\n"},
		"there":           {"substituters = x a b # note\n", "substituters = x a b # note\n"},
		"one is there":    {"substituters = x a # note\n", "substituters = x a b # note\n"},
		"adds":            {"extra-substituters = x\n", "extra-substituters = x a b\n"},
		"old name":        {"binary-caches=x\ncores = 4\n", "binary-caches= x a b\ncores = 4\n"},
		"last counts":     {"substituters = a b\nsubstituters = x\n", "substituters = a b\nsubstituters = x a b\n"},
		"both":            {"substituters = a\nextra-substituters = b\n", "substituters = a\nextra-substituters = b\n"},
		"commented":       {"# substituters = a b\n", "# substituters = a b\nextra-substituters = a b\n"},
		"longer names":    {"trusted-substituters = a b\n", "trusted-substituters = a b\nextra-substituters = a b\n"},
		"nothing set":     {"substituters =\n", "substituters = a b\n"},
		"no line's end":   {"substituters = x", "substituters = x a b\n"},
		"Windows":         {"substituters = x\r\ncores = 4\r\n", "substituters = x a b\ncores = 4\r\n"},
		"include is kept": {"include other.conf\n!include more.conf\n", "include other.conf\n!include more.conf\nextra-substituters = a b\n"},
	} {
		got := nix.AddToConf(c.text, "substituters", "a", "b")
		if got != c.want {
			t.Errorf("%s: %q", name, got)
		}
		if again := nix.AddToConf(got, "substituters", "a", "b"); again != got {
			t.Errorf("%s, again: %q", name, again)
		}
	}
	if v := nix.ConfValue("a = 1 # c\nb = 2\na = 3 4\n#a = 5\n", "a"); v != "3 4" {
		t.Error(v)
	}
}

func TestAddToNetrc(t *testing.T) {
	const entry = "machine h login garrison password t\n"
	for name, c := range map[string]struct{ text, want string }{
		"empty":        {"", entry},
		"others":       {"machine o login l password p", "machine o login l password p\n" + entry},
		"replaced":     {"machine o password p\nmachine h\n  password old\nmachine z password q\n", "machine o password p\n" + entry + "machine z password q\n"},
		"there":        {"machine h\nlogin garrison\npassword t\n", "machine h\nlogin garrison\npassword t\n"},
		"default":      {"machine o password p\ndefault login x password y\n", "machine o password p\n" + entry + "default login x password y\n"},
		"named so":     {"machine machine password machine\nmachine h password default\n", "machine machine password machine\n" + entry},
		"macro":        {"macdef init\nmachine h password x\n\nmachine o password p\n", "macdef init\nmachine h password x\n\nmachine o password p\n" + entry},
		"second stays": {"machine h password a\nmachine h login other password b\n", entry + "machine h login other password b\n"},
	} {
		got, err := nix.AddToNetrc(c.text, "h", "garrison", "t")
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if again, err := nix.AddToNetrc(got, "h", "garrison", "t"); err != nil || again != got {
			t.Errorf("%s, again: %q, %v", name, again, err)
		}
	}
	for _, bad := range []string{"", "a b", "a\nmachine x", `"`, "#"} {
		if _, err := nix.AddToNetrc("", "h", "garrison", bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzAddToNetrc(f *testing.F) {
	f.Add("machine h password x\nmacdef a\nb\n\ndefault password y")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := nix.AddToNetrc(text, "h", "garrison", "t")
		if err != nil {
			return
		}
		again, err := nix.AddToNetrc(got, "h", "garrison", "t")
		if err != nil || again != got {
			t.Errorf("%q, then %q", got, again)
		}
		if n := len(strings.Fields(got)); n < 6 {
			t.Errorf("%q", got)
		}
	})
}

func FuzzAddToConf(f *testing.F) {
	f.Add("substituters = a # b\nextra-substituters=c\n")
	f.Fuzz(func(t *testing.T, text string) {
		got := nix.AddToConf(text, "substituters", "x", "y")
		if again := nix.AddToConf(got, "substituters", "x", "y"); again != got {
			t.Errorf("%q, then %q", got, again)
		}
	})
}
