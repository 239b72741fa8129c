package s3

import (
	"context"
	cryptorand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache"
)

// partBytes is the size of all parts of an upload but the last. Some servers want them alike, all of them at
// least 5 MiB, and no more than 10,000.
const partBytes = 8 << 20

// Put implements cache.Blobs.
func (s *Store) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	if err := cache.CheckBlobKey(key); err != nil {
		return err
	}
	u, err := s.newUpload(ctx, key)
	if err != nil {
		return err
	}
	err = write(u)
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = u.finish()
	}
	return errors.Join(err, u.close())
}

// upload is a Put in progress. What is written goes to one half of a file while the other half is being sent.
type upload struct {
	s     *Store
	ctx   context.Context
	stop  context.CancelFunc // ends ctx
	key   string
	mark  string // is stored with the object, to know it by
	spool *os.File
	half  int64     // where in spool the part begins that is being written
	n     int64     // bytes of it
	sum   hash.Hash // of it

	id      string               // of the multipart upload; "" before the first part is sent, and once it has ended
	parts   []minio.CompletePart // that are sent
	sending chan error           // has the result of the part being sent; nil when there is none
}

func (s *Store) newUpload(ctx context.Context, key string) (*upload, error) {
	spool, err := os.CreateTemp(s.config.spoolDir(), "garrison-upload-")
	if err != nil {
		return nil, fmt.Errorf("make room for a part of an upload: %w", err)
	}
	if err := os.Remove(spool.Name()); err != nil {
		return nil, errors.Join(err, spool.Close())
	}
	u := &upload{s: s, key: key, mark: cryptorand.Text(), spool: spool, sum: sha256.New()}
	u.ctx, u.stop = context.WithCancel(ctx)
	return u, nil
}

// Write implements io.Writer. A full part is sent when more follows, so that the last one is never empty.
func (u *upload) Write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		if u.n == partBytes {
			if err := u.send(); err != nil {
				return written, err
			}
		}
		n, err := u.spool.WriteAt(b[:min(int64(len(b)), partBytes-u.n)], u.half+u.n)
		u.sum.Write(b[:n])
		u.n += int64(n)
		written += n
		if err != nil {
			return written, fmt.Errorf("keep a part of an upload: %w", err)
		}
		b = b[n:]
	}
	return written, nil
}

// send begins to send the part that was written, once the one before it is there.
func (u *upload) send() error {
	if err := u.wait(); err != nil {
		return err
	}
	if u.id == "" {
		id, err := u.begin()
		if err != nil {
			return err
		}
		u.id = id
	}
	half, size, number := u.half, u.n, len(u.parts)+1
	// DisableContentSha256 is minio-go's way to say that the sum is known: it is signed and sent, and none is made in between.
	o := minio.PutObjectPartOptions{Sha256Hex: u.takeSum(), DisableContentSha256: true}
	u.sending = make(chan error, 1)
	go func() {
		u.sending <- u.sendBody(half, size, func(body io.Reader) error {
			sent, err := u.s.core.PutObjectPart(u.ctx, u.s.config.Bucket, u.name(), u.id, number, body, size, o)
			if err == nil {
				u.parts = append(u.parts, minio.CompletePart{PartNumber: number, ETag: sent.ETag})
			}
			return err
		})
	}()
	u.half, u.n = partBytes-u.half, 0
	return nil
}

// sendBody calls send with a part of spool, again while it fails by no fault of its own. Each time it gets a reader of its own that
// cannot seek, so that minio-go does not try again by itself: a server may answer before it has read all, and what is left of
// that request would go on reading while the next one does.
func (u *upload) sendBody(at, size int64, send func(io.Reader) error) error {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		err := send(struct{ io.Reader }{io.NewSectionReader(u.spool, at, size)})
		if err == nil || try == tries || !mayPass(err) {
			return err
		}
		select {
		case <-u.ctx.Done():
			return u.ctx.Err()
		case <-time.After(pause + rand.N(pause)):
			pause *= 2
		}
	}
}

// wait returns when no part is being sent; only then parts may be looked at.
func (u *upload) wait() error {
	if u.sending == nil {
		return nil
	}
	err := <-u.sending
	u.sending = nil
	return u.failed(err)
}

func (u *upload) begin() (string, error) {
	ctx, cancel := u.s.within(u.ctx)
	defer cancel()
	id, err := u.s.core.NewMultipartUpload(ctx, u.s.config.Bucket, u.name(), u.options())
	return id, u.failed(err)
}

// finish makes what was written visible.
func (u *upload) finish() error {
	err := u.complete()
	if err == nil {
		u.id = ""
		return nil
	}
	// The server may have done it, and its answer got lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(u.ctx), u.s.config.timeout())
	defer cancel()
	if info, ok, serr := u.s.stat(ctx, u.key); serr == nil && ok && info.UserMetadata[markHeader] == u.mark {
		u.id = ""
		return nil
	}
	return err
}

func (u *upload) complete() error {
	if u.id == "" { // all of it is one part
		size, sum := u.n, u.takeSum()
		return u.failed(u.sendBody(u.half, size, func(body io.Reader) error {
			_, err := u.s.core.PutObject(u.ctx, u.s.config.Bucket, u.name(), body, size, "", sum, u.options())
			return err
		}))
	}
	if err := u.send(); err != nil {
		return err
	}
	if err := u.wait(); err != nil {
		return err
	}
	ctx, cancel := u.s.within(u.ctx)
	defer cancel()
	_, err := u.s.core.CompleteMultipartUpload(ctx, u.s.config.Bucket, u.name(), u.id, u.parts, minio.PutObjectOptions{})
	return u.failed(err)
}

// close gives up what is not finished. Nothing of it is left on the server, unless that cannot be reached.
func (u *upload) close() error {
	u.stop()
	_ = u.wait() // it is given up, or was looked at
	var err error
	if u.id != "" {
		err = u.s.abort(context.WithoutCancel(u.ctx), u.name(), u.id)
	}
	return errors.Join(err, u.spool.Close())
}

// markHeader is the name, as a server returns it, of the metadata that tells an upload from others of the same key.
const markHeader = "Garrison-Upload"

func (u *upload) options() minio.PutObjectOptions {
	return minio.PutObjectOptions{ContentType: "application/octet-stream", UserMetadata: map[string]string{markHeader: u.mark}, DisableContentSha256: true}
}

func (u *upload) name() string { return u.s.name(u.key) }

func (u *upload) takeSum() string {
	sum := hex.EncodeToString(u.sum.Sum(nil))
	u.sum.Reset()
	return sum
}

func (u *upload) failed(err error) error { return u.s.failure(err, "store %s", u.key) }
