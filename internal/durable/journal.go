package durable

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// MaxLineBytes bounds one line of a journal.
const MaxLineBytes = 1 << 20

// Journal is an append-only file of JSON lines. Its methods may be called by
// several goroutines; only one process at a time may have it open (see Lock).
type Journal struct {
	mu    sync.Mutex
	path  string
	perm  os.FileMode
	f     *os.File // nil after a failed Trim; the next Append opens it again
	size  int64    // bytes of complete lines; what lies beyond is torn and cut before the next line
	lines int
}

// OpenJournal opens the journal at path, making it with perm if it is not there,
// and cuts off a last line that a crash left incomplete.
func OpenJournal(path string, perm os.FileMode) (*Journal, error) {
	j := &Journal{path: path, perm: perm}
	if err := j.open(); err != nil {
		return nil, fmt.Errorf("open journal %s: %w", path, err)
	}
	return j, nil
}

// Append adds v as one line of JSON and has the disk confirm it. After an error
// the line is not in the journal: what was written of it is cut off, at the latest
// by the next Append or OpenJournal.
func (j *Journal) Append(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("append to %s: %w", j.path, err)
	}
	if len(line) >= MaxLineBytes {
		return fmt.Errorf("append to %s: a line of %d bytes, at most %d are allowed", j.path, len(line), MaxLineBytes)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.add(append(line, '\n')); err != nil {
		return fmt.Errorf("append to %s: %w", j.path, err)
	}
	return nil
}

// Trim drops all lines but the newest keep, once there are at least twice as many;
// before that it does nothing and costs nothing, so call it after every Append.
// A crash leaves the journal trimmed or untrimmed, never in between.
func (j *Journal) Trim(keep int) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if keep < 1 || j.lines < 2*keep {
		return nil
	}
	lines, err := tail(j.path, keep)
	if err != nil {
		return fmt.Errorf("trim %s: %w", j.path, err)
	}
	var kept bytes.Buffer
	for _, l := range lines {
		kept.Write(l.text)
		kept.WriteByte('\n')
	}
	err = WriteFile(j.path, kept.Bytes(), j.perm)
	if err = errors.Join(err, j.reopen()); err != nil { // also after an error: the name may have moved
		return fmt.Errorf("trim %s: %w", j.path, err)
	}
	return nil
}

// Close closes the file. Everything appended is on the disk already.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.f == nil {
		return nil
	}
	return j.f.Close()
}

// ReadJournal returns the newest entries of the journal at path, oldest of them
// first; all of them if newest is 0 or less. A journal that does not exist has none.
// An incomplete last line is not an entry. A complete line that is not a T in JSON
// makes an error that wraps ErrDamaged and names the line; the entries that could be
// read are returned with it. The journal may be open in another process meanwhile.
func ReadJournal[T any](path string, newest int) ([]T, error) {
	lines, err := tail(path, newest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	var bad []error
	entries := make([]T, 0, len(lines))
	for _, l := range lines {
		var e T
		if err := json.Unmarshal(l.text, &e); err != nil {
			bad = append(bad, fmt.Errorf("%s:%d: %w: %w", path, l.number, ErrDamaged, err))
			continue
		}
		entries = append(entries, e)
	}
	return entries, errors.Join(bad...)
}

// open opens the file, learns how many complete lines it has and cuts off the rest.
func (j *Journal) open() error {
	f, err := os.OpenFile(j.path, os.O_RDWR|os.O_CREATE, j.perm)
	if err != nil {
		return err
	}
	lines, size, err := measure(f)
	if err == nil {
		err = cut(f, size)
	}
	if err == nil { // its name may be new; a crash between its creation and here loses nothing
		err = syncDir(filepath.Dir(j.path))
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.f, j.size, j.lines = f, size, lines
	return nil
}

// reopen follows the journal's name to the file that now bears it. It lets go of
// the old one first: a line appended there would be lost.
func (j *Journal) reopen() error {
	if j.f != nil {
		old := j.f
		j.f = nil
		if err := old.Close(); err != nil {
			return err
		}
	}
	return j.open()
}

// add writes one line at the end of the complete ones.
func (j *Journal) add(line []byte) error {
	if j.f == nil {
		if err := j.open(); err != nil {
			return err
		}
	}
	if err := cut(j.f, j.size); err != nil {
		return err
	}
	_, err := j.f.WriteAt(line, j.size)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		return errors.Join(err, cut(j.f, j.size))
	}
	j.size += int64(len(line))
	j.lines++
	return nil
}

// cut makes f end at size if it is longer.
func cut(f *os.File, size int64) error {
	info, err := f.Stat()
	if err != nil || info.Size() <= size {
		return err
	}
	return f.Truncate(size)
}

// measure counts the complete lines of f and their bytes.
func measure(f io.Reader) (lines int, size int64, err error) {
	buf := make([]byte, 64<<10)
	var read int64
	for {
		n, err := f.Read(buf)
		if last := bytes.LastIndexByte(buf[:n], '\n'); last >= 0 {
			lines += bytes.Count(buf[:n], []byte{'\n'})
			size = read + int64(last) + 1
		}
		read += int64(n)
		if err == io.EOF {
			return lines, size, nil
		}
		if err != nil {
			return 0, 0, err
		}
	}
}

type line struct {
	number int // counted from 1
	text   []byte
}

// tail returns the newest n complete lines of path, all if n < 1. A line longer
// than MaxLineBytes was not written by us and is an error.
func tail(path string, n int) ([]line, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, MaxLineBytes+1)
	s.Split(completeLines)
	var lines []line
	for number := 1; s.Scan(); number++ {
		lines = append(lines, line{number, bytes.Clone(s.Bytes())})
		if n > 0 && len(lines) >= 2*n { // forget old ones now and then, not line by line
			lines = append([]line(nil), lines[len(lines)-n:]...)
		}
	}
	if err := s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%w: a line longer than %d bytes", ErrDamaged, MaxLineBytes)
	} else if err != nil {
		return nil, err
	}
	if n > 0 && len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return lines, nil
}

// completeLines is a bufio.SplitFunc for lines that end in a newline; what follows
// the last newline is dropped.
func completeLines(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if i := bytes.IndexByte(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF {
		return len(data), nil, nil
	}
	return 0, nil, nil
}
