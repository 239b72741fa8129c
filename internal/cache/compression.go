package cache

import (
	"compress/bzip2"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"
)

// Compressions, as Nix calls them.
const (
	compressionNone  = "none"
	compressionZstd  = "zstd"
	compressionXz    = "xz"
	compressionGzip  = "gzip"
	compressionBzip2 = "bzip2"
	compressionBr    = "br" // of small files only
)

const (
	// maxWindow bounds what decompressing one upload takes. Every level of zstd but the "ultra" ones keeps to it, and of xz those up to 6.
	maxWindow = 8 << 20
	// ourWindow bounds what compressing one upload takes.
	ourWindow = 2 << 20
)

// archiveCompression is the compression of archives whose files end in ".nar" and suffix.
func archiveCompression(suffix string) (string, bool) {
	switch suffix {
	case "":
		return compressionNone, true
	case ".zst":
		return compressionZstd, true
	case ".xz":
		return compressionXz, true
	case ".gz":
		return compressionGzip, true
	case ".bz2":
		return compressionBzip2, true
	}
	return "", false
}

// isWide says whether decompressing a file takes more memory than that of our client: it takes turns then.
func isWide(compression string, start []byte) bool {
	if compression == compressionZstd {
		var h zstd.Header
		return h.Decode(start) == nil && h.WindowSize > maxWindow/2
	}
	return compression == compressionXz
}

const (
	magicBytes = zstd.HeaderMaxSize
	copyBuffer = 64 << 10
)

// compressionOf tells by its first bytes how a file is compressed. What it does not know may be an archive as it is.
func compressionOf(start []byte) string {
	for magic, compression := range map[string]string{
		"\x28\xb5\x2f\xfd": compressionZstd, "\xfd7zXZ\x00": compressionXz, "\x1f\x8b": compressionGzip, "BZh": compressionBzip2,
	} {
		if strings.HasPrefix(string(start), magic) {
			return compression
		}
	}
	return compressionNone
}

// errWindow means that decompressing would take too much memory.
var errWindow = errors.New("its compression needs a window above 8 MiB: use level 19 of zstd or level 6 of xz, or lower ones, without --long")

// decompress returns what is inside r. done is to be called when that is not read any more.
func (s *Server) decompress(method string, r io.Reader) (inside io.Reader, done func(), err error) {
	none := func() {}
	switch method {
	case "", "identity", compressionNone:
		return r, none, nil
	case compressionZstd:
		return s.unzstd(r)
	case compressionGzip, "x-gzip":
		z, err := gzip.NewReader(r)
		return z, none, err
	case compressionXz:
		z, err := xz.NewReader(r, maxWindow)
		return windowReader{z}, none, oneName(err)
	case compressionBzip2:
		return bzip2.NewReader(r), none, nil
	case compressionBr:
		return brotli.NewReader(r), none, nil
	}
	return nil, nil, &httpError{status: http.StatusUnsupportedMediaType, kind: "RequestError",
		message: "compression " + quoted(method) + " is not taken here: use zstd, xz, gzip or bzip2"}
}

// windowReader gives errors for what needs too much memory one name.
type windowReader struct{ r io.Reader }

func (w windowReader) Read(b []byte) (int, error) {
	n, err := w.r.Read(b)
	return n, oneName(err)
}

func oneName(err error) error {
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, xz.ErrMemlimit) {
		return errWindow
	}
	return err
}

func (s *Server) unzstd(r io.Reader) (io.Reader, func(), error) {
	z, ok := s.decoders.Get().(*zstd.Decoder)
	if !ok {
		var err error
		z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
	}
	if err := z.Reset(r); err != nil {
		return nil, nil, err
	}
	return windowReader{z}, func() {
		if z.Reset(nil) == nil {
			s.decoders.Put(z)
		}
	}, nil
}

// zstdTo compresses what write writes. An encoder takes 6 MB; with 4 MB (WithLowerEncoderMem) it would move its window so often that it compressed
// programs a quarter slower, and what does not compress at less than half the speed.
func (s *Server) zstdTo(to io.Writer, write func(io.Writer) error) error {
	z, ok := s.encoders.Get().(*zstd.Encoder)
	if !ok {
		var err error
		z, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(ourWindow))
		if err != nil {
			return err
		}
	}
	z.Reset(to)
	defer func() {
		z.Reset(nil)
		s.encoders.Put(z)
	}()
	if err := write(z); err != nil {
		return err
	}
	return z.Close()
}

// readJSON reads a body of at most most bytes into a value.
func (s *Server) readJSON(w http.ResponseWriter, r *http.Request, most int64, into any) error {
	body, err := s.readBody(w, r, most)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badRequest("the request is not JSON of the form expected: %v", err)
	}
	return nil
}

// readBody reads a small body, of at most most bytes before and after decompression, within a minute.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	limit := http.NewResponseController(w)
	setReadLimit(limit, leastTime)
	defer setReadLimit(limit, 0)
	var b []byte
	err := s.readEncoded(r, http.MaxBytesReader(w, r.Body, most), most, func(in io.Reader) (err error) {
		b, err = io.ReadAll(in)
		return err
	})
	return b, err
}

// readEncoded has read read a body of at most most bytes, without the Content-Encoding that it came in.
func (s *Server) readEncoded(r *http.Request, body io.Reader, most int64, read func(io.Reader) error) error {
	in := &rememberingReader{r: body}
	inside, done, err := s.decompress(strings.ToLower(r.Header.Get("Content-Encoding")), in)
	if err == nil {
		defer done()
		bounded := &boundedReader{r: inside, left: most}
		err = read(bounded)
		if bounded.err != nil {
			err = bounded.err
		} else if err != nil {
			return err // of storing
		}
	}
	var refused *httpError
	switch {
	case in.err != nil:
		return readError(in.err, "the upload broke off")
	case err == nil, errors.As(err, &refused):
		return err
	}
	return badRequest("the upload cannot be decompressed: %v", err)
}

// boundedReader fails after left bytes, and remembers failures.
type boundedReader struct {
	r    io.Reader
	left int64
	err  error
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		err = &httpError{status: http.StatusRequestEntityTooLarge, kind: "RequestError", message: "the upload is too large when it is decompressed"}
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}
