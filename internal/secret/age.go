package secret

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// errNoIdentity says that none of the identities fits a file.
var errNoIdentity = errors.New("no identity fits")

// plaintext is a decrypted secret. Whoever has it calls wipe.
type plaintext struct {
	data    []byte
	armored bool           // the form of the file that it comes from, and goes to
	sops    *sops.Unlocked // of a sops file; then there is no data
}

func (p plaintext) wipe() {
	clear(p.data[:cap(p.data)])
	if p.sops != nil {
		p.sops.Wipe()
	}
}

// open decrypts an age file. The error is or wraps ErrNotAge, ErrHeader or
// errNoIdentity, or says that the content is damaged; it repeats nothing of the file.
func open(file []byte, ids []age.Identity) (plaintext, error) {
	if _, err := Stanzas(bytes.NewReader(file)); err != nil {
		return plaintext{}, err
	}
	src, armored, err := dearmor(bytes.NewReader(file))
	if err != nil {
		return plaintext{}, err
	}
	r, err := age.Decrypt(src, ids...)
	if err != nil {
		return plaintext{}, quiet(err)
	}
	// The file is longer than what is in it: one buffer, never grown, never copied.
	p := plaintext{data: make([]byte, len(file)), armored: armored}
	n, err := io.ReadFull(r, p.data)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		p.wipe()
		return plaintext{}, quiet(err)
	}
	p.data = p.data[:n]
	return p, nil
}

// quiet makes an error of the age library one that repeats nothing of the file:
// those of the armor quote lines.
func quiet(err error) error {
	var noMatch *age.NoIdentityMatchError
	var armored *armor.Error
	switch {
	case errors.As(err, &noMatch):
		return errNoIdentity
	case errors.As(err, &armored):
		return errors.New("its armor is damaged")
	case err == nil:
		return errors.New("its content is damaged")
	default:
		return err
	}
}

// seal encrypts p for recipients under a new file key.
func seal(p plaintext, recipients []age.Recipient) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(p.data) + 512 + 256*len(recipients))
	var dst io.WriteCloser = unclosed{&out}
	if p.armored {
		dst = armor.NewWriter(&out)
	}
	w, err := age.Encrypt(dst, recipients...)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(p.data); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), dst.Close()); err != nil {
		return nil, err
	}
	return slices.Clip(out.Bytes()), nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
