package secret

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// key is a key pair made by the real programs.
type key struct {
	file string // private key
	pub  string // as it stands in the .pub file or is printed, comment included
}

func sshKey(t testing.TB, kind string) key {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	run(t, nil, "ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "root@some host", "-f", file)
	return key{file, strings.TrimSpace(readFile(t, file+".pub"))}
}

func ageKey(t testing.TB) key {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	run(t, nil, "age-keygen", "-o", file)
	return key{file, strings.TrimSpace(string(run(t, nil, "age-keygen", "-y", file)))}
}

// encrypt is the age program.
func encrypt(t testing.TB, text string, args []string, to ...key) []byte {
	t.Helper()
	for _, k := range to {
		args = append(args, "-r", k.pub)
	}
	return run(t, []byte(text), "age", args...)
}

// decryptWith is the age program; it returns its error for keys that do not fit.
func decryptWith(t testing.TB, file []byte, k key) (string, error) {
	t.Helper()
	c := exec.Command("age", "-d", "-i", k.file)
	c.Stdin = bytes.NewReader(file)
	out, err := c.Output()
	return string(out), err
}

func run(t testing.TB, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Stdin = bytes.NewReader(stdin)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, errs.String())
	}
	return out
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	must(t, err)
	return string(data)
}

func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// repo stands for the source branch and its blobs.
type repo struct {
	blobs map[string][]byte
	paths map[string]string
}

func newRepo() *repo { return &repo{map[string][]byte{}, map[string]string{}} }

func (r *repo) put(path string, data []byte) {
	id := blobID(data)
	r.blobs[id], r.paths[path] = data, id
}

func (r *repo) read(blob string) ([]byte, error) {
	data, ok := r.blobs[blob]
	if !ok {
		return nil, fmt.Errorf("no blob %s", blob)
	}
	return data, nil
}

func blobID(data []byte) string {
	sum := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(data), data))
	return hex.EncodeToString(sum[:])
}

// released is the record of a release that has the given files.
func released(t testing.TB, p *Plan, files map[string][]byte) *fleet.Secrets {
	t.Helper()
	ids := make(map[string]string)
	for path, data := range files {
		ids[path] = blobID(data)
	}
	s, err := p.Records(ids)
	must(t, err)
	return s
}

// fileKeyOf returns the key that a file's content is encrypted under.
func fileKeyOf(t *testing.T, file []byte, id age.Identity) string {
	t.Helper()
	spy := &keySpy{Identity: id}
	r, err := age.Decrypt(bytes.NewReader(file), spy)
	must(t, err)
	_, err = io.Copy(io.Discard, r)
	must(t, err)
	return string(spy.key)
}

type keySpy struct {
	age.Identity
	key []byte
}

func (s *keySpy) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	k, err := s.Identity.Unwrap(stanzas)
	s.key = bytes.Clone(k)
	return k, err
}

// expectError checks the code and class of err and that it says each of parts.
func expectError(t *testing.T, err error, class fleet.Class, code fleet.Code, parts ...string) {
	t.Helper()
	var e *fleet.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a fleet.Error", err)
	}
	if e.Class != class || e.Code != code {
		t.Errorf("class %s, code %s; want %s, %s: %v", e.Class, e.Code, class, code, err)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%q does not say %q", err, p)
		}
	}
}
