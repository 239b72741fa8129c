package nar

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// Writer writes an archive, node by node. The caller gives entries in the order of
// their names' bytes; the first error sticks and is returned by Close.
//
//	w.Directory()
//	w.Entry("a"); w.Symlink("/b"); w.EndEntry()
//	w.EndDirectory()
type Writer struct {
	w   *bufio.Writer
	err error
}

// NewWriter starts an archive.
func NewWriter(w io.Writer) *Writer {
	nw := &Writer{w: bufio.NewWriterSize(w, checkBuffer)}
	nw.strings(magic)
	return nw
}

// Regular writes a file of exactly size bytes from r; it is an error if r has fewer.
func (w *Writer) Regular(executable bool, size int64, r io.Reader) error {
	w.strings("(", "type", "regular")
	if executable {
		w.strings("executable", "")
	}
	w.strings("contents")
	w.length(size)
	if w.err == nil {
		n, err := io.CopyN(w.w, r, size)
		if err == io.EOF {
			err = fmt.Errorf("file has %d bytes, not %d: it changed while it was read", n, size)
		}
		w.err = err
	}
	w.pad(size)
	w.strings(")")
	return w.err
}

// Symlink writes a symbolic link.
func (w *Writer) Symlink(target string) error {
	w.strings("(", "type", "symlink", "target", target, ")")
	return w.err
}

// Directory starts a directory; entries follow, then EndDirectory.
func (w *Writer) Directory() error {
	w.strings("(", "type", "directory")
	return w.err
}

// Entry starts an entry of a directory; one node follows, then EndEntry.
func (w *Writer) Entry(name string) error {
	w.strings("entry", "(", "name", name, "node")
	return w.err
}

// EndEntry ends what Entry started.
func (w *Writer) EndEntry() error {
	w.strings(")")
	return w.err
}

// EndDirectory ends what Directory started.
func (w *Writer) EndDirectory() error {
	w.strings(")")
	return w.err
}

// Close writes what is buffered and returns the first error there was. It does
// not close the writer below.
func (w *Writer) Close() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

func (w *Writer) strings(ss ...string) {
	for _, s := range ss {
		w.length(int64(len(s)))
		if w.err == nil {
			_, w.err = w.w.WriteString(s)
		}
		w.pad(int64(len(s)))
	}
}

func (w *Writer) length(n int64) {
	if w.err == nil {
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], uint64(n))
		_, w.err = w.w.Write(b[:])
	}
}

func (w *Writer) pad(n int64) {
	if w.err == nil {
		var zero [8]byte
		_, w.err = w.w.Write(zero[:-n&7])
	}
}
