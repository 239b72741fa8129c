package cache

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// newBlobKey is where an archive with that hash will be stored. No two are the same, so what deletes one never deletes another upload's.
func newBlobKey(narHash nar.Hash) string {
	return narHash.Nix32() + "-" + strings.ToLower(rand.Text()) + narSuffix
}

// FirstBlobKey is where an index of the first schema, which names no blob, has an archive.
func FirstBlobKey(narHash nar.Hash) string { return narHash.Nix32() + narSuffix }

// narURL is what the narinfo says, relative to the cache.
func narURL(narHash nar.Hash) string { return "nar/" + narHash.Nix32() + narSuffix }

func (s *Server) getCacheInfo(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/x-nix-cache-info")
	fmt.Fprintf(w, "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", s.StoreDir, s.priority(c))
	return nil
}

// narInfoOf says which path of which cache a request is about, if it is for a narinfo.
func narInfoOf(r *http.Request) (cache, hashPart string, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return "", "", false
	}
	path, ok := strings.CutSuffix(r.URL.Path, narInfoSuffix)
	if !ok || !strings.HasPrefix(path, "/") {
		return "", "", false
	}
	cache, hashPart, ok = strings.Cut(path[1:], "/")
	return cache, hashPart, ok && cache != "" && nar.ValidHashPart(hashPart)
}

// getNarInfo serves a narinfo. Hosts ask for thousands of them at once, for most of which the answer is no: it goes past the mux
// and does nothing that an answer can do without.
func (s *Server) getNarInfo(w http.ResponseWriter, r *http.Request, cache, hashPart string) {
	who := caller{began: time.Now(), server: s, request: r, answer: w.Header()}
	sent, err := s.writeNarInfo(w, r, &who, cache, hashPart)
	status := http.StatusOK
	if err != nil {
		a := reply{ResponseWriter: w}
		s.fail(&a, r, err)
		status, sent = a.status, a.n
	}
	s.counts.note(s.narInfos, status, 0, sent, time.Since(who.began))
	s.counts.read(who.cache, status)
}

func (s *Server) writeNarInfo(w http.ResponseWriter, r *http.Request, who *caller, cache, hashPart string) (sent int64, err error) {
	if err := s.admit(who, r); err != nil {
		return 0, err
	}
	c, err := s.let(r.Context(), who, cache, Pull)
	if err != nil {
		return 0, err
	}
	a, err := s.path(r.Context(), who.began, c, hashPart, r.Header[pullHeader] == nil)
	if err != nil {
		return 0, err
	}
	if a == nil {
		return 0, noSuchPath
	}
	who.answer["Content-Type"], who.answer["Content-Length"] = valueNarInfo, a.length
	n, _ := w.Write(a.text) // it fails when the client is gone
	return int64(n), nil
}

// getListing serves the listing of a path's archive.
func (s *Server) getListing(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	file := r.PathValue("file")
	hashPart, ok := strings.CutSuffix(file, listingSuffix)
	if !ok || !nar.ValidHashPart(hashPart) {
		return noSuchObject(file)
	}
	a, err := s.path(r.Context(), time.Now(), c, hashPart, false)
	if err != nil {
		return err
	}
	if a == nil || a.nar.Blob == "" {
		return noSuchObject(file) // or it was pulled, and nobody has asked for its archive yet
	}
	return s.serveListing(w, r, a.nar)
}

// record is what the index knows of one path.
func (s *Server) record(ctx context.Context, c *Cache, hashPart string) (Record, bool, error) {
	found, err := s.Index.Lookup(ctx, c.Name, []string{hashPart})
	r, ok := found[hashPart]
	return r, ok, err
}

// signed is the narinfo that is served of a path: where its archive is here, and our signatures beside those of others. What was pulled from
// another cache is signed by us only if that is said of that cache.
func (s *Server) signed(c *Cache, r Record, from *PullThrough) ([]byte, error) {
	info, err := nar.ParseNarInfo(r.NarInfo)
	if err != nil {
		return nil, fmt.Errorf("the index has a bad narinfo of %s: %w", r.StorePath, err)
	}
	sigs := info.Sigs // which were verified, if it was pulled
	if r.Upstream == "" {
		sigs = others(c, sigs)
	}
	if r.Upstream == "" || from.Resign {
		ours, err := c.sign(info.Fingerprint())
		if err != nil {
			return nil, err
		}
		sigs = append(ours, sigs...)
	}
	info.Sigs, info.Compression = sigs, "zstd"
	info.URL, info.FileHash, info.FileSize = narURL(info.NarHash), r.Nar.FileHash, r.Nar.FileSize
	if r.Nar.Blob == "" {
		hashPart, err := nar.HashPart(r.StorePath)
		if err != nil {
			return nil, err
		}
		info.URL = pulledURL(hashPart, info.NarHash)
	}
	return info.Encode(), nil
}

