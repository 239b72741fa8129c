package nar

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf8"
)

// ErrNoListing means that an archive has names or targets that JSON cannot hold.
var ErrNoListing = errors.New("the archive has names that are not UTF-8, so it has no listing")

// List reads an archive as Check does and writes what is in it to w, in the form of a binary cache's ".ls" files:
// types, sizes, targets, and where in the archive each file's contents start. It takes constant memory. What was
// written is worth nothing unless List succeeds.
func List(r io.Reader, maxBytes int64, w io.Writer) (Checked, error) {
	l := &lister{w: bufio.NewWriter(w)}
	if err := l.text(`{"root":`); err != nil {
		return Checked{}, err
	}
	checked, err := check(r, maxBytes, l)
	if err != nil {
		return Checked{}, err
	}
	if err := l.text(`,"version":1}`); err != nil {
		return Checked{}, err
	}
	return checked, l.w.Flush()
}

// lister writes a listing as the archive is parsed. A nil one does nothing.
type lister struct{ w *bufio.Writer }

func (l *lister) text(parts ...string) error {
	for _, p := range parts {
		if _, err := l.w.WriteString(p); err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) quoted(s string) (string, error) {
	if !utf8.ValidString(s) {
		return "", ErrNoListing
	}
	b, err := json.Marshal(s)
	return string(b), err
}

func (l *lister) regular(executable bool, size, offset int64) error {
	if l == nil {
		return nil
	}
	mode := ""
	if executable {
		mode = `"executable":true,`
	}
	return l.text(`{`, mode, `"narOffset":`, strconv.FormatInt(offset, 10), `,"size":`, strconv.FormatInt(size, 10), `,"type":"regular"}`)
}

func (l *lister) symlink(target string) error {
	if l == nil {
		return nil
	}
	q, err := l.quoted(target)
	if err != nil {
		return err
	}
	return l.text(`{"target":`, q, `,"type":"symlink"}`)
}

func (l *lister) directory() error {
	if l == nil {
		return nil
	}
	return l.text(`{"entries":{`)
}

func (l *lister) entry(name string, first bool) error {
	if l == nil {
		return nil
	}
	q, err := l.quoted(name)
	if err != nil {
		return err
	}
	if !first {
		q = "," + q
	}
	return l.text(q, `:`)
}

func (l *lister) endDirectory() error {
	if l == nil {
		return nil
	}
	return l.text(`},"type":"directory"}`)
}
