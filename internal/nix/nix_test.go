package nix

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

func TestParseVersion(t *testing.T) {
	for said, want := range map[string]string{
		"nix (Nix) 2.8.0":                                    "2.8.0",
		"nix (Nix) 2.34.8":                                   "2.34.8",
		"nix (Nix) 2.35.0pre20260401_0123abc":                "2.35.0pre20260401_0123abc",
		"nix (Lix, like Nix) 2.93.3":                         "2.93.3",
		"nix (Lix, like Nix) 2.94.0-dev\nSystem type: x\n":   "2.94.0-dev",
		"nix (Determinate Nix 3.8.5) 2.30.2":                 "2.30.2",
		"nix (Determinate Nix 3.15.1) 2.33.0\nfeatures: 1.0": "2.33.0",
		"nix (Nix) 3.0":                                      "3.0",
	} {
		if got, err := parseVersion(said); got != want || err != nil {
			t.Errorf("%q is %q, %v", said, got, err)
		}
	}
	for _, said := range []string{"", "nix", "nix (Nix) 2.3.16", "nix (Nix) 2.7.9", "nix (Nix) 1.11", "nix (Determinate Nix 3.8.5) 2.7.0", "2.34\x00"} {
		if v, err := parseVersion(said); fleet.CodeOf(err) != fleet.CodeNixTooOld || v != "" || !strings.Contains(err.Error()+err.(*fleet.Error).Hint, "2.8 or newer") {
			t.Errorf("%q: %q, %v", said, v, err)
		}
	}
}