// sign returns the signature of each of the cache's keys.
func (c *Cache) sign(fingerprint []byte) (sigs []string, err error) {
	for _, k := range c.Keys {
		if k.Private == nil {
			return nil, fmt.Errorf("the private half of key %s of cache %s is not known", k.Public.Name, c.Name)
		}
		sigs = append(sigs, k.Private.Sign(fingerprint))
	}
	return sigs, nil
}

// pulledURL is where an archive is that may have to be fetched first: it names the path, by which that is found.
func pulledURL(hashPart string, narHash nar.Hash) string {
	return "nar/" + hashPart + "-" + narHash.Nix32() + narSuffix
}

// others are those signatures that no key of ours could have made.
func others(c *Cache, sigs []string) []string {
	return slices.DeleteFunc(slices.Clone(sigs), func(sig string) bool {
		return slices.ContainsFunc(c.Keys, func(k Key) bool { return strings.HasPrefix(sig, k.Public.Name+":") })
	})
}

// hasBlob says whether the content of n is stored, with the size that it should have.
func (s *Server) hasBlob(ctx context.Context, n Nar) (bool, error) {
	if n.Blob == "" {
		return false, nil
	}
	size, ok, err := s.Blobs.Stat(ctx, n.Blob)
	return ok && size == n.FileSize, err
}

func (s *Server) getNar(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	hashPart, file := "", r.PathValue("file")
	if before, after, ok := strings.Cut(file, "-"); ok && nar.ValidHashPart(before) {
		hashPart, file = before, after
	}
	name, ok := parseNarFile(file)
	if !ok {
		return noSuchObject("nar/" + r.PathValue("file"))
	}
	n, err := s.narOf(r.Context(), c, name.hash)
	var refused *httpError
	if hashPart != "" && errors.As(err, &refused) {
		if err = s.pullNar(r.Context(), c, hashPart, name.hash); err == nil {
			n, err = s.narOf(r.Context(), c, name.hash)
		}
	}
	if err != nil {
		return err
	}
	if name.compression == compressionZstd {
		if elsewhere, err := s.redirect(w, r, n); elsewhere || err != nil {
			return err
		}
	}
	f, err := s.Blobs.Open(r.Context(), n.Blob)
	if errors.Is(err, ErrNotFound) {
		return noSuchObject(narURL(name.hash))
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w.Header().Set("Cache-Control", "max-age=31536000, immutable")
	if name.compression != compressionZstd {
		return s.serveAs(w, r, name.compression, n, f)
	}
	limitWrite(w, n.FileSize)
	w.Header().Set("Content-Type", narType)
	w.Header().Set("ETag", strconv.Quote(n.FileHash.Nix32()))
	defer cork(r)()
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// serveAs serves an archive as Nix remembers to have pushed it: what it finds under that name it takes for that compression.
func (s *Server) serveAs(w http.ResponseWriter, r *http.Request, compression string, n Nar, f io.Reader) error {
	limitWrite(w, n.NarSize)
	w.Header().Set("Content-Type", "application/x-nix-nar")
	var as func(io.Writer, io.Reader) error
	switch compression {
	case compressionNone:
		w.Header().Set("Content-Length", strconv.FormatInt(n.NarSize, 10))
		as = copyAll
	case compressionXz:
		as = storedXz
	default:
		return noSuchObject(r.PathValue("file"))
	}
	return s.unpackTo(w, r, f, as)
}

func copyAll(w io.Writer, r io.Reader) error {
	_, err := io.Copy(w, r)
	return err
}

// unpackTo answers with what is inside f, which is compressed by zstd, as as writes it. The headers are set.
func (s *Server) unpackTo(w http.ResponseWriter, r *http.Request, f io.Reader, as func(io.Writer, io.Reader) error) error {
	if r.Method == http.MethodHead {
		return nil
	}
	inside, done, err := s.unzstd(f)
	if err != nil {
		return err
	}
	defer done()
	if err := as(w, inside); err != nil {
		if r.Context().Err() == nil {
			s.Log.Error("stored content cannot be read", "path", r.URL.Path, "err", err)
		}
		panic(http.ErrAbortHandler) // rather than what looks like an end
	}
	return nil
}

// redirectValid is how long a client may take from being told of another place to asking there.
const redirectValid = 15 * time.Minute

// redirect sends a client to where the archive can be read without us, if there is such a place.
func (s *Server) redirect(w http.ResponseWriter, r *http.Request, n Nar) (bool, error) {
	d, ok := s.Blobs.(Redirector)
	if !ok || r.Method != http.MethodGet { // a URL is good for one method
		return false, nil
	}
	url, err := d.URL(r.Context(), n.Blob, redirectValid)
	if err != nil || url == "" {
		return false, err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, url, http.StatusTemporaryRedirect)
	return true, nil
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
