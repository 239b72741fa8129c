package secret

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Kinds of stanzas. The first four are what recipients of ours give.
const (
	stanzaEd25519 = "ssh-ed25519"
	stanzaRSA     = "ssh-rsa"
	stanzaX25519  = "X25519"
	stanzaHybrid  = "mlkem768x25519"
)

// Kinds that other recipients give: passphrases and hardware keys. A release has none of them.
var foreignStanzas = []string{"scrypt", "piv-p256", "p256tag", "mlkem768p256tag"}

// ErrNotAge says that bytes are not an age file at all.
var ErrNotAge = errors.New("not an age file")

// ErrHeader says that bytes begin as an age file does, but its header is damaged
// or longer than age allows.
var ErrHeader = errors.New("the header of the age file is damaged")

// Stanza says for whom a file is encrypted, as far as one can tell without a key.
type Stanza struct {
	Type string // ssh-ed25519, ssh-rsa, X25519, …
	Tag  string // names the key, for SSH keys; the others are anonymous
}

// String is the type and the tag, if there is one.
func (s Stanza) String() string { return strings.TrimSpace(s.Type + " " + s.Tag) }

// Stanzas reads the header of an age file, binary or armored, and returns its
// stanzas in their order. It reads a bounded part of r. The error is or wraps ErrNotAge or
// ErrHeader, or is r's; it never repeats what was read, which may be plaintext
// that somebody forgot to encrypt.
func Stanzas(r io.Reader) ([]Stanza, error) {
	bounded := &tapped{r: io.LimitReader(r, maxHeaderBytes)}
	src, _, err := dearmor(bounded)
	if err != nil {
		return nil, err
	}
	var seen recorder
	_, _ = age.Decrypt(src, &seen) // it always fails: no file is for the recorder
	switch {
	case seen.called:
		return seen.stanzas, nil
	case bounded.err != nil:
		return nil, bounded.err
	default:
		return nil, ErrHeader
	}
}

// maxHeaderBytes is somewhat more than age's bound of 2 MiB takes when armored.
const maxHeaderBytes = 3 << 20

// CheckStanzas says whether an age or sops file is encrypted for the given normalised
// recipients and nobody else. A sops file names its recipients. In an age file SSH keys are recognised by their tags, X25519 and
// hybrid keys are anonymous and are counted. Stanzas of unknown kinds are let pass: age
// lets programs add meaningless ones. Tags are 32 bits long: enough against
// mistakes, not against somebody who makes a key to fit one.
func CheckStanzas(blob []byte, recipients []string) error {
	if KindOf(blob) == KindSops {
		return checkSops(blob, recipients)
	}
	found, err := Stanzas(bytes.NewReader(blob))
	if err != nil {
		return err
	}
	count := make(map[Stanza]int)
	for _, s := range found {
		count[s]++
	}
	for _, r := range recipients {
		s, err := stanzaFor(r)
		if err != nil {
			return err
		}
		count[s]--
	}
	return describe(count)
}

// describe makes an error of what is too many or too few.
func describe(counts map[Stanza]int) error {
	var missing, extra []string
	for s, n := range counts {
		switch {
		case n < 0:
			missing = append(missing, times(s, -n))
		case n > 0 && known(s.Type):
			extra = append(extra, times(s, n))
		}
	}
	slices.Sort(missing)
	slices.Sort(extra)
	return surplus(missing, extra)
}

func surplus(missing, extra []string) error {
	var says []string
	if len(missing) > 0 {
		says = append(says, "it is not encrypted for "+strings.Join(missing, ", "))
	}
	if len(extra) > 0 {
		says = append(says, "it is also encrypted for "+strings.Join(extra, ", "))
	}
	if says == nil {
		return nil
	}
	return errors.New(strings.Join(says, "; "))
}

func times(s Stanza, n int) string {
	if n == 1 {
		return s.String()
	}
	return fmt.Sprintf("%d× %s", n, s)
}

func known(kind string) bool {
	return tagged(kind) || kind == stanzaX25519 || kind == stanzaHybrid || slices.Contains(foreignStanzas, kind)
}

func tagged(kind string) bool { return kind == stanzaEd25519 || kind == stanzaRSA }

// recorder is an identity that fits no file and remembers the stanzas it was
// shown: age's own parser thus reads the header for us.
type recorder struct {
	called  bool
	stanzas []Stanza
}

// Unwrap implements age.Identity.
func (r *recorder) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	r.called = true
	for _, s := range stanzas {
		seen := Stanza{Type: s.Type}
		if tagged(s.Type) && len(s.Args) > 0 {
			seen.Tag = s.Args[0]
		}
		r.stanzas = append(r.stanzas, seen)
	}
	return nil, age.ErrIncorrectIdentity
}

// dearmor returns a reader of the binary form of the age file in r and whether
// that was armored; ErrNotAge, or r's error, if it begins like neither form.
func dearmor(r io.Reader) (binary io.Reader, armored bool, err error) {
	const intro = "age-encryption.org/v1\n"
	const maxWhitespace = 1024 // before the armor, as age has it
	b := bufio.NewReaderSize(r, 4096)
	start, err := b.Peek(maxWhitespace + len(armor.Header))
	switch {
	case bytes.HasPrefix(start, []byte(intro)):
		return b, false, nil
	case bytes.HasPrefix(bytes.TrimLeft(start, " \t\r\n"), []byte(armor.Header)):
		return armor.NewReader(b), true, nil
	case err != nil && err != io.EOF:
		return nil, false, err
	default:
		return nil, false, ErrNotAge
	}
}

// tapped remembers an error of the reader under it, which age's parser would wrap
// together with bytes it read.
type tapped struct {
	r   io.Reader
	err error
}

func (t *tapped) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err != nil && err != io.EOF {
		t.err = err
	}
	return n, err
}
