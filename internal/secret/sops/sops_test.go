package sops

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
)

// program is the path of the real sops.
var program = sync.OnceValues(func() (string, error) {
	c := exec.Command("../../../scripts/fetch-sops")
	c.Stderr = os.Stderr
	out, err := c.Output()
	return strings.TrimSpace(string(out)), err
})

// person is somebody with an age key.
type person struct {
	id   *age.X25519Identity
	file string
}

func newPerson(t testing.TB) person {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	file := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(file, []byte(id.String()+"\n"), 0o600))
	return person{id, file}
}

func (p person) to() Recipient       { return Recipient{p.id.Recipient().String(), p.id.Recipient()} }
func (p person) ids() []age.Identity { return []age.Identity{p.id} }

// sops runs the program on a file of the given name as p.
func (p person) sops(t testing.TB, name string, data []byte, args ...string) ([]byte, error) {
	t.Helper()
	bin, err := program()
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	c := exec.Command(bin, append(args, name)...)
	c.Dir = dir
	c.Env = []string{"SOPS_AGE_KEY_FILE=" + p.file, "HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return out, err
}

// encrypt is the program with a line of a creation rule.
func (p person) encrypt(t testing.TB, name, data, rule string) []byte {
	t.Helper()
	config := filepath.Join(t.TempDir(), ".sops.yaml")
	must(t, os.WriteFile(config, []byte("creation_rules:\n  - age: "+p.to().Name+"\n    "+rule+"\n"), 0o600))
	out, err := p.sops(t, name, []byte(data), "--config", config, "encrypt")
	must(t, err)
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const exampleYAML = `# head comment
# second

db: # on db
    # above password
    password: hunter2 # inline
    port: 5432
    ratio: 1.50
    big: 1e6
    on: true
    none: null
    empty: ""
    date: 2024-01-02T03:04:05Z
    day: 2024-01-02
    open_unencrypted: open
    port_unencrypted: 0x10
    multi: |
        line one
        line two
    # foot
list:
    # c1
    - a
    - b # inline b
    - x: 1
      y: [1, 2]
    # end list
emptymap: {}
emptylist: []
hex: 0x10
str: "123"
ünï: ☃
# the end
`

const exampleJSON = `{"a":1,"b":{"c":[1.5,true,null,"x",{"d":"<&>\u2028\"\\"}]},"e":"","h":12345678901234567890,"f":{},"g":[],"u_unencrypted":[1,"two",false,1e3]}`

const exampleDotenv = "# c\nA=1\nB=two words\n\nE=\nM=x\\ny\nU_unencrypted=z=1\n#end\n"

const exampleINI = "; top\n[one]\n; kc\na = 1\nb=two ; tail\n[two]\nu_unencrypted=x y\n"

// examples are files of every format with every type and every place for a comment.
var examples = map[string]string{
	"a.yaml": exampleYAML, "a.json": exampleJSON, "a.env": exampleDotenv, "a.ini": exampleINI,
	"a.bin": "\x00\xff binary \u2028\n\t\"quotes\"", "two.yaml": "a: 1\nb: [x]\n---\na: two # c\n---\n# only\nc: d\n",
	"flow.yaml": "{a: 1, b: {c: [x, y]}}\n", "deep.yaml": "a:\n  b:\n    - - x\n      - # why\n        k: v\n    # foot\n  # foot of a\n# foot of all\n",
}

// TestRekey re-keys what sops wrote and has sops read it: the new reader gets what the old one had,
// and the old one nothing.
func TestRekey(t *testing.T) {
	editor, host, host2 := newPerson(t), newPerson(t), newPerson(t)
	for name, text := range examples {
		for _, rule := range []string{"", "mac_only_encrypted: true", "encrypted_regex: ^(password|list|b)$", "unencrypted_regex: ^(a|multi)$",
			"encrypted_suffix: rd", "unencrypted_suffix: b", "encrypted_comment_regex: above", "unencrypted_comment_regex: above"} {
			if FormatOf(name) == Binary && rule != "" {
				continue // has one value and no keys
			}
			t.Run(name+" "+rule, func(t *testing.T) {
				src := editor.encrypt(t, name, text, rule)
				want, err := editor.sops(t, name, src, "decrypt")
				must(t, err)
				f, err := Parse(src)
				must(t, err)
				if f.Check() != nil {
					t.Error(f.Check())
				}
				u, err := f.Unlock(editor.ids())
				must(t, err)
				out, err := u.Rekey([]Recipient{host.to(), host2.to()})
				must(t, err)
				for _, h := range []person{host, host2} {
					got, err := h.sops(t, name, out, "decrypt")
					must(t, err)
					if !bytes.Equal(got, want) && !strings.Contains(string(want), "type:comment") {
						t.Errorf("sops reads\n%s\nbefore it was\n%s", got, want)
					}
				}
				if _, err := editor.sops(t, name, out, "decrypt"); err == nil {
					t.Error("the editor can read what was re-keyed for a host")
				}
				if o, n := strings.Count(string(src), "\n"), strings.Count(string(out), "\n"); FormatOf(name) == JSON && n != o+4 {
					t.Errorf("%d lines became %d", o, n)
				}
				again, err := Parse(out)
				must(t, err)
				if again.shares(f) {
					t.Error("something is under the old data key still")
				}
			})
		}
	}
}

// TestEncrypt takes plaintext, and the plain form of files, through our own encryption to sops.
func TestEncrypt(t *testing.T) {
	editor := newPerson(t)
	now := time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)
	for name, text := range examples {
		if name == "a.ini" || name == "two.yaml" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			sealed := editor.encrypt(t, name, text, "")
			want, err := editor.sops(t, name, sealed, "decrypt")
			must(t, err)
			f, err := Parse(sealed)
			must(t, err)
			u, err := f.Unlock(editor.ids())
			must(t, err)
			plain, err := u.Plain(FormatOf(name))
			must(t, err)
			for what, text := range map[string][]byte{"text": []byte(text), "our plain form": plain} {
				out, err := Encrypt(FormatOf(name), text, []Recipient{editor.to()}, f.Like(), now)
				must(t, err)
				got, err := editor.sops(t, name, out, "decrypt")
				must(t, err)
				if !bytes.Equal(got, want) && name != "a.yaml" && name != "deep.yaml" { // comments move within sops itself
					t.Errorf("of %s sops reads\n%s\nwant\n%s", what, got, want)
				}
				if a, b := values(got), values(want); a != b {
					t.Errorf("of %s sops reads\n%s\nwant\n%s\n\n%s", what, a, b, plain)
				}
				if bytes.Contains(got, []byte("ENC[")) {
					t.Errorf("of %s something stays encrypted:\n%s", what, got)
				}
			}
		})
	}
}

