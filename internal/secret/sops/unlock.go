package sops

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"
	"filippo.io/age/plugin"
)

// ErrNoIdentity says that none of the identities given fits any age recipient of a file.
var ErrNoIdentity = errors.New("no identity fits")

// ErrMAC says that the values of a file are not those that its MAC was made of: somebody
// added, removed, moved or changed one without the data key.
var ErrMAC = errors.New("its MAC does not fit its values: it was changed by something other than sops")

// Unlocked is a file with its values decrypted. Whoever has it calls Wipe.
type Unlocked struct {
	file   *File
	values []value // of each leaf that is encrypted; the others are empty
}

// Wipe overwrites the values.
func (u *Unlocked) Wipe() {
	for _, v := range u.values {
		v.wipe()
	}
}

// Unlock decrypts all values and verifies the MAC. The error is or wraps ErrNoIdentity or ErrMAC, or
// says which value is damaged.
func (f *File) Unlock(ids []age.Identity) (*Unlocked, error) {
	key, err := f.dataKey(ids)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return f.unlockWith(key)
}

// dataKey decrypts the data key by the first identity that fits an entry.
func (f *File) dataKey(ids []age.Identity) ([]byte, error) {
	var damaged error
	for _, id := range ids {
		for _, e := range f.meta.age {
			var src io.Reader = strings.NewReader(e.Enc)
			if e.armored() {
				src = armor.NewReader(src)
			}
			r, err := age.Decrypt(src, id)
			if err != nil {
				switch _, ofPlugin := id.(*plugin.Identity); {
				case errors.As(err, new(*age.NoIdentityMatchError)):
				case ofPlugin: // what it says is meant for people
					damaged = fmt.Errorf("the data key for %s cannot be decrypted: %w", e.Recipient, err)
				default:
					damaged = fmt.Errorf("the data key for %s is damaged", e.Recipient)
				}
				continue
			}
			key := make([]byte, keyBytes+1)
			n, err := io.ReadFull(r, key)
			if n != keyBytes || !errors.Is(err, io.ErrUnexpectedEOF) {
				damaged = fmt.Errorf("the data key for %s is damaged", e.Recipient)
				continue
			}
			return key[:n], nil
		}
	}
	if damaged != nil {
		return nil, damaged
	}
	return nil, ErrNoIdentity
}

func (f *File) unlockWith(key []byte) (*Unlocked, error) {
	c, err := newCrypt(key)
	if err != nil {
		return nil, err
	}
	u := &Unlocked{f, make([]value, len(f.leaves))}
	for i := range f.leaves {
		l := &f.leaves[i]
		if !l.secret {
			continue
		}
		if err := u.open(c, i, l); err != nil {
			u.Wipe()
			return nil, err
		}
	}
	if err := u.checkMAC(c); err != nil {
		u.Wipe()
		return nil, err
	}
	return u, nil
}

func (u *Unlocked) open(c *crypt, i int, l *leaf) error {
	text, ok := l.in.(string)
	if !ok {
		return l.err(errValue)
	}
	v, err := c.open(text, placeOf(l.path))
	switch {
	case err == nil:
		u.values[i] = v
	case l.comment && !errors.Is(err, errFit): // somebody wrote it into the encrypted file; sops does not mind
		u.values[i] = value{typeComment, []byte(text)}
	case l.comment: // moved to another level by an editor or by sops itself: look where it comes from
		u.values[i] = u.moved(c, text)
	default:
		return l.err(err)
	}
	return nil
}

// moved decrypts a comment that does not fit its place. What fits nowhere is lost already, also for sops;
// it is left out, so that nothing under an old data key stays.
func (u *Unlocked) moved(c *crypt, text string) value {
	for i := range u.file.leaves {
		path := u.file.leaves[i].path
		for n := len(path); n >= 0; n-- {
			if v, err := c.open(text, placeOf(path[:n])); err == nil {
				return v
			}
		}
	}
	return value{typeComment, []byte("(a comment was lost)")}
}

// checkMAC verifies the MAC, by its encryption and by what it says.
func (u *Unlocked) checkMAC(c *crypt) error {
	m := &u.file.meta
	want, err := c.open(m.mac, m.macPlace())
	if err != nil {
		return ErrMAC
	}
	got, err := u.mac()
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(want.data, []byte(got)) != 1 {
		return ErrMAC
	}
	return nil
}

// mac is what the MAC must say.
func (u *Unlocked) mac() (string, error) {
	h := sha512.New()
	onlySecret := u.file.meta.macEncrypted
	if onlySecret {
		start := sha256.Sum256([]byte("sops"))
		h.Write(start[:])
	}
	for i := range u.file.leaves {
		l := &u.file.leaves[i]
		if l.comment || u.values[i].kind == typeComment || onlySecret && !l.secret {
			continue
		}
		v, err := u.plain(i)
		if err != nil {
			return "", l.err(err)
		}
		h.Write(v.data)
		if l.secret {
			v.wipe()
		}
	}
	return strings.ToUpper(hex.EncodeToString(h.Sum(nil))), nil
}

// plain is a copy of a value in the form that counts.
func (u *Unlocked) plain(i int) (value, error) {
	l := &u.file.leaves[i]
	if !l.secret {
		return canonical(l.in)
	}
	v := u.values[i]
	if v.kind == typeBytes || v.kind == typeString || v.kind == typeComment {
		return value{v.kind, slices.Clone(v.data)}, nil
	}
	t, err := v.typed()
	if err != nil {
		return value{}, err
	}
	return canonical(t)
}

// equal says whether two files have the same values in the same places.
func (u *Unlocked) equal(o *Unlocked) bool {
	if len(u.values) != len(o.values) {
		return false
	}
	for i := range u.values {
		a, b := &u.file.leaves[i], &o.file.leaves[i]
		if a.secret != b.secret || a.comment != b.comment || !slices.Equal(a.path, b.path) || !a.secret && a.in != b.in ||
			u.values[i].kind != o.values[i].kind || !bytes.Equal(u.values[i].data, o.values[i].data) {
			return false
		}
	}
	return true
}

// HasValue says whether the file has something under a key as Has has it.
func (u *Unlocked) HasValue(key string) bool {
	for i, l := range u.file.leaves {
		full := strings.Join(l.path, "/")
		if l.comment || key != "" && full != key && !strings.HasPrefix(full, key+"/") {
			continue
		}
		if !l.secret && l.in != "" || len(u.values[i].data) > 0 && u.values[i].kind != typeComment {
			return true
		}
	}
	return false
}
