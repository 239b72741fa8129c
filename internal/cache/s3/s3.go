// Package s3 keeps a cache's content in a bucket of an S3-compatible server (cache.Blobs), so that any
// number of servers can share it. Clients can be sent to the bucket with URLs that are valid for a while (cache.Redirector).
//
// An upload of unknown size is cut into parts of 8 MiB on its way, through a file without a name of twice that size: memory
// does not grow with the size nor much with the number of uploads. Every part is sent with its SHA-256, which the server verifies.
// Nothing can be seen until all parts are there. What fails is aborted; Sweep removes what could not be.
//
// A read is one request. One that breaks off is taken up where it was, as long as the content is the same.
// Credentials are read again when their file changes.
//
// Start at Open, then put.go and read.go.
package s3

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// Store is a bucket, or the part of one under a prefix. It implements cache.Blobs and cache.Redirector.
type Store struct {
	config Config
	core   minio.Core
	public *minio.Client // nil unless clients are sent there
}

// Open looks whether the bucket is there and may be used. Its errors are fleet.Errors.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	cred, err := openCredentials(c.CredentialsFile)
	if err != nil {
		return nil, err
	}
	s := &Store{config: c}
	client, err := newClient("endpoint", c.Endpoint, c, cred)
	if err != nil {
		return nil, err
	}
	s.core.Client = client
	if c.PublicEndpoint != "" {
		if s.public, err = newClient("publicEndpoint", c.PublicEndpoint, c, cred); err != nil {
			return nil, err
		}
	}
	return s, s.checkBucket(ctx)
}

func newClient(key, endpoint string, c Config, cred *credentialsFile) (*minio.Client, error) {
	u, err := parseEndpoint(key, endpoint)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(u.Host, c.options(u, cred))
	if err != nil {
		return nil, wrong("%s = %q: %v", key, endpoint, err)
	}
	return client, nil
}

// checkBucket tells a bucket that is not there from one without the object asked for.
func (s *Store) checkBucket(ctx context.Context) error {
	ctx, cancel := s.within(ctx)
	defer cancel()
	ok, err := s.core.BucketExists(ctx, s.config.Bucket)
	if err == nil && !ok {
		err = minio.ErrorResponse{Code: minio.NoSuchBucket, StatusCode: http.StatusNotFound}
	}
	return s.failure(err, "be looked at")
}

// within bounds a request without a body, all tries of it.
func (s *Store) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, tries*s.config.timeout())
}

func (s *Store) name(key string) string { return s.config.Prefix + key }

// Stat implements cache.Blobs.
func (s *Store) Stat(ctx context.Context, key string) (int64, bool, error) {
	if err := cache.CheckBlobKey(key); err != nil {
		return 0, false, err
	}
	info, ok, err := s.stat(ctx, key)
	return info.Size, ok, err
}

func (s *Store) stat(ctx context.Context, key string) (minio.ObjectInfo, bool, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	info, err := s.core.StatObject(ctx, s.config.Bucket, s.name(key), minio.StatObjectOptions{})
	if isNotFound(err) { // an answer to HEAD does not say what was not found
		return minio.ObjectInfo{}, false, s.checkBucket(ctx)
	}
	return info, err == nil, s.failure(err, "be asked for %s", key)
}

// Delete implements cache.Blobs.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := cache.CheckBlobKey(key); err != nil {
		return err
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	err := s.core.RemoveObject(ctx, s.config.Bucket, s.name(key), minio.RemoveObjectOptions{})
	if isNotFound(err) {
		return nil
	}
	return s.failure(err, "give %s up", key)
}

// List implements cache.Blobs.
func (s *Store) List(ctx context.Context, prefix string, each func(cache.Blob) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for o := range s.core.ListObjectsIter(ctx, s.config.Bucket, minio.ListObjectsOptions{Prefix: s.name(prefix), Recursive: true}) {
		if o.Err != nil {
			return s.failure(o.Err, "be listed")
		}
		key, ok := strings.CutPrefix(o.Key, s.config.Prefix)
		if !ok || cache.CheckBlobKey(key) != nil {
			continue
		}
		if err := each(cache.Blob{Key: key, Size: o.Size, StoredAt: o.LastModified}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Sweep aborts uploads that began before then and neither ended nor were aborted, because their server or the
// way to the bucket broke down, and returns how many there were.
func (s *Store) Sweep(ctx context.Context, before time.Time) (swept int, err error) {
	for key, id := "", ""; ; {
		page, err := s.core.ListMultipartUploads(ctx, s.config.Bucket, s.config.Prefix, key, id, "", 1000)
		if err != nil {
			return swept, s.failure(err, "list unfinished uploads")
		}
		for _, u := range page.Uploads {
			if !u.Initiated.Before(before) {
				continue
			}
			if err := s.abort(ctx, u.Key, u.UploadID); err != nil {
				return swept, err
			}
			swept++
		}
		if !page.IsTruncated || len(page.Uploads) == 0 {
			return swept, nil
		}
		key, id = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

func (s *Store) abort(ctx context.Context, name, id string) error {
	ctx, cancel := context.WithTimeout(ctx, s.config.timeout())
	defer cancel()
	err := s.core.AbortMultipartUpload(ctx, s.config.Bucket, name, id)
	if isNotFound(err) {
		return nil
	}
	return s.failure(err, "abort the upload of %s", name)
}

// URL implements cache.Redirector.
func (s *Store) URL(ctx context.Context, key string, valid time.Duration) (string, error) {
	if err := cache.CheckBlobKey(key); err != nil {
		return "", err
	}
	if s.public == nil {
		return "", nil
	}
	u, err := s.public.PresignedGetObject(ctx, s.config.Bucket, s.name(key), valid, nil)
	if err != nil {
		return "", s.failure(err, "sign a URL of %s", key)
	}
	return u.String(), nil
}

func isNotFound(err error) bool {
	switch minio.ToErrorResponse(err).Code {
	case minio.NoSuchKey, minio.NoSuchUpload:
		return true
	}
	return false
}

// mayPass says whether a request that failed like that may succeed when made again: the server was not reached, did not go through with it, or has too much to do.
func mayPass(err error) bool {
	switch status := minio.ToErrorResponse(err).StatusCode; status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	default:
		return status == 0 && !errors.Is(err, context.Canceled) || status >= http.StatusInternalServerError && status != http.StatusInsufficientStorage
	}
}

// failure says what err means for whoever runs the cache; nil for nil. An end of the caller's ctx stays what it is.
func (s *Store) failure(err error, format string, args ...any) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	e := fleet.Errorf(fleet.Transient, fleet.CodeStorage, "bucket "+s.config.Bucket+" at "+s.config.Endpoint+" cannot "+format, args...).WithCause(err)
	answer := minio.ToErrorResponse(err)
	switch {
	case answer.Code == minio.NoSuchBucket:
		e.Class = fleet.Local
		return e.WithHint("there is no bucket of that name: make it, or correct bucket in the configuration")
	case answer.Code == minio.RequestTimeTooSkewed:
		e.Class = fleet.Local
		return e.WithHint("set this machine's clock")
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		e.Class = fleet.Local
		return e.WithHint("check %s, and that these credentials may get, put, delete and list objects, and list and abort uploads", s.config.CredentialsFile)
	case answer.StatusCode == http.StatusInsufficientStorage, strings.Contains(answer.Code, "Quota"):
		return e.WithCause(errors.Join(syscall.ENOSPC, err)).WithHint("give the bucket more space, or remove what is not needed: garrison cache gc")
	}
	return e.WithHint("look whether the server runs and can be reached from here")
}
