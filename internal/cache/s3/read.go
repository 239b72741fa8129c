package s3

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache"
)

// Open implements cache.Blobs. All of the content is asked for at once: when Open returns, the server has it and has begun to send it.
func (s *Store) Open(ctx context.Context, key string) (io.ReadSeekCloser, error) {
	if err := cache.CheckBlobKey(key); err != nil {
		return nil, err
	}
	r := &reader{s: s, key: key}
	r.ctx, r.cancel = context.WithCancel(ctx)
	body, info, _, err := s.core.GetObject(r.ctx, s.config.Bucket, s.name(key), minio.GetObjectOptions{})
	if err != nil {
		r.cancel()
		if isNotFound(err) {
			return nil, fmt.Errorf("%s: %w", key, cache.ErrNotFound)
		}
		return nil, s.failure(err, "give %s", key)
	}
	r.body, r.etag, r.size = body, info.ETag, info.Size
	return r, nil
}

// reader is content being read. It asks again, for what follows, after a Seek and when the server breaks off.
type reader struct {
	s      *Store
	ctx    context.Context // of all requests
	cancel context.CancelFunc
	key    string
	etag   string
	size   int64

	at     int64         // what the next Read returns
	body   io.ReadCloser // nil until asked for again
	bodyAt int64         // what body continues with
	fails  int           // in a row, without a byte in between
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for r.at < r.size {
		n, err := r.readSome(b[:min(int64(len(b)), r.size-r.at)])
		if n > 0 {
			r.at += int64(n)
			r.bodyAt = r.at
			r.fails = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		r.drop()
		if r.fails++; r.fails >= tries || r.ctx.Err() != nil || errors.Is(err, errChanged) {
			return 0, r.s.failure(err, "give all of %s, only %d of %d bytes", r.key, r.at, r.size)
		}
	}
	return 0, io.EOF
}

func (r *reader) readSome(b []byte) (int, error) {
	if r.body != nil && r.bodyAt != r.at {
		r.drop()
	}
	if r.body == nil {
		if err := r.ask(); err != nil {
			return 0, err
		}
	}
	n, err := r.body.Read(b)
	if err == io.EOF && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// errChanged means that what was begun to be read is not there any more.
var errChanged = errors.New("the content was replaced or deleted while it was read")

// ask has the server send what begins at r.at, if it is still the same content.
func (r *reader) ask() error {
	var o minio.GetObjectOptions
	o.Set("Range", fmt.Sprintf("bytes=%d-", r.at))
	if err := o.SetMatchETag(r.etag); err != nil {
		return err
	}
	body, info, _, err := r.s.core.GetObject(r.ctx, r.s.config.Bucket, r.s.name(r.key), o)
	if isNotFound(err) || minio.ToErrorResponse(err).Code == minio.PreconditionFailed {
		return errors.Join(errChanged, err)
	}
	if err != nil {
		return err
	}
	r.body, r.bodyAt = body, r.at
	if info.ETag != r.etag || info.Size != r.size-r.at {
		return errChanged
	}
	return nil
}

func (r *reader) drop() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
}

// Seek implements io.Seeker. Nothing is asked for before the next Read.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, fmt.Errorf("seek of %s to %d", r.key, offset)
	}
	r.at = offset
	return offset, nil
}

// Close implements io.Closer.
func (r *reader) Close() error {
	r.cancel()
	r.drop()
	return nil
}
