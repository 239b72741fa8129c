package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	// maxNarInfoBytes allows for about 15,000 references.
	maxNarInfoBytes = 1 << 20
	// maxWindow bounds what decompressing one upload takes. Every level of zstd but the "ultra" ones keeps to it.
	maxWindow = 8 << 20
	// maxSigs bounds the signatures of others that are kept.
	maxSigs = 16
)

// errStored ends an upload of what is there already, after it was verified.
var errStored = errors.New("already stored")

// putNar receives an archive, compressed by zstd, under the hash of what is inside.
// It is verified while it is written to a temporary place; only then it can be seen.
func (s *Server) putNar(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	want, err := parseNarFile(r.PathValue("file"))
	if err != nil {
		return badRequest("an archive is uploaded as nar/<NarHash in Nix's base 32>%s", narSuffix)
	}
	ctx := r.Context()
	end, err := s.beginUpload(r)
	if err != nil {
		return err
	}
	defer end()
	stored, err := s.stored(ctx, want)
	if err != nil {
		return err
	}
	body := &patientReader{r: http.MaxBytesReader(w, r.Body, s.maxFileBytes()), w: http.NewResponseController(w)}
	if stored {
		if _, err = s.receive(body, io.Discard, want); err != nil {
			return err
		}
		return s.Index.NoteSent(ctx, c.Name, want, time.Now())
	}
	if err := s.checkQuota(ctx, c, max(r.ContentLength, 1)); err != nil {
		return err
	}
	return s.store(ctx, c, body, want)
}

// store puts a verified upload in its place and its description into the index.
// Of uploads at the same time, the first wins.
func (s *Server) store(ctx context.Context, c *Cache, body io.Reader, want nar.Hash) error {
	var got Nar
	lost, unlock := false, func() {}
	defer func() { unlock() }()
	key := newBlobKey(want)
	err := s.Blobs.Put(ctx, key, func(to io.Writer) (err error) {
		if got, err = s.receive(body, to, want); err != nil {
			return err
		}
		if err := s.checkQuota(ctx, c, got.FileSize); err != nil {
			return err
		}
		unlock = s.locks.lock(narURL(want))
		old, known, err := s.Index.Nar(ctx, want)
		if err != nil || !known {
			return err
		}
		lost = true
		if stored, err := s.hasBlob(ctx, old); err != nil || !stored {
			return err
		}
		return errStored
	})
	if errors.Is(err, errStored) {
		return s.Index.NoteSent(ctx, c.Name, want, time.Now())
	}
	if err != nil {
		return err
	}
	got.Blob = key
	if lost { // paths of any cache have it
		defer s.memory.forgetAll()
	}
	if err := s.Index.PutNar(ctx, got); err != nil {
		return err
	}
	return errors.Join(s.Index.NoteSent(ctx, c.Name, want, time.Now()), s.notePending(ctx, c, got))
}

// stored says whether an archive is there, and known.
func (s *Server) stored(ctx context.Context, hash nar.Hash) (bool, error) {
	n, ok, err := s.Index.Nar(ctx, hash)
	if err != nil || !ok {
		return false, err
	}
	return s.hasBlob(ctx, n)
}

// maxFileBytes is MaxNarBytes and what zstd may add to incompressible data.
func (s *Server) maxFileBytes() int64 { return s.MaxNarBytes + s.MaxNarBytes/128 + 1<<20 }

// receive copies body to to while it decompresses and verifies it, and
// describes what it was. Failures of to are told from those of the upload.
func (s *Server) receive(body io.Reader, to io.Writer, want nar.Hash) (Nar, error) {
	file := &fileWriter{to: to, sum: sha256.New()}
	in := &rememberingReader{r: io.TeeReader(body, file)}
	z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return Nar{}, err
	}
	defer z.Close()
	checked, err := nar.Check(z, s.MaxNarBytes)
	switch {
	case file.err != nil:
		return Nar{}, file.err
	case in.err != nil:
		return Nar{}, readError(in.err, "the upload broke off")
	case errors.Is(err, nar.ErrTooLarge):
		return Nar{}, &httpError{status: http.StatusRequestEntityTooLarge, kind: "RequestError", message: "the archive is larger than this cache allows"}
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return Nar{}, badRequest("the upload needs a zstd window above 8 MiB: compress at level 19 or lower, without --long")
	case err != nil:
		return Nar{}, badRequest("the upload is refused: %v", err)
	case checked.Hash != want:
		return Nar{}, badRequest("the archive's NarHash is %s, not %s", checked.Hash, want)
	}
	n := Nar{NarHash: checked.Hash, NarSize: checked.Size, FileSize: file.n}
	file.sum.Sum(n.FileHash[:0])
	return n, nil
}

