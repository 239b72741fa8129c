package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// Beside archives, Blobs holds logs, realisations and listings, compressed by zstd. Those of a cache have its id in their keys.
const (
	logKeySuffix         = ".log"
	realisationKeySuffix = ".doi"
	listingKeySuffix     = ".ls"
)

// maxLogBytes is the longest build log that is kept, uncompressed.
const maxLogBytes = 256 << 20

// id tells c from a cache of the same name that was destroyed before.
func (c *Cache) id() string {
	sum := sha256.Sum256([]byte(c.Name + "\x00" + strconv.FormatInt(c.CreatedAt.Unix(), 10)))
	return nar.Hash(sum).Nix32()[:16]
}

func logKey(c *Cache, drvHashPart string) string { return drvHashPart + "-" + c.id() + logKeySuffix }

// logOf returns the cache and the key of the log that a request is about.
func (s *Server) logOf(r *http.Request, p Permission) (c *Cache, key string, err error) {
	if c, err = s.open(r, r.PathValue("cache"), p); err != nil {
		return nil, "", err
	}
	drv := r.PathValue("drv")
	dir, hash, name, err := nar.SplitStorePath(s.StoreDir + "/" + drv)
	if err != nil || dir != s.StoreDir || !strings.HasSuffix(name, ".drv") {
		return nil, "", noSuchObject("log/" + drv)
	}
	return c, logKey(c, hash), nil
}

// putLog keeps the log of a build; the last one counts.
func (s *Server) putLog(w http.ResponseWriter, r *http.Request) error {
	_, key, err := s.logOf(r, Push)
	if err != nil {
		return err
	}
	body := &patientReader{r: http.MaxBytesReader(w, r.Body, maxLogBytes), w: http.NewResponseController(w)}
	return s.Blobs.Put(r.Context(), key, func(to io.Writer) error {
		return s.readEncoded(r, body, maxLogBytes, func(in io.Reader) error {
			return s.zstdTo(to, func(z io.Writer) error {
				_, err := io.Copy(z, in)
				return err
			})
		})
	})
}

func (s *Server) getLog(w http.ResponseWriter, r *http.Request) error {
	_, key, err := s.logOf(r, Pull)
	if err != nil {
		return err
	}
	return s.serveText(w, r, key, "text/plain; charset=utf-8")
}

// serveText serves what is kept under key, as it is to those who can decompress it.
func (s *Server) serveText(w http.ResponseWriter, r *http.Request, key, contentType string) error {
	f, err := s.Blobs.Open(r.Context(), key)
	if errors.Is(err, ErrNotFound) {
		return noSuchObject(strings.TrimPrefix(r.URL.Path, "/"))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return err
	}
	limitWrite(w, maxLogBytes)
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Vary", "Accept-Encoding")
	if !accepts(r, compressionZstd) {
		return s.unpackTo(w, r, f, copyAll)
	}
	w.Header().Set("Content-Encoding", compressionZstd)
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if r.Method == http.MethodHead {
		return nil
	}
	_, _ = io.CopyN(w, f, size) // it fails when the client is gone; the length tells it apart from the end
	return nil
}

// accepts says whether a request's Accept-Encoding names encoding.
func accepts(r *http.Request, encoding string) bool {
	for _, header := range r.Header.Values("Accept-Encoding") {
		for e := range strings.SplitSeq(header, ",") {
			name, weight, _ := strings.Cut(strings.ReplaceAll(e, " ", ""), ";")
			if strings.EqualFold(name, encoding) {
				q, err := strconv.ParseFloat(strings.TrimPrefix(weight, "q="), 64)
				return weight == "" || err == nil && q > 0
			}
		}
	}
	return false
}

// keepsText says whether content beside archives, with what its key tells, is still of use.
func (s *Server) keepsText(ctx context.Context, caches map[string]*Cache, b Blob) (bool, error) {
	rest, id, _ := strings.Cut(b.Key, "-")
	id, isLog := strings.CutSuffix(id, logKeySuffix)
	id, isRealisation := strings.CutSuffix(id, realisationKeySuffix)
	c := caches[id]
	switch {
	case rest == "" || c == nil:
		return false, nil
	case isLog:
		unused := s.retention(c).Unused
		return unused == 0 || time.Since(b.StoredAt) < unused, nil
	case isRealisation:
		_, err := s.realisation(ctx, c, b.Key)
		var refused *httpError
		if errors.As(err, &refused) {
			return false, nil
		}
		return true, err
	}
	return false, nil
}