func TestFind(t *testing.T) {
	if n, err := Find(t.Context()); err != nil || n.Version == "" {
		t.Errorf("%+v, %v", n, err)
	}
	dir := t.TempDir()
	t.Setenv("PATH", dir+":/bin")
	if _, err := os.Stat("/bin/nix"); err == nil {
		t.Setenv("PATH", dir)
	}
	_, err := Find(t.Context())
	if fleet.CodeOf(err) != fleet.CodeMissingTool || !strings.Contains(err.(*fleet.Error).Hint, "install Nix 2.8 or newer") {
		t.Errorf("no nix: %v", err)
	}
	for script, want := range map[string]fleet.Code{
		"#!/bin/sh\necho 'nix (Nix) 2.3.16'\n": fleet.CodeNixTooOld,
		"#!/bin/sh\nexit 1\n":                  fleet.CodeMissingTool,
	} {
		if err := os.WriteFile(filepath.Join(dir, "nix"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(t.Context()); fleet.CodeOf(err) != want || fleet.ClassOf(err) != fleet.Local {
			t.Errorf("%q: %v", script, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Find(ctx); err == nil || fleet.CodeOf(err) == fleet.CodeMissingTool {
		t.Errorf("stopped: %v", err)
	}
}

const (
	hash = "sha256-zqt/yeqvDsjLY+t4c1ueCntkqQ66YipkgKaaPKEYT7k="
	a, b = "/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp-a", "/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-b"
)

func TestParsePathInfo(t *testing.T) {
	one := `{"path":"` + a + `","narHash":"` + hash + `","narSize":120,"references":["` + b + `"],"deriver":null,"ca":"text:sha256:1","signatures":["k:s"],"more":{}}`
	two := `{"path":"` + b + `","narHash":"` + hash + `","narSize":1,"references":[]}`
	for name, in := range map[string]string{
		"list": "[" + two + "," + one + "]", "object": `{"` + b + `":` + two + `,"` + a + `":` + one + `}` + "\n",
	} {
		infos, err := parsePathInfo([]byte(in))
		if err != nil || len(infos) != 2 || infos[0].StorePath != a || infos[1].StorePath != b || infos[0].NarSize != 120 ||
			infos[0].References[0] != b || infos[0].CA != "text:sha256:1" || infos[0].Sigs[0] != "k:s" || infos[0].Deriver != "" {
			t.Errorf("%s: %+v, %v", name, infos, err)
		}
	}
	for name, in := range map[string]string{
		"not valid, new": `{"` + a + `":null}`, "not valid, old": `[{"path":"` + a + `","valid":false}]`, "nothing": "", "text": "error", "hash": `[{"path":"` + a + `","narHash":"md5:x"}]`,
	} {
		if infos, err := parsePathInfo([]byte(in)); err == nil {
			t.Errorf("%s: %+v", name, infos)
		}
	}
}

func FuzzParsePathInfo(f *testing.F) {
	f.Add([]byte(`[{"path":"` + a + `","narHash":"` + hash + `"}]`))
	f.Add([]byte(`{"` + a + `":{"narHash":"` + hash + `"},"` + b + `":null}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		infos, err := parsePathInfo(in)
		for _, i := range infos {
			if err != nil || i.NarHash.IsZero() {
				t.Errorf("%+v, %v", i, err)
			}
		}
	})
}

// evaluated is what Nix makes of an expression.
func evaluated(t *testing.T, expr string) (s string) {
	t.Helper()
	n, err := Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.Store = "dummy://"
	if err := n.eval(t.Context(), &s, expr); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestQuote(t *testing.T) {
	list := []string{"", `"`, `\`, `\\"`, "$", "${x}", "$${x}", "$$${x}", `\${x}`, "a\nb", "a\r\nb", "a\rb", "\t", "''", "ü€😀", "{}", "$\\{", "\x01\x7f"}
	var quoted strings.Builder
	for _, s := range list {
		quoted.WriteString(quote(s) + " ")
	}
	want, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	var got, wanted []string
	if err := json.Unmarshal([]byte(evaluated(t, "builtins.toJSON [ "+quoted.String()+"]")), &got); err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(want, &wanted)
	for i := range wanted {
		if i >= len(got) || got[i] != wanted[i] {
			t.Errorf("%q evaluates to %q", wanted[i], got)
		}
	}
}

func FuzzQuote(f *testing.F) {
	f.Add("${a}\r\n\"\\")
	f.Add("$$${")
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, ""), "\x00", "") // neither can stand in an argument or in JSON
		if got := evaluated(t, quote(s)); got != s {
			t.Errorf("%q evaluates to %q", s, got)
		}
	})
}

func TestMessage(t *testing.T) {
	said := func(s string) error { return &proc.ExitError{Program: "nix", Stderr: s} }
	for in, want := range map[string]string{
		"warning: x\nerror: bad\n  more\n":         "error: bad\n  more",
		"error: bad":                               "error: bad",
		"no error: here":                           "no error: here",
		"error: cannot fetch https://u:secret@h/x": "error: cannot fetch https://…@h/x",
	} {
		if got := Message(said(in), 1000); got != want {
			t.Errorf("%q became %q", in, got)
		}
	}
	if got := Message(said("error: "+strings.Repeat("ü", 100)), 21); got != "…"+strings.Repeat("ü", 10) {
		t.Errorf("%q", got)
	}
	if got := Message(context.Canceled, 100); got != "context canceled" {
		t.Errorf("%q", got)
	}
}

func TestClassOf(t *testing.T) {
	for said, want := range map[string]fleet.Class{
		"error: writing to file: No space left on device":                        fleet.Local,
		"error: unable to download 'https://h/x': HTTP error 503":                fleet.Transient,
		"error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket'": fleet.Local,
		"error: undefined variable 'x'":                                          fleet.Bad,
	} {
		if got := classOf(&proc.ExitError{Stderr: said}, fleet.Bad); got != want {
			t.Errorf("%q is %s", said, got)
		}
	}
}

func TestSecretPath(t *testing.T) {
	c := Contents{Source: "/nix/store/g76zcpqc540lrc8i6g7xy6ip0npn2hnp-source"}
	for file, want := range map[string]string{
		c.Source + "/secrets/a.age": "secrets/a.age", "/root" + c.Source + "/a": "a", c.Source: "", c.Source + "/": "", "/etc/a": "", c.Source + "-2/a": "",
	} {
		if got, ok := c.SecretPath(file); got != want || ok != (want != "") {
			t.Errorf("%s is %q, %v", file, got, ok)
		}
	}
}
