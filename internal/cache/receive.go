package cache

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// narFile is an archive as an upload names it.
type narFile struct {
	// hash is the NarHash: what our client and Attic's say, who know it before they compress. Nix says the hash of the compressed file.
	hash        nar.Hash
	compression string // by the suffix; what is uploaded is told by its content
	size        int64  // the NarSize that is claimed; 0 for none
	upstream    bool   // an upstream cache has it: it is verified, and not stored
}

// parseNarFile reads the last part of "nar/<hash>.nar.<suffix>".
func parseNarFile(file string) (narFile, bool) {
	digits, suffix, ok := strings.Cut(file, ".nar")
	if !ok {
		return narFile{}, false
	}
	compression, ok := archiveCompression(suffix)
	if !ok {
		return narFile{}, false
	}
	h, err := nar.ParseNix32(digits)
	return narFile{hash: h, compression: compression}, err == nil
}

// putNar receives an archive, under the hash of what is inside or that of the file itself.
func (s *Server) putNar(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	f, ok := parseNarFile(r.PathValue("file"))
	if !ok {
		return badRequest("an archive is uploaded as nar/<NarHash or FileHash in Nix's base 32>.nar.zst, or .nar.xz, .nar.gz, .nar.bz2, .nar; other compressions are not taken")
	}
	_, _, err = s.take(w, r, c, r.Body, f)
	return err
}

// errStored ends an upload of what is there already, after it was verified.
var errStored = errors.New("already stored")

// take receives an archive for c from body. It is verified while it is written to a temporary place; only then it can be seen.
// isNew is false for what was there already.
func (s *Server) take(w http.ResponseWriter, r *http.Request, c *Cache, body io.ReadCloser, f narFile) (n Nar, isNew bool, err error) {
	ctx := r.Context()
	end, err := s.beginUpload(r)
	if err != nil {
		return Nar{}, false, err
	}
	defer end()
	in := &patientReader{r: http.MaxBytesReader(w, body, s.maxFileBytes()), w: http.NewResponseController(w)}
	n, stored, err := s.stored(ctx, f.hash)
	if err != nil {
		return Nar{}, false, err
	}
	if stored {
		if _, err = s.receive(ctx, in, nil, f); err == nil {
			err = s.noteSent(ctx, c, n)
		}
		return n, false, err
	}
	if f.upstream {
		n, err = s.receive(ctx, in, nil, f)
		return n, false, err
	}
	if err := s.checkQuota(ctx, c, max(r.ContentLength, 1)); err != nil {
		return Nar{}, false, err
	}
	return s.store(ctx, c, in, f)
}

