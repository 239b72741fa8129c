package cache

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	// maxNarInfoBytes allows for about 15,000 references.
	maxNarInfoBytes = 1 << 20
	// maxSigs bounds the signatures of others that are kept.
	maxSigs = 16
)

// putFile receives the description of a path, signs it if its archive is here, and stores it.
func (s *Server) putFile(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	if strings.HasSuffix(r.PathValue("file"), listingSuffix) {
		return s.skipListing(w, r)
	}
	hashPart, ok := strings.CutSuffix(r.PathValue("file"), narInfoSuffix)
	if !ok || !nar.ValidHashPart(hashPart) {
		return badRequest("a path is uploaded as <hash>%s", narInfoSuffix)
	}
	text, err := s.readBody(w, r, maxNarInfoBytes)
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
	return uploadFirst(s.putWhole(r.Context(), c, hashPart, info))
}

// uploadFirst says what to do about references that are not here.
func uploadFirst(err error) error {
	var missing *MissingReferencesError
	if errors.As(err, &missing) {
		return badRequest("%v; upload those first", missing)
	}
	return err
}

// putCacheInfo takes what Nix writes to a cache that it takes for a new one.
func (s *Server) putCacheInfo(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.open(r, r.PathValue("cache"), Push); err != nil {
		return err
	}
	text, err := s.readBody(w, r, maxNarInfoBytes)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if dir, ok := strings.CutPrefix(line, "StoreDir:"); ok && strings.TrimSpace(dir) != s.StoreDir {
			return badRequest("this cache is of the store %s, not %s", s.StoreDir, quoted(strings.TrimSpace(dir)))
		}
	}
	return nil
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

// pushedAs is what the archive is called by who pushed the path, if that is not its NarHash, and tells what to serve by that name.
func pushedAs(info *nar.NarInfo) nar.Hash {
	file, ok := strings.CutPrefix(info.URL, "nar/")
	if !ok {
		return nar.Hash{}
	}
	f, ok := parseNarFile(file)
	if !ok || f.hash == info.NarHash || f.compression != info.Compression {
		return nar.Hash{} // of gzip, Nix has no suffix
	}
	return f.hash
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

// readError tells a body that is too large from one that broke off.
func readError(err error, what string) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	return badRequest("%s: %v", what, err)
}
