package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"io"
	"os"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// spoolInMemory is how large a compressed archive may be that needs no file.
const spoolInMemory = 1 << 20

// spool holds a compressed archive whose size and hash must be known before it is sent, or that is sent in parts: a small
// one in memory, any other in a file without a name, which nothing outlives.
type spool struct {
	buf  bytes.Buffer
	file *os.File
	size int64
	hash nar.Hash // of the compressed bytes
}

// spooled is spool, again after failures that may pass. Its errors are *fleet.Error or ctx's.
func (p *push) spooled(ctx context.Context, info *nar.PathInfo) (s *spool, err error) {
	return s, p.c.try(ctx, "push "+info.StorePath, func() error {
		if s, err = p.spool(ctx, info); err != nil {
			return brokenBody{err}
		}
		return nil
	})
}

// spool compresses a path's archive. Who gets it closes it.
func (a *archiver) spool(ctx context.Context, info *nar.PathInfo) (_ *spool, err error) {
	s := &spool{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	sum := sha256.New()
	if err := a.compressed(ctx, io.MultiWriter(s, sum), info); err != nil {
		return nil, err
	}
	sum.Sum(s.hash[:0])
	return s, nil
}

func (s *spool) Write(b []byte) (n int, err error) {
	switch {
	case s.file != nil:
		n, err = s.file.Write(b)
	case s.buf.Len()+len(b) <= spoolInMemory:
		n, _ = s.buf.Write(b)
	default:
		if s.file, err = unnamed(); err == nil {
			_, err = s.file.Write(s.buf.Bytes())
		}
		s.buf = bytes.Buffer{}
		if err == nil {
			n, err = s.file.Write(b)
		}
	}
	s.size += int64(n)
	if err != nil {
		err = spoolError("an archive to be pushed cannot be kept in %s meanwhile", err)
	}
	return n, err
}

func spoolError(format string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, format, spoolDir()).WithCause(err).
		WithHint("check that there is room, and that it can be written to; or let TMPDIR name another folder")
}

// spoolDir is where large files belong that nobody needs after a reboot: /tmp is memory on many machines.
func spoolDir() string {
	const large = "/var/tmp"
	if _, err := os.Stat(large); err != nil {
		return os.TempDir()
	}
	return cmp.Or(os.Getenv("TMPDIR"), large)
}

func unnamed() (*os.File, error) {
	f, err := os.CreateTemp(spoolDir(), "garrison-push-")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// part is size bytes from offset on, as often as it is asked for.
func (s *spool) part(offset, size int64) func() body {
	var from io.ReaderAt = s.file
	if s.file == nil {
		from = bytes.NewReader(s.buf.Bytes())
	}
	return func() body {
		r := &rememberingReader{r: io.NewSectionReader(from, offset, size)}
		failed := func() error {
			if r.err == nil {
				return nil
			}
			return spoolError("an archive to be pushed, which was kept in %s, cannot be read again", r.err)
		}
		return body{io.NopCloser(r), size, failed}
	}
}

func (s *spool) whole() func() body { return s.part(0, s.size) }

// Close gives its memory and file back.
func (s *spool) Close() {
	s.buf = bytes.Buffer{}
	if s.file != nil {
		s.file.Close()
	}
}
