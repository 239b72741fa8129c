package cache

import (
	"context"
	"errors"
	"io"
	"time"

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
	// It is not affected by a Put or Delete of the same key afterwards.
	Open(ctx context.Context, key string) (io.ReadSeekCloser, error)

	// Stat returns the size in bytes of key's content; false if there is none.
	// An error means that this could not be found out.
	Stat(ctx context.Context, key string) (size int64, ok bool, err error)

	// Delete removes the content of key; nothing happens if there is none.
	// After a crash of the machine what was deleted may be there again.
	Delete(ctx context.Context, key string) error

	// List calls each with all content whose key starts with prefix, in any order, and ends with each's first error.
	// What is put or deleted meanwhile may be listed or not. Uploads in progress are not listed.
	List(ctx context.Context, prefix string, each func(Blob) error) error
}

// Blob describes stored content.
type Blob struct {
	Key      string
	Size     int64     // bytes
	StoredAt time.Time // by the storage's clock
}

// Redirector is a second interface of Blobs whose content clients can fetch by themselves.
type Redirector interface {
	// URL is where key's content can be read for that long by who knows the URL; "" = nowhere. It does not look whether the content is there.
	URL(ctx context.Context, key string, valid time.Duration) (string, error)
}

// Sweeper is a second interface of Blobs that keep something of an upload that its server did not live to end.
type Sweeper interface {
	// Sweep removes what is left of uploads that began before then, and returns how many there were.
	Sweep(ctx context.Context, before time.Time) (swept int, err error)
}

// Key is a signing key of a cache.
type Key struct {
	Public  nar.PublicKey
	Private *nar.PrivateKey // nil while only the public half is known
}

// Cache is a named cache.
type Cache struct {
	Name string
	// Keys sign everything that is served, each of them; clients are told the first.
	Keys      []Key
	CreatedAt time.Time
	Settings
	signedBy string // what signers says of Keys
}

// Settings are what an owner can change of a cache.
type Settings struct {
	Public        bool          `json:"public"`                 // anybody may read
	Priority      int           `json:"priority"`               // lower is asked first by Nix; 0 = the server's
	UpstreamNames []string      `json:"upstreamNames,omitzero"` // names of keys whose paths Attic's client need not push, as far as they are pulled through; empty = none, nil = all that are
	Retention     *int64        `json:"retention,omitempty"`    // seconds since its last use that a path is kept for; nil = the server's, 0 = for ever
	MaxBytes      int64         `json:"maxBytes,omitempty"`     // of stored archives; 0 = no limit
	PullThrough   []PullThrough `json:"pullThrough,omitempty"`  // asked in this order for what is not here
}

// PullThrough is another cache that a cache fetches from what it does not have.
type PullThrough struct {
	URL    string   `json:"url"`              // of a Nix binary cache
	Keys   []string `json:"keys"`             // its public keys: what none of them signed is not taken
	Resign bool     `json:"resign,omitempty"` // sign what comes from there with our keys, too
}

// Nar is what the index keeps of a stored archive.
type Nar struct {
	NarHash  nar.Hash
	NarSize  int64    // bytes, uncompressed
	FileHash nar.Hash // of the stored, compressed file
	FileSize int64    // bytes, compressed
	Blob     string   // its key in Blobs, which no other archive ever had
}

// Path is what is stored of a store path in a cache. Either it has an archive, or an upstream cache serves it, or both: then it was pulled
// from there.
type Path struct {
	Cache     string
	StorePath string
	NarHash   nar.Hash // zero for an upstream path without archive
	NarInfo   []byte   // nar.NarInfo's text without our own signatures, FileHash and FileSize
	Upstream  string   // "" or the public key that an upstream path is signed with, as nar.PublicKey prints it, or Incomplete
	PushedAs  nar.Hash // hash of the file that Nix pushed, by which it goes on to know the archive; zero for none. Only NarOf tells of it.
}

// Incomplete stands for the key of an upstream path whose archive is here, but not yet all that it refers to. It is like
// an upstream path, but counts as absent where another path refers to it.
const Incomplete = "incomplete"

// NewPath is a path to be stored.
type NewPath struct {
	Path
	References []string // full store paths, but for itself
	Replace    bool     // another of its hash part may be there
}

// Record is what the index knows of a path.
type Record struct {
	Path
	Nar    Nar       // zero for an upstream path
	UsedAt time.Time // when it was stored, or last touched
}

// Stats counts what a cache holds; upstream paths do not count.
type Stats struct {
	Paths       int64
	NarBytes    int64 // sum over paths
	StoredBytes int64 // sum over distinct archives
	LastPush    time.Time
}

// Pin keeps a path and its closure from being collected.
type Pin struct {
	Name      string    `json:"name"` // unique in its cache
	StorePath string    `json:"storePath"`
	CreatedAt time.Time `json:"createdAt"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"` // zero = never
}

// MissingReferencesError is returned by PutPaths when a path refers to others
// that the cache does not have.
type MissingReferencesError struct {
	StorePath string
	Missing   []string // store paths, sorted
}

func (e *MissingReferencesError) Error() string {
	return e.StorePath + " refers to " + someOf(e.Missing) + ", which the cache does not have"
}

// TouchGrain is how exact the time of a path's last use is: so much less is written.
const TouchGrain = time.Hour

