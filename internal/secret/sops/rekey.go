package sops

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"

	"filippo.io/age"
	"filippo.io/age/armor"
)

// Recipient is somebody to encrypt for, and the name that stands in the file.
type Recipient struct {
	Name string
	age.Recipient
}

// errWritten says that what was written is not what was meant: a defect of this package.
var errWritten = errors.New("what was written does not read back as it should")

// Rekey returns the file for exactly the given recipients, under a new data key. Everything
// else is as it was. The result was read back and verified.
func (u *Unlocked) Rekey(recipients []Recipient) ([]byte, error) {
	key := newKey()
	defer clear(key)
	c, err := newCrypt(key)
	if err != nil {
		return nil, err
	}
	meta := u.file.meta
	meta.others = nil
	if meta.age, err = wrap(key, recipients); err != nil {
		return nil, err
	}
	mac, err := u.mac()
	if err != nil {
		return nil, err
	}
	meta.mac = c.seal(value{typeString, []byte(mac)}, meta.macPlace())
	edits, err := u.sealed(c)
	if err != nil {
		return nil, err
	}
	if edits, err = u.file.withMeta(edits, &meta); err != nil {
		return nil, err
	}
	out, err := apply(u.file.src, edits)
	if err != nil {
		return nil, err
	}
	return out, u.verify(out, key)
}

// verify reads a written file back.
func (u *Unlocked) verify(out, key []byte) error {
	f, err := Parse(out)
	if err != nil {
		return fmt.Errorf("%w: %w", errWritten, err)
	}
	again, err := f.unlockWith(key)
	if err != nil {
		return fmt.Errorf("%w: %w", errWritten, err)
	}
	defer again.Wipe()
	if !u.equal(again) {
		return errWritten
	}
	if again.file.shares(u.file) {
		return errors.New("something encrypted stands where sops does not look for it; save the file with sops once")
	}
	return nil
}

// shares says whether something encrypted stands in both files.
func (f *File) shares(o *File) bool {
	old := make(map[string]bool)
	for _, at := range encrypted(o.src) {
		old[string(o.src[at.from:at.to])] = true
	}
	for _, at := range encrypted(f.src) {
		if old[string(f.src[at.from:at.to])] {
			return true
		}
	}
	return false
}

// sealed encrypts every value anew, in its place.
func (u *Unlocked) sealed(c *crypt) ([]edit, error) {
	var edits []edit
	for i := range u.file.leaves {
		l := &u.file.leaves[i]
		if !l.secret || l.in == "" {
			continue
		}
		if l.at == (span{}) {
			if _, _, _, _, encrypted := cut(l.in.(string)); l.comment && !encrypted {
				continue // readable in the source already, and stays so
			}
			return nil, l.err(errors.New("is not in one piece, as sops writes it; save the file with sops once"))
		}
		text := c.seal(u.values[i], placeOf(l.path))
		if u.file.format == JSON {
			text = `"` + text + `"`
		}
		edits = append(edits, edit{l.at, text})
	}
	return edits, nil
}

// withMeta adds the edits that put new metadata in the place of the old.
func (f *File) withMeta(edits []edit, m *metadata) ([]edit, error) {
	var text string
	switch f.format {
	case JSON:
		open := bytes.IndexByte(f.src, '{') + 1
		text = jsonMeta(m, indentOf(f.src, open))
	case YAML:
		var err error
		if text, err = yamlMeta(m); err != nil {
			return nil, err
		}
		for _, at := range f.metaAt {
			edits = append(edits, edit{at, text})
		}
		return edits, nil
	case Dotenv:
		text = dotenvMeta(m)
	case INI:
		text = iniMeta(m)
	}
	for i, at := range f.metaAt { // several lines: the first has all of it
		if i > 0 {
			text = ""
		}
		edits = append(edits, edit{at, text})
	}
	return edits, nil
}

// newKey makes a data key.
func newKey() []byte {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // it never fails
	return key
}

// wrap encrypts the data key for each recipient.
func wrap(key []byte, recipients []Recipient) ([]Entry, error) {
	if len(recipients) == 0 {
		return nil, errors.New("there is nobody to encrypt for")
	}
	var entries []Entry
	for _, r := range recipients {
		var out bytes.Buffer
		a := armor.NewWriter(&out)
		w, err := age.Encrypt(a, r.Recipient)
		if err != nil {
			return nil, fmt.Errorf("the data key cannot be encrypted for %s", r.Name)
		}
		if _, err := w.Write(key); err != nil {
			return nil, err
		}
		if err := errors.Join(w.Close(), a.Close()); err != nil {
			return nil, err
		}
		entries = append(entries, Entry{r.Name, out.String()})
	}
	return entries, nil
}