// values is text without comments and spaces.
func values(text []byte) string {
	var out []string
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); !strings.HasPrefix(l, "#") {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

func TestErrors(t *testing.T) {
	editor, other := newPerson(t), newPerson(t)
	src := string(editor.encrypt(t, "a.yaml", "a: TOPSECRET\nb: TOPSECRET2\nc_unencrypted: x\n", ""))
	lines := strings.SplitAfter(src, "\n")
	a := strings.TrimPrefix(strings.TrimSpace(lines[0]), "a: ")
	b := strings.TrimPrefix(strings.TrimSpace(lines[1]), "b: ")
	for name, c := range map[string]struct {
		text, want string
	}{
		"swapped":       {strings.NewReplacer(a, b, b, a).Replace(src), "the value at a does not decrypt"},
		"removed":       {strings.Replace(src, lines[1], "", 1), "MAC"},
		"reordered":     {lines[1] + lines[0] + strings.Join(lines[2:], ""), "MAC"},
		"plain changed": {strings.Replace(src, "c_unencrypted: x", "c_unencrypted: y", 1), "MAC"},
		"in the clear":  {strings.Replace(src, a, "TOPSECRET", 1), "the value at a is not encrypted"},
		"number":        {strings.Replace(src, a, "12", 1), "the value at a is not encrypted"},
		"time":          {strings.Replace(src, "lastmodified: \"2", "lastmodified: \"1", 1), "MAC"},
		"bad time":      {strings.Replace(src, "lastmodified: \"2", "lastmodified: \"x", 1), "lastmodified"},
		"twice":         {lines[0] + src, "the key a stands twice"},
		"alias":         {"x: &x\n    y_unencrypted: 1\nz: *x\n" + src, "z: is an alias"},
		"two rules":     {strings.Replace(src, "    version", "    encrypted_suffix: x\n    version", 1), "both unencrypted_suffix and encrypted_suffix"},
		"bad rule":      {strings.Replace(src, "unencrypted_suffix: _unencrypted", "encrypted_regex: '['", 1), "not a regular expression"},
		"groups":        {strings.Replace(src, "    version", "    key_groups:\n        - age: []\n    version", 1), "key_groups"},
		"no metadata":   {"a: 1\nsops: null\n", "metadata"},
		"key cut":       {strings.Replace(src, "-----END", "----END", 1), "the data key for"},
		"not yaml":      {"sops:\n\tTOPSECRET: [", "not well-formed YAML"},
		"list":          {"- a\n- |\n  x\nsops:\n", "YAML"},
		"deep":          {strings.Repeat(`{"a":`, 500) + "1" + strings.Repeat("}", 500), "not a sops file"},
		"text":          {"password: TOPSECRET\n", "not a sops file"},
		"empty":         {"", "not a sops file"},
	} {
		f, err := Parse([]byte(c.text))
		if err == nil {
			_, err = f.Unlock(editor.ids())
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		} else if strings.Contains(err.Error(), "TOPSECRET") {
			t.Errorf("%s: repeats a value: %v", name, err)
		}
	}
	f, err := Parse([]byte(src))
	must(t, err)
	if _, err := f.Unlock(other.ids()); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("another reads it: %v", err)
	}
}
