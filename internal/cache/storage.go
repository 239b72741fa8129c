package cache

import (
	"context"
	"errors"
	"io"

	"github.com/garrison-nix/garrison/internal/nar"
)

// ErrNotFound means that what was asked for is not stored. It is never used for a failure to look.
var ErrNotFound = errors.New("not found")

// ErrConflict means that something else is stored under that name.
var ErrConflict = errors.New("something else is stored under that name")

// Blobs holds content by key. Keys are 3 to 128 characters of a-z, 0-9, "-" and
// ".", and start with a letter or digit; any other key is an error, not an
// absence. Implementations may be used from any number of goroutines.
// cachetest.Blobs is the suite that every implementation passes.
type Blobs interface {
	// Put stores what write writes, durably, under key: once Put has returned nil
	// the content survives a crash of the machine. Until write has returned nil
	// nothing can be seen under key; then the whole content replaces what was
	// there, in one step. When write fails Put returns its error (as errors.Is
	// sees it) and nothing is left. When ctx ends during Put, it may fail with ctx's error.
	Put(ctx context.Context, key string, write func(io.Writer) error) error

	// Open returns the content of key, and ErrNotFound if there is none.
	// It is not affected by a Put of the same key afterwards.
	Open(ctx context.Context, key string) (io.ReadSeekCloser, error)

	// Stat returns the size in bytes of key's content; false if there is none.
	// An error means that this could not be found out.
	Stat(ctx context.Context, key string) (size int64, ok bool, err error)
}

// Cache is what the index keeps of a named cache.
type Cache struct {
	Name      string
	PublicKey string // as nar.PublicKey prints it
}

// Nar is what the index keeps of a stored archive.
type Nar struct {
	NarHash  nar.Hash
	NarSize  int64    // bytes, uncompressed
	FileHash nar.Hash // of the stored, compressed file
	FileSize int64    // bytes, compressed
}

// Path is what the index keeps of a store path in a cache.
type Path struct {
	Cache      string
	StorePath  string
	NarHash    nar.Hash
	References []string // full store paths, without StorePath itself; only read by PutPath
	NarInfo    []byte   // signed text, without FileHash and FileSize, which are the Nar's
}

// Record is what Lookup finds of a path: its archive, or the upstream cache that serves it.
type Record struct {
	NarInfo  []byte
	Nar      Nar    // zero for an upstream path
	Upstream string // "" or the public key that an upstream path is signed with, as nar.PublicKey prints it
}

// Stats counts what a cache holds; upstream paths do not count.
type Stats struct {
	Paths       int64
	NarBytes    int64 // sum over paths
	StoredBytes int64 // sum over distinct archives
}

// MissingReferencesError is returned by PutPath when the path refers to others
// that the cache does not have.
type MissingReferencesError struct {
	StorePath string
	Missing   []string // store paths, sorted
}

func (e *MissingReferencesError) Error() string {
	return e.StorePath + " refers to " + someOf(e.Missing) + ", which the cache does not have"
}

// Index holds what there is to know of caches, archives and paths.
// Implementations may be used from any number of goroutines and processes of
// one machine. cachetest.Index is the suite that every implementation passes.
type Index interface {
	// EnsureCache creates the cache if there is none of that name. If there is
	// one with another public key it fails with ErrConflict.
	EnsureCache(ctx context.Context, c Cache) error

	// PutNar stores n, in place of what was known of that NarHash. What is new
	// need not survive a crash of the machine before a PutPath of it has returned;
	// what replaces something is durable.
	PutNar(ctx context.Context, n Nar) error

	// Nar returns what is known of an archive; false if nothing is.
	Nar(ctx context.Context, narHash nar.Hash) (Nar, bool, error)

	// PutPath stores p, durably, and says whether it was written. A path that is
	// there with the same NarHash is left as it is: false and nil. One that is
	// there with another NarHash, or another name behind the same hash part, is
	// ErrConflict, unless replace allows to put p in its place. When a reference
	// is not in the cache it fails with *MissingReferencesError; an unknown
	// cache or NarHash is ErrNotFound. A failure changes nothing. An upstream path is replaced as if it were not there.
	PutPath(ctx context.Context, p Path, replace bool) (written bool, err error)

	// PutUpstream stores p as a path that the upstream cache with that public key serves, in place of what was known of
	// its hash part: others may refer to it, and no archive is needed. References count as for PutPath, and so do the
	// errors for them and for an unknown cache. It need not survive a crash of the machine before a PutPath that follows has returned.
	PutUpstream(ctx context.Context, p Path, publicKey string) error

	// Path returns the path with that hash part, and its archive; false if the
	// cache has none, or it is an upstream path. References is not filled in.
	Path(ctx context.Context, cache, hashPart string) (Path, Nar, bool, error)

	// HasNar says whether a path of the cache has that archive.
	HasNar(ctx context.Context, cache string, narHash nar.Hash) (bool, error)

	// Lookup returns what is known of those of the hash parts that the cache has, upstream paths too,
	// by hash part. Any number of hash parts may be asked for, some twice.
	Lookup(ctx context.Context, cache string, hashParts []string) (map[string]Record, error)

	// Stats counts what the cache holds; all zero for an unknown cache.
	Stats(ctx context.Context, cache string) (Stats, error)
}