// Index holds what there is to know of caches, archives and paths. Every method is one transaction, of which nothing
// is seen or left unless it succeeds. Times are kept to the second. A name of a cache that there is none of is
// ErrNotFound wherever something is to be written, and as good as an empty cache where something is read.
// Implementations may be used from any number of goroutines and, but for sqlite, machines.
// cachetest.Index is the suite that every implementation passes.
//
// A deleted path is as if it were not there, but for NarOf, which still finds its archive until Expire.
type Index interface {
	// CreateCache creates a cache; ErrConflict if there is one of that name.
	CreateCache(ctx context.Context, c Cache) error
	// Caches returns all caches, by name.
	Caches(ctx context.Context) ([]Cache, error)
	// UpdateCache has change change the cache of that name, but for Name and CreatedAt. When change fails nothing is written and its error returned.
	UpdateCache(ctx context.Context, name string, change func(*Cache) error) error
	// DeleteCache removes a cache, its paths and its pins.
	DeleteCache(ctx context.Context, name string) error

	// PutNar stores n, in place of what was known of that NarHash, whose blob is then one that Expire returns, and does what NoteSent does for
	// the cache sentTo, unless that is "". What is new need not survive a crash of the machine before a PutPaths of it has returned;
	// what replaces something is durable.
	PutNar(ctx context.Context, n Nar, sentTo string) error
	// Nar returns what is known of an archive; false if nothing is.
	Nar(ctx context.Context, narHash nar.Hash) (Nar, bool, error)
	// TouchNars notes that archives without paths are about to get some: Expire counts their age anew from at.
	TouchNars(ctx context.Context, narHashes []nar.Hash, at time.Time) error
	// NarOf returns an archive that a path of the cache has, by its NarHash or else by what it was pushed as; false if none has it.
	// Paths that were deleted, but are not yet expired, count.
	NarOf(ctx context.Context, cache string, hash nar.Hash) (Nar, bool, error)
	// NoteSent notes that an archive was sent to a cache, whole. It need not survive a crash of the machine before a PutPaths that follows has returned.
	NoteSent(ctx context.Context, cache string, narHash nar.Hash, at time.Time) error
	// NarsFor returns those of the archives that are known and that paths of the cache may have: one has, or it was noted to have been sent to the cache. What
	// was noted before then Expire forgets.
	NarsFor(ctx context.Context, cache string, narHashes []nar.Hash) (map[nar.Hash]Nar, error)
	// Nars calls each with every archive, in any order, and ends with each's first error.
	Nars(ctx context.Context, each func(Nar) error) error

	// PutPaths stores paths of one cache, durably, all or none of them, and returns how many were written. What a path refers to must be in the
	// cache, and not Incomplete, or before it among paths, else it fails with *MissingReferencesError; the paths and all
	// references are touched. An upstream path (Path.Upstream) replaces whatever is there of its
	// hash part, needs an archive only if it has a NarHash, and need not survive a crash of the machine before a PutPaths of another kind that follows has returned.
	// Any other path needs its archive in the index, else it is ErrNotFound; one that
	// is there with the same StorePath and NarHash is left as it is, and does not count. One that is there otherwise, and is no upstream path,
	// is ErrConflict, unless Replace allows to put another in its place.
	PutPaths(ctx context.Context, paths []NewPath, at time.Time) (written int, err error)
	// Lookup returns what is known of those of the hash parts that the cache has,
	// by hash part. Any number of hash parts may be asked for, some twice.
	Lookup(ctx context.Context, cache string, hashParts []string) (map[string]Record, error)
	// Present is Lookup of many without StorePath, NarHash, NarInfo, and of Nar all but FileSize and Blob: those of a whole system are asked for.
	Present(ctx context.Context, cache string, hashParts []string) (map[string]Record, error)
	// Touch sets UsedAt of those of the hash parts that the cache has to at, where it is TouchGrain older. It need not be durable.
	Touch(ctx context.Context, cache string, hashParts []string, at time.Time) error
	// Walk calls each with every path of the cache, in any order, as of one moment, and ends with each's first error. NarInfo is only valid during the call.
	Walk(ctx context.Context, cache string, each func(Record) error) error
	// DeletePaths deletes all of the paths, by hash part, if the UsedAt of each is what is given; else none, and it returns those
	// that were used since. One that is not there any more is no obstacle. The time of deletion is at. It does not look whether others refer to
	// them: who calls it does, and deletes those before or with them; a path that a PutPaths has come to refer to since has another UsedAt.
	DeletePaths(ctx context.Context, cache string, paths map[string]time.Time, at time.Time) (used []string, err error)
	// Stats counts what the cache holds; all zero for an unknown cache.
	Stats(ctx context.Context, cache string) (Stats, error)

	// Expire forgets paths that were deleted before then, and archives that no path has and that were
	// stored, touched or lost their last path before then. It returns the blobs that the index named once and has not since then, those of
	// earlier calls too, at most 10,000: they are to be deleted, then given to Forget.
	Expire(ctx context.Context, before time.Time) (blobs []string, err error)
	// Forget ends that Expire returns these blobs.
	Forget(ctx context.Context, blobs []string) error

	// PutPin stores a pin, in place of one of the same name. The path need not be there.
	PutPin(ctx context.Context, cache string, p Pin) error
	// DeletePin removes a pin; false if there was none.
	DeletePin(ctx context.Context, cache, name string) (bool, error)
	// Pins returns all pins of a cache, by name.
	Pins(ctx context.Context, cache string) ([]Pin, error)

	// Revoke notes that the token with that id is not valid any more; it may be forgotten after until.
	Revoke(ctx context.Context, tokenID string, until time.Time) error
	// Revoked returns the ids of revoked tokens, in order.
	Revoked(ctx context.Context) ([]string, error)
}