// putNarInfo receives the description of a path, signs it if its archive is here, and stores it.
func (s *Server) putNarInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	hashPart, ok := strings.CutSuffix(r.PathValue("file"), narInfoSuffix)
	if !ok || !nar.ValidHashPart(hashPart) {
		return badRequest("a path is uploaded as <hash>%s", narInfoSuffix)
	}
	text, err := readBody(w, r, maxNarInfoBytes)
	if err != nil {
		return err
	}
	info, err := nar.ParseNarInfo(text)
	if err != nil {
		return badRequest("%v", err)
	}
	if err := s.checkPath(hashPart, info); err != nil {
		return err
	}
	return s.putPath(r.Context(), c, hashPart, info)
}

func (s *Server) checkPath(hashPart string, info *nar.NarInfo) error {
	dir, hash, _, err := nar.SplitStorePath(info.StorePath)
	if err != nil {
		return badRequest("%v", err)
	}
	if hash != hashPart {
		return badRequest("%s was uploaded as %s%s", info.StorePath, hashPart, narInfoSuffix)
	}
	if dir != s.StoreDir {
		return badRequest("%s is not in %s, the store of this cache", info.StorePath, s.StoreDir)
	}
	return nil
}

// putPath stores a path, unless it is there already. The first upload wins: a
// path that is built twice need not come out the same, and hosts may have the first.
// Only a path whose archive was lost is replaced.
func (s *Server) putPath(ctx context.Context, c *Cache, hashPart string, info *nar.NarInfo) error {
	defer s.locks.lock(c.Name + "/" + hashPart)()
	old, known, err := s.record(ctx, c, hashPart)
	exists := known
	if known {
		exists, err = s.hasBlob(ctx, old.Nar)
	}
	if err != nil {
		return err
	}
	if exists && old.StorePath == info.StorePath && old.NarHash == info.NarHash {
		return nil
	}
	if exists {
		return conflict(info.StorePath, old.NarHash)
	}
	err = s.checkNar(ctx, c, info)
	key, upstream := info.Signer(s.Upstreams...)
	path := Path{Cache: c.Name, StorePath: info.StorePath, NarHash: info.NarHash}
	switch {
	case errors.Is(err, errNoNar) && !upstream:
		return badRequest("the archive of %s is not here: upload it as %s first", info.StorePath, narURL(info.NarHash))
	case errors.Is(err, errNoNar):
		path.Upstream, path.NarHash = key.String(), nar.Hash{}
	case err != nil:
		return err
	}
	if path.Upstream == "" {
		if err := s.claim(ctx, c, info.NarHash); err != nil {
			return err
		}
	}
	path.NarInfo = s.kept(c, info)
	_, err = s.Index.PutPath(ctx, path, withoutSelf(info), time.Now(), known)
	s.memory.forget(memoryKey{c.Name, hashPart}, memoryKey{c.Name, info.NarHash.Nix32()})
	var missing *MissingReferencesError
	if errors.As(err, &missing) {
		return badRequest("%v; upload those first", missing)
	}
	if errors.Is(err, ErrConflict) { // another replica was quicker
		if now, ok, lerr := s.record(ctx, c, hashPart); ok && lerr == nil {
			return conflict(info.StorePath, now.NarHash)
		}
	}
	return err
}

// withoutSelf are the references of a path to others.
func withoutSelf(info *nar.NarInfo) []string {
	return slices.DeleteFunc(slices.Clone(info.References), func(r string) bool { return r == info.StorePath })
}

