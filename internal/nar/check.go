package nar

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrTooLarge means that an archive has more bytes than the reader of it allows.
var ErrTooLarge = errors.New("the archive is larger than allowed")

// ErrMalformed means that bytes are not an archive as Nix writes them.
var ErrMalformed = errors.New("not a well-formed NAR")

// Checked is what Check found out about an archive.
type Checked struct {
	Hash Hash
	Size int64 // bytes
}

// Limits of what an archive may hold. Linux allows no longer names and targets;
// deeper trees can be made, but nothing makes them.
const (
	magic        = "nix-archive-1"
	maxToken     = 32
	maxEntryName = 255
	maxTarget    = 4095
	maxDepth     = 2048
	checkBuffer  = 64 << 10 // bytes
)

// Check reads an archive to the end of r, in constant memory, and returns its
// hash and size. It fails with ErrMalformed when the bytes are not exactly one
// archive in the canonical form (entries sorted, padding zero, nothing after
// it), with ErrTooLarge when there are more than maxBytes, and with r's error
// when r fails.
func Check(r io.Reader, maxBytes int64) (Checked, error) { return check(r, maxBytes, nil) }

func check(r io.Reader, maxBytes int64, list *lister) (Checked, error) {
	sum := sha256.New()
	in := &counted{r: r, left: maxBytes}
	c := checker{r: bufio.NewReaderSize(io.TeeReader(in, sum), checkBuffer), list: list}
	if err := c.archive(); err != nil {
		return Checked{}, in.explain(err)
	}
	out := Checked{Size: in.n}
	sum.Sum(out.Hash[:0])
	return out, nil
}

// counted counts and bounds what is read, and remembers why reading ended.
type counted struct {
	r       io.Reader
	n, left int64
	err     error
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.left -= int64(n)
	if c.left < 0 {
		err = ErrTooLarge
	}
	if err != nil {
		c.err = err
	}
	return n, err
}

// explain prefers the reader's own failure over what the parser made of it.
func (c *counted) explain(err error) error {
	switch {
	case c.err != nil && c.err != io.EOF:
		return c.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: it ends after %d bytes", ErrMalformed, c.n)
	}
	return err
}

// checker parses an archive. Its methods fail with ErrMalformed or the reader's error.
type checker struct {
	r     *bufio.Reader
	at    int64   // bytes that were parsed
	list  *lister // nil for none
	depth int
	buf   [maxTarget + 1]byte
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func (c *checker) archive() error {
	if err := c.expect(magic); err != nil {
		return err
	}
	if err := c.node(); err != nil {
		return err
	}
	if _, err := c.r.ReadByte(); err != io.EOF {
		if err != nil {
			return err
		}
		return malformed("something follows its end")
	}
	return nil
}

func (c *checker) node() error {
	if c.depth++; c.depth > maxDepth {
		return malformed("directories are nested more than %d deep", maxDepth)
	}
	defer func() { c.depth-- }()
	if err := c.expect("(", "type"); err != nil {
		return err
	}
	kind, err := c.token(maxToken)
	if err != nil {
		return err
	}
	switch kind {
	case "regular":
		return c.regular()
	case "symlink":
		return c.symlink()
	case "directory":
		return c.directory()
	}
	return malformed("unknown type %q", kind)
}

func (c *checker) regular() error {
	t, err := c.token(maxToken)
	if err != nil {
		return err
	}
	executable := t == "executable"
	if executable {
		if err := c.expect("", "contents"); err != nil {
			return err
		}
	} else if t != "contents" {
		return malformed("%q where a file's contents should be", t)
	}
	n, err := c.length()
	if err != nil {
		return err
	}
	if err := c.list.regular(executable, n, c.at); err != nil {
		return err
	}
	for left := n; left > 0; {
		k, err := c.r.Discard(int(min(left, checkBuffer)))
		if err != nil {
			return err
		}
		left -= int64(k)
	}
	c.at += n
	if err := c.padding(n); err != nil {
		return err
	}
	return c.expect(")")
}

func (c *checker) symlink() error {
	if err := c.expect("target"); err != nil {
		return err
	}
	target, err := c.token(maxTarget)
	if err != nil {
		return err
	}
	if target == "" || strings.ContainsRune(target, 0) {
		return malformed("a symlink's target is empty or has a zero byte")
	}
	if err := c.list.symlink(target); err != nil {
		return err
	}
	return c.expect(")")
}

func (c *checker) directory() error {
	if err := c.list.directory(); err != nil {
		return err
	}
	for previous := ""; ; {
		t, err := c.token(maxToken)
		if err != nil {
			return err
		}
		if t == ")" {
			return c.list.endDirectory()
		}
		if t != "entry" {
			return malformed("%q where a directory's entry should be", t)
		}
		if err := c.expect("(", "name"); err != nil {
			return err
		}
		name, err := c.token(maxEntryName)
		if err != nil {
			return err
		}
		if !validEntryName(name) {
			return malformed("%q cannot be a file's name", name)
		}
		if name <= previous {
			return malformed("entry %q comes after %q", name, previous)
		}
		if err := c.list.entry(name, previous == ""); err != nil {
			return err
		}
		previous = name
		if err := c.expect("node"); err != nil {
			return err
		}
		if err := c.node(); err != nil {
			return err
		}
		if err := c.expect(")"); err != nil {
			return err
		}
	}
}

func validEntryName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

func (c *checker) expect(tokens ...string) error {
	for _, want := range tokens {
		got, err := c.token(maxToken)
		if err != nil {
			return err
		}
		if got != want {
			return malformed("%q where %q should be", got, want)
		}
	}
	return nil
}

// token reads a string of at most most bytes: length, bytes, padding to 8.
func (c *checker) token(most int) (string, error) {
	n, err := c.length()
	if err != nil {
		return "", err
	}
	if n > int64(most) {
		return "", malformed("a string of %d bytes where at most %d are allowed", n, most)
	}
	b := c.buf[:n]
	if _, err := io.ReadFull(c.r, b); err != nil {
		return "", err
	}
	c.at += n
	return string(b), c.padding(n)
}

func (c *checker) length() (int64, error) {
	b := c.buf[:8]
	if _, err := io.ReadFull(c.r, b); err != nil {
		return 0, err
	}
	c.at += int64(len(b))
	n := binary.LittleEndian.Uint64(b)
	if n > 1<<62 {
		return 0, malformed("a length of %d bytes", n)
	}
	return int64(n), nil
}

func (c *checker) padding(n int64) error {
	pad := int(-n & 7)
	b, err := c.r.Peek(pad)
	if err != nil {
		return err
	}
	for _, x := range b {
		if x != 0 {
			return malformed("padding is not zero")
		}
	}
	c.at += int64(pad)
	_, err = c.r.Discard(pad)
	return err
}
