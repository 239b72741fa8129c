package cache

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// An archive may come in parts, for reverse proxies that bound what one request may carry, and so that an upload that broke off goes on where
// it was. Parts are blobs like any other, which the index does not name: any replica can take and assemble them, and those that are
// left are swept as orphans. See docs/decisions/0014.

const (
	// maxPartBytes is the most that one part may have: what reverse proxies are commonly set up for.
	maxPartBytes = 32 << 20
	// maxPartsKept is how many parts of unfinished uploads are kept of a cache.
	maxPartsKept = 20_000
	partPrefix   = "part-"
)

// uploadName is what a client calls one compression of an archive.
var uploadName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]{1,64}$`) })

// parts are those of one upload.
type parts struct {
	cache   *Cache
	narHash nar.Hash
	prefix  string // of their keys
	all     string // prefix of the keys of all parts of that cache
}

// Part is one of those that are stored of an upload.
type Part struct {
	Number int   `json:"number"`
	Size   int64 `json:"size"` // bytes
}

// Parts is the answer to GET /api/v1/caches/{cache}/uploads/{narHash}/{upload}.
type Parts struct {
	Schema       int    `json:"schema"` // 1
	MaxPartBytes int64  `json:"maxPartBytes"`
	Parts        []Part `json:"parts"` // by number
}

// partsOf reads which upload a request is about. Keys hold hashes of the names, so that no name reaches into another cache's.
func (s *Server) partsOf(r *http.Request) (parts, error) {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return parts{}, err
	}
	h, err := nar.ParseNix32(r.PathValue("narHash"))
	if err != nil || !uploadName().MatchString(r.PathValue("upload")) {
		return parts{}, badRequest("an upload in parts is named <NarHash in Nix's base 32>/<1 to 64 of a-z and 0-9>")
	}
	hash := func(s string) string { return nar.Hash(sha256.Sum256([]byte(s))).Nix32()[:32] }
	of := partPrefix + hash(c.Name)[:20] + "-"
	return parts{c, h, of + hash(c.Name+"/"+h.Nix32()+"/"+r.PathValue("upload")) + "-", of}, nil
}

func (p parts) key(number int) string { return fmt.Sprintf("%s%05d", p.prefix, number) }

// partsKept lists what is stored of an upload, by number.
func (s *Server) partsKept(ctx context.Context, p parts) ([]Part, error) {
	list := []Part{}
	err := s.Blobs.List(ctx, p.prefix, func(b Blob) error {
		n, err := strconv.Atoi(strings.TrimPrefix(b.Key, p.prefix))
		if err == nil {
			list = append(list, Part{n, b.Size})
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Part) int { return a.Number - b.Number })
	return list, err
}

func (s *Server) getParts(w http.ResponseWriter, r *http.Request) error {
	p, err := s.partsOf(r)
	if err != nil {
		return err
	}
	list, err := s.partsKept(r.Context(), p)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, Parts{Schema: 1, MaxPartBytes: maxPartBytes, Parts: list})
	return nil
}

// maxParts is how many parts the largest archive has.
func (s *Server) maxParts() int { return int(s.maxFileBytes()/maxPartBytes) + 1 }

// putPart stores a part, in place of what was there under its number. It is looked into when the parts are assembled.
func (s *Server) putPart(w http.ResponseWriter, r *http.Request) error {
	p, err := s.partsOf(r)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(r.PathValue("part"))
	if err != nil || number < 0 || number >= s.maxParts() {
		return badRequest("an archive has parts 0 to %d, not %s", s.maxParts()-1, quoted(r.PathValue("part")))
	}
	if err := errors.Join(s.roomForPart(r.Context(), p, number), s.checkQuota(r.Context(), p.cache, max(r.ContentLength, 1))); err != nil {
		return err
	}
	body := &patientReader{r: http.MaxBytesReader(w, r.Body, maxPartBytes), w: http.NewResponseController(w)}
	return s.Blobs.Put(r.Context(), p.key(number), func(to io.Writer) error {
		in := &rememberingReader{r: body}
		n, err := io.Copy(to, in)
		switch {
		case in.err != nil:
			return readError(in.err, "the upload broke off")
		case err == nil && n == 0:
			return badRequest("a part is not empty")
		}
		return err
	})
}

// roomForPart bounds what unfinished uploads of a cache may take: the two largest archives, and a number of parts.
func (s *Server) roomForPart(ctx context.Context, p parts, number int) error {
	var n int
	var size int64
	err := s.Blobs.List(ctx, p.all, func(b Blob) error {
		if b.Key != p.key(number) {
			n, size = n+1, size+b.Size
		}
		return nil
	})
	if err == nil && (n >= maxPartsKept || size+maxPartBytes > 2*s.maxFileBytes()) {
		return &httpError{status: http.StatusTooManyRequests, kind: "RequestError", retryAfter: time.Minute, message: fmt.Sprintf("unfinished uploads of this cache take %d bytes: finish or delete them; what is left of one is deleted after a day", size)}
	}
	return err
}

// postParts makes an archive of its parts and stores it as if it had come whole. Once this cache has it, the same request is answered alike, without
// parts: who sends it again after an answer that was lost, or while the first is still at work, is told that all is well.
func (s *Server) postParts(w http.ResponseWriter, r *http.Request) error {
	p, err := s.partsOf(r)
	if err != nil {
		return err
	}
	text, err := s.readBody(w, r, 1<<10)
	if err != nil {
		return err
	}
	var query struct {
		Parts int `json:"parts"`
	}
	if err := json.Unmarshal(text, &query); err != nil || query.Parts < 1 || query.Parts > s.maxParts() {
		return badRequest("how many parts there are is 1 to %d", s.maxParts())
	}
	// A proxy may give up waiting; what was begun is ended all the same, and the client's next request finds it done.
	r = r.WithContext(context.WithoutCancel(r.Context()))
	ctx := r.Context()
	defer s.locks.lock(p.prefix)()
	stored, err := s.storedFor(ctx, p.cache, []nar.Hash{p.narHash})
	if err == nil && len(stored) == 0 {
		err = s.assemble(r, p, query.Parts)
	}
	var refused *httpError
	if err == nil || errors.As(err, &refused) && refused.status == http.StatusBadRequest { // it is no use to keep what is not that archive
		err = errors.Join(err, s.dropParts(ctx, p))
	}
	return err
}

// assemble stores the archive that n parts are.
func (s *Server) assemble(r *http.Request, p parts, n int) error {
	ctx := r.Context()
	list, err := s.partsKept(ctx, p)
	if err != nil {
		return err
	}
	for i := range n {
		if i >= len(list) || list[i].Number != i {
			return &httpError{status: http.StatusConflict, kind: "MissingPart", message: fmt.Sprintf("part %d of %d is not here", i, n)}
		}
	}
	end, err := s.beginUpload(r)
	if err != nil {
		return err
	}
	defer end()
	in := &partReader{ctx: ctx, s: s, p: p, n: n}
	defer in.close()
	_, _, err = s.store(ctx, p.cache, in, narFile{hash: p.narHash, compression: compressionZstd})
	if in.err != nil { // the parts cannot be read: that is not the client's fault
		return in.err
	}
	return err
}

func (s *Server) dropParts(ctx context.Context, p parts) error {
	list, err := s.partsKept(ctx, p)
	for _, part := range list {
		err = errors.Join(err, s.Blobs.Delete(ctx, p.key(part.Number)))
	}
	return err
}

func (s *Server) deleteParts(_ http.ResponseWriter, r *http.Request) error {
	p, err := s.partsOf(r)
	if err != nil {
		return err
	}
	return s.dropParts(r.Context(), p)
}

// partReader reads parts one after the other, one open at a time.
type partReader struct {
	ctx  context.Context
	s    *Server
	p    parts
	n    int // of parts
	next int
	open io.ReadCloser
	err  error // of storage
}

func (r *partReader) Read(b []byte) (int, error) {
	for {
		if r.open == nil {
			if r.next == r.n {
				return 0, io.EOF
			}
			if r.open, r.err = r.s.Blobs.Open(r.ctx, r.p.key(r.next)); r.err != nil {
				return 0, r.err
			}
			r.next++
		}
		k, err := r.open.Read(b)
		if err == io.EOF {
			r.close()
			err = nil
		}
		if r.err = err; k > 0 || err != nil {
			return k, err
		}
	}
}

func (r *partReader) close() {
	if r.open != nil {
		r.open.Close()
		r.open = nil
	}
}