func conflict(storePath string, have nar.Hash) error {
	return &httpError{status: http.StatusConflict, kind: "Conflict", message: storePath + " is already in the cache with the NarHash " + have.String() +
		"; the first upload wins, because hosts may have it"}
}

// errNoNar means that a path's archive was not uploaded.
var errNoNar = errors.New("the archive is not here")

// mayHave says whether a path of c may have an archive: one has, or it was sent to c, whole. To know the NarHash of
// what another cache has is not enough to get it.
func (s *Server) mayHave(ctx context.Context, c *Cache, narHash nar.Hash) (bool, error) {
	_, ok, err := s.Index.NarOf(ctx, c.Name, narHash)
	if ok || err != nil {
		return ok, err
	}
	return s.Index.WasSent(ctx, c.Name, narHash)
}

// checkNar makes sure that the path's archive was uploaded to the cache (else errNoNar) and has the size that is claimed.
func (s *Server) checkNar(ctx context.Context, c *Cache, info *nar.NarInfo) error {
	n, ok, err := s.Index.Nar(ctx, info.NarHash)
	if err != nil {
		return err
	}
	if ok {
		ok, err = s.hasBlob(ctx, n)
	}
	if ok {
		ok, err = s.mayHave(ctx, c, info.NarHash)
	}
	if err != nil {
		return err
	}
	if !ok {
		return errNoNar
	}
	if n.NarSize != info.NarSize {
		return badRequest("the archive of %s has %d bytes, not %d", info.StorePath, n.NarSize, info.NarSize)
	}
	return nil
}

// kept is what the index keeps of info: with a bounded number of signatures of others, those that a trusted upstream made first.
func (s *Server) kept(c *Cache, info *nar.NarInfo) []byte {
	out := nar.NarInfo{PathInfo: info.PathInfo, URL: narURL(info.NarHash), Compression: "zstd"}
	out.Sigs = nil
	fingerprint := info.Fingerprint()
	trusted := func(sig string) bool {
		return slices.ContainsFunc(s.Upstreams, func(k nar.PublicKey) bool { return k.Verify(fingerprint, sig) })
	}
	for _, first := range []bool{true, false} {
		for _, sig := range others(c, info.Sigs) {
			if nar.ValidSignature(sig) && trusted(sig) == first && len(out.Sigs) < maxSigs && !slices.Contains(out.Sigs, sig) {
				out.Sigs = append(out.Sigs, sig)
			}
		}
	}
	return out.Encode()
}

// fileWriter counts and hashes what is stored, and remembers when storing failed.
type fileWriter struct {
	to  io.Writer
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n   int64
	err error
}

func (f *fileWriter) Write(b []byte) (int, error) {
	n, err := f.to.Write(b)
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

// rememberingReader remembers why reading ended, whatever is made of it further up.
type rememberingReader struct {
	r   io.Reader
	err error
}

func (m *rememberingReader) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// patientReader gives a client a minute for each read: an upload may take long, but not stand still.
type patientReader struct {
	r io.Reader
	w *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	setReadLimit(p.w, leastTime)
	n, err := p.r.Read(b)
	if err != nil {
		setReadLimit(p.w, 0) // what is left to do takes as long as it takes
	}
	return n, err
}

// setReadLimit bounds the time until the next read; 0 lifts the bound. A
// connection that cannot be limited (in tests) is left alone.
func setReadLimit(w *http.ResponseController, d time.Duration) {
	at := time.Time{}
	if d > 0 {
		at = time.Now().Add(d)
	}
	_ = w.SetReadDeadline(at)
}

// readBody reads a small body, of at most most bytes, within a minute.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	limit := http.NewResponseController(w)
	setReadLimit(limit, leastTime)
	defer setReadLimit(limit, 0)
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err != nil {
		return nil, readError(err, "the upload broke off")
	}
	return b, nil
}

// readError tells a body that is too large from one that broke off.
func readError(err error, what string) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return badRequest("%s: %v", what, err)
}
