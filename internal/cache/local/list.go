package local

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/garrison-nix/garrison/internal/cache"
)

// List implements cache.Blobs.
func (s *Store) List(ctx context.Context, prefix string, each func(cache.Blob) error) error {
	shards, err := os.ReadDir(s.path("nar"))
	if err != nil {
		return err
	}
	for _, d := range shards {
		if !d.IsDir() || !strings.HasPrefix(d.Name(), prefix) && !strings.HasPrefix(prefix, d.Name()) {
			continue
		}
		if err := s.listShard(ctx, d.Name(), prefix, each); err != nil {
			return err
		}
	}
	return nil
}

// listShard reads a directory a part at a time, so that its size does not matter.
func (s *Store) listShard(ctx context.Context, shard, prefix string, each func(cache.Blob) error) error {
	d, err := os.Open(s.path("nar", shard))
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1000)
		for _, e := range entries {
			if err := errors.Join(ctx.Err(), list(e, shard, prefix, each)); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// list calls each with a file, if it is content, and still there.
func list(e fs.DirEntry, shard, prefix string, each func(cache.Blob) error) error {
	name := e.Name()
	if !strings.HasPrefix(name, prefix) || !strings.HasPrefix(name, shard) || cache.CheckBlobKey(name) != nil || !e.Type().IsRegular() {
		return nil
	}
	fi, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return each(cache.Blob{Key: name, Size: fi.Size(), StoredAt: fi.ModTime()})
}
