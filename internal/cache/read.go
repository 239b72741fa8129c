package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

const (
	narInfoSuffix = ".narinfo"
	narSuffix     = ".nar.zst"
	narInfoType   = "text/x-nix-narinfo"
	narType       = "application/zstd"
)

// blobKey is where the archive with that hash is stored.
func blobKey(narHash nar.Hash) string { return narHash.Nix32() + narSuffix }

// narURL is what the narinfo says, relative to the cache.
func narURL(narHash nar.Hash) string { return "nar/" + blobKey(narHash) }

func (s *Server) getCacheInfo(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.open(r, r.PathValue("cache"), Pull); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/x-nix-cache-info")
	fmt.Fprintf(w, "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", s.StoreDir, s.Priority)
	return nil
}

func (s *Server) getNarInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	hashPart, ok := strings.CutSuffix(r.PathValue("file"), narInfoSuffix)
	if !ok || !nar.ValidHashPart(hashPart) {
		return noSuchObject(r.PathValue("file"))
	}
	path, n, ok, err := s.Index.Path(r.Context(), c.name, hashPart)
	if err != nil {
		return err
	}
	if ok {
		ok, err = s.hasBlob(r.Context(), n)
	}
	if err != nil {
		return err
	}
	if !ok {
		return noSuchObject(r.PathValue("file"))
	}
	text := withFile(path.NarInfo, n)
	w.Header().Set("Content-Type", narInfoType)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	_, _ = w.Write(text) // it fails when the client is gone
	return nil
}

// withFile adds to a stored narinfo what is known of its archive's file. It is
// kept apart because the file may be stored again, compressed otherwise.
func withFile(narInfo []byte, n Nar) []byte {
	return fmt.Appendf(bytes.Clone(narInfo), "FileHash: %s\nFileSize: %d\n", n.FileHash, n.FileSize)
}

// hasBlob says whether the content of n is stored, with the size that it should have.
func (s *Server) hasBlob(ctx context.Context, n Nar) (bool, error) {
	size, ok, err := s.Blobs.Stat(ctx, blobKey(n.NarHash))
	return ok && size == n.FileSize, err
}

func parseNarFile(file string) (nar.Hash, error) {
	digits, ok := strings.CutSuffix(file, narSuffix)
	if !ok {
		return nar.Hash{}, noSuchObject("nar/" + file)
	}
	h, err := nar.ParseNix32(digits)
	if err != nil {
		return nar.Hash{}, noSuchObject("nar/" + file)
	}
	return h, nil
}

func (s *Server) getNar(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	hash, err := parseNarFile(r.PathValue("file"))
	if err != nil {
		return err
	}
	n, err := s.narOf(r.Context(), c, hash)
	if err != nil {
		return err
	}
	f, err := s.Blobs.Open(r.Context(), blobKey(hash))
	if errors.Is(err, ErrNotFound) {
		return noSuchObject(narURL(hash))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	limitWrite(w, n.FileSize)
	h := w.Header()
	h.Set("Content-Type", narType)
	h.Set("Cache-Control", "max-age=31536000, immutable")
	h.Set("ETag", strconv.Quote(n.FileHash.Nix32()))
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// narOf returns what is known of an archive that a path of c has: content that
// only another cache has is not served.
func (s *Server) narOf(ctx context.Context, c *openCache, hash nar.Hash) (Nar, error) {
	has, err := s.Index.HasNar(ctx, c.name, hash)
	if err != nil {
		return Nar{}, err
	}
	n, known, err := s.Index.Nar(ctx, hash)
	if err != nil {
		return Nar{}, err
	}
	ok := has && known
	if ok {
		ok, err = s.hasBlob(ctx, n)
	}
	if err != nil {
		return Nar{}, err
	}
	if !ok {
		return Nar{}, noSuchObject(narURL(hash))
	}
	return n, nil
}

// Time limits of bodies: a connection slower than this is held for nothing.
const (
	slowestBytesPerSecond = 16 << 10
	leastTime             = time.Minute
)

// limitWrite bounds the time that answering with that many bytes may take. A
// writer that cannot be limited (in tests) is left alone.
func limitWrite(w http.ResponseWriter, bytes int64) {
	limit := leastTime + time.Duration(bytes/slowestBytesPerSecond)*time.Second
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit))
}
