// Package local keeps a cache's files in a directory: content (cache.Blobs) and signing keys.
//
// Content is written to a temporary file, synced, renamed into place, and the
// directory synced; what a crash leaves in tmp/ is removed by the next Open.
// One process uses a directory at a time: Open holds a lock on it.
//
//	lock              held while the directory is in use
//	keys/<name>       signing key of the cache of that name, mode 0600 (Key)
//	nar/<xx>/<key>    content, by the first two characters of its key
//	tmp/              uploads in progress
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// Store is a directory that holds content and keys. It implements cache.Blobs.
type Store struct {
	dir  string
	lock *durable.FileLock
}

// Open opens dir, making it where it is missing, and removes what uploads of a
// crashed process left. When another process has it open it fails with fleet.CodeBusy.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	for _, d := range []string{"", "keys", "nar", "tmp"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return stateError(err, "directory %s of the cache cannot be made", s.path(d))
		}
	}
	s.lock, err = durable.TryLock(s.path("lock"))
	if errors.Is(err, durable.ErrLocked) {
		return fleet.Errorf(fleet.Local, fleet.CodeBusy, "directory %s of the cache is in use by another process", s.dir).
			WithHint("stop the other hub, or give this one a directory of its own")
	}
	if err != nil {
		return stateError(err, "directory %s of the cache cannot be locked", s.dir)
	}
	if err := s.removeTemporary(); err != nil {
		return stateError(err, "unfinished uploads in %s cannot be removed", s.path("tmp"))
	}
	return s.makeShards()
}

// Close gives the directory up.
func (s *Store) Close() error {
	if s.lock == nil {
		return nil
	}
	return s.lock.Unlock()
}

func (s *Store) removeTemporary() error {
	if err := durable.Sweep(s.path("keys")); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path("tmp"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Remove(s.path("tmp", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// makeShards makes the directories that hashes in Nix's base 32 need (their
// first character holds a single bit), so that a Put has one directory less to sync.
func (s *Store) makeShards() error {
	for _, a := range "01" {
		for _, b := range "0123456789abcdfghijklmnpqrsvwxyz" {
			if err := os.Mkdir(s.path("nar", string(a)+string(b)), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return stateError(err, "directory of the cache cannot be made")
			}
		}
	}
	if err := syncDir(s.path("nar")); err != nil {
		return stateError(err, "directory of the cache cannot be synced")
	}
	return nil
}

// Put implements cache.Blobs.
func (s *Store) Put(ctx context.Context, key string, write func(io.Writer) error) (err error) {
	final, err := s.blobPath(key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.path("tmp"), "put-")
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if !renamed {
			err = errors.Join(err, ignoreClosed(f.Close()), os.Remove(f.Name()))
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := s.ensureShard(filepath.Dir(final)); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), final); err != nil {
		return err
	}
	renamed = true
	return syncDir(filepath.Dir(final))
}

// Open implements cache.Blobs. What it returns is an *os.File, so that serving it can use sendfile.
func (s *Store) Open(_ context.Context, key string) (io.ReadSeekCloser, error) {
	path, err := s.blobPath(key)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", key, cache.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Stat implements cache.Blobs.
func (s *Store) Stat(_ context.Context, key string) (int64, bool, error) {
	path, err := s.blobPath(key)
	if err != nil {
		return 0, false, err
	}
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return fi.Size(), true, nil
}

// Delete implements cache.Blobs.
func (s *Store) Delete(_ context.Context, key string) error {
	path, err := s.blobPath(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) blobPath(key string) (string, error) {
	if err := cache.CheckBlobKey(key); err != nil {
		return "", err
	}
	return s.path("nar", key[:2], key), nil
}

// ensureShard makes a directory that makeShards did not foresee.
func (s *Store) ensureShard(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func stateError(err error, format string, args ...any) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, format, args...).WithCause(err).
		WithHint("check the directory's owner, mode and free space")
}