// acquire waits for a free slot.
func acquire(ctx context.Context, slots chan<- struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// store puts a verified upload in its place and its description into the index.
// Of uploads at the same time, the first wins.
func (s *Server) store(ctx context.Context, c *Cache, body io.Reader, f narFile) (n Nar, isNew bool, err error) {
	lost, unlock := false, func() {}
	defer func() { unlock() }()
	key := newBlobKey(f.hash)
	err = s.Blobs.Put(ctx, key, func(to io.Writer) (err error) {
		if n, err = s.receive(ctx, body, to, f); err != nil {
			return err
		}
		if err := s.checkQuota(ctx, c, n.FileSize); err != nil {
			return err
		}
		unlock = s.locks.lock(narURL(n.NarHash))
		have, known, err := s.Index.Nar(ctx, n.NarHash)
		if err != nil || !known {
			return err
		}
		lost = true
		if stored, err := s.hasBlob(ctx, have); err != nil || !stored {
			return err
		}
		n = have
		return errStored
	})
	if errors.Is(err, errStored) {
		return n, false, s.noteSent(ctx, c, n)
	}
	if err != nil {
		return Nar{}, false, err
	}
	n.Blob = key
	if lost { // paths of any cache have it
		defer s.memory.forgetAll()
	}
	if err := s.Index.PutNar(ctx, n, c.Name); err != nil {
		return Nar{}, false, err
	}
	return n, true, s.notePending(ctx, c, n)
}

// noteSent has what is there already stay until a path of c has it, which may, since it was sent to c.
func (s *Server) noteSent(ctx context.Context, c *Cache, n Nar) error {
	now := time.Now()
	return errors.Join(s.Index.TouchNars(ctx, []nar.Hash{n.NarHash}, now), s.Index.NoteSent(ctx, c.Name, n.NarHash, now))
}

// stored returns an archive if it is there, and known.
func (s *Server) stored(ctx context.Context, hash nar.Hash) (Nar, bool, error) {
	n, ok, err := s.Index.Nar(ctx, hash)
	if err != nil || !ok {
		return Nar{}, false, err
	}
	ok, err = s.hasBlob(ctx, n)
	return n, ok, err
}

// maxFileBytes is MaxNarBytes and what compression may add to incompressible data.
func (s *Server) maxFileBytes() int64 { return s.MaxNarBytes + s.MaxNarBytes/100 + 1<<20 }

// receive reads an archive, verifies it, and writes it to to, compressed by zstd; to is nil when it is only to be
// verified. It describes what was written. Failures of to are told from those of the upload.
func (s *Server) receive(ctx context.Context, body io.Reader, to io.Writer, f narFile) (Nar, error) {
	in := &rememberingReader{r: body}
	file := &fileWriter{to: to, sum: sha256.New()}
	checked, sent, err := s.copyNar(ctx, in, file)
	switch {
	case file.err != nil:
		return Nar{}, file.err
	case in.err != nil:
		return Nar{}, readError(in.err, "the upload broke off")
	case errors.Is(err, nar.ErrTooLarge):
		return Nar{}, &httpError{status: http.StatusRequestEntityTooLarge, kind: "RequestError", message: "the archive is larger than this cache allows"}
	case ctx.Err() != nil:
		return Nar{}, ctx.Err()
	case err != nil:
		return Nar{}, badRequest("the upload is refused: %v", err)
	case checked.Hash != f.hash && sent != f.hash:
		return Nar{}, badRequest("the archive's NarHash is %s, and the file's hash %s: neither is %s", checked.Hash, sent, f.hash)
	case f.size != 0 && checked.Size != f.size:
		return Nar{}, badRequest("the archive has %d bytes, not %d", checked.Size, f.size)
	}
	n := Nar{NarHash: checked.Hash, NarSize: checked.Size, FileSize: file.n}
	file.sum.Sum(n.FileHash[:0])
	return n, nil
}

// copyNar verifies what comes in, and has it in file as zstd. sent is the hash of what came in.
func (s *Server) copyNar(ctx context.Context, from io.Reader, file *fileWriter) (checked nar.Checked, sent nar.Hash, err error) {
	tee := &lateTee{r: from}
	in := bufio.NewReaderSize(tee, copyBuffer)
	start, _ := in.Peek(magicBytes) // an error comes again
	compression := compressionOf(start)
	if isWide(compression, start) {
		if err := acquire(ctx, s.wide); err != nil {
			return checked, sent, err
		}
		defer func() { <-s.wide }()
	}
	sum := sha256.New()
	tee.to = sum
	switch compression {
	case compressionZstd:
		sum, tee.to = file.sum, file
	case compressionNone: // what is sent is what is inside
		tee.to = io.Discard
	}
	start, _ = in.Peek(in.Buffered())
	if _, err := tee.to.Write(start); err != nil {
		return checked, sent, err
	}
	inside, done, err := s.decompress(compression, in)
	if err != nil {
		return checked, sent, err
	}
	defer done()
	check := func(to io.Writer) (err error) {
		if to != nil {
			inside = io.TeeReader(inside, to)
		}
		checked, err = nar.Check(inside, s.MaxNarBytes)
		return err
	}
	if compression == compressionZstd || file.to == nil {
		err = check(nil)
	} else {
		err = s.zstdTo(file, check)
	}
	if compression == compressionNone {
		sent = checked.Hash
	} else {
		sum.Sum(sent[:0])
	}
	return checked, sent, err
}

// lateTee is an io.TeeReader that is told where to later. It stands below a buffer, so that what it writes are not single bytes.
type lateTee struct {
	r  io.Reader
	to io.Writer // nil for nowhere
}

func (t *lateTee) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	if t.to != nil && n > 0 {
		if _, err := t.to.Write(b[:n]); err != nil {
			return n, err
		}
	}
	return n, err
}

// fileWriter counts and hashes what is stored, and remembers when storing failed. Without to, nothing is stored.
type fileWriter struct {
	to  io.Writer
	sum hash.Hash
	n   int64
	err error
}

func (f *fileWriter) Write(b []byte) (n int, err error) {
	n = len(b)
	if f.to != nil {
		n, err = f.to.Write(b)
	}
	f.sum.Write(b[:n])
	f.n += int64(n)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		f.err = err
	}
	return n, err
}
