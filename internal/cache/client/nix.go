package client

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// lookups is how many files are looked at at the same time.
const lookups = 16

// each calls do for every item, at most so many at the same time, and ends with the first error.
func each[T any](ctx context.Context, most int, items []T, do func(ctx context.Context, i int, item T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(most, len(items)) {
		workers.Go(func() {
			for i := range next {
				if err := do(ctx, i, items[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := range items {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// missingFiles returns those of the hash parts that have no narinfo.
func (c *Client) missingFiles(ctx context.Context, hashes []string) ([]string, error) {
	isMissing := make([]bool, len(hashes))
	err := each(ctx, lookups, hashes, func(ctx context.Context, i int, hash string) error {
		_, err := c.files.size(ctx, hash+".narinfo")
		isMissing[i] = errors.Is(err, errAbsent)
		if isMissing[i] {
			return nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	missing := []string{}
	for i, hash := range hashes {
		if isMissing[i] {
			missing = append(missing, hash)
		}
	}
	return missing, nil
}

// narInfo reads what a cache says of a path; errAbsent if nothing.
func (c *Client) narInfo(ctx context.Context, hashPart string) (*nar.NarInfo, error) {
	text, err := c.files.get(ctx, hashPart+".narinfo", maxNarInfo)
	if err != nil {
		return nil, err
	}
	info, err := nar.ParseNarInfo(text)
	if err == nil && !strings.Contains(info.StorePath, "/"+hashPart+"-") {
		err = errors.New("it is the narinfo of " + info.StorePath)
	}
	if err != nil {
		return nil, c.nonsense("read "+hashPart+".narinfo", err)
	}
	return info, nil
}

// walk reads what the cache says of some paths and all that they refer to; missing are the store paths on the way that it says nothing of.
func (c *Client) walk(ctx context.Context, tops []string) (have []*nar.NarInfo, missing []string, err error) {
	seen := map[string]bool{}
	for level := tops; len(level) > 0; {
		level = slices.DeleteFunc(slices.Compact(slices.Sorted(slices.Values(level))), func(p string) bool { return seen[p] })
		infos := make([]*nar.NarInfo, len(level))
		err := each(ctx, lookups, level, func(ctx context.Context, i int, storePath string) error {
			hash, err := nar.HashPart(storePath)
			if err != nil {
				return unusable(err)
			}
			infos[i], err = c.narInfo(ctx, hash)
			if errors.Is(err, errAbsent) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		var next []string
		for i, storePath := range level {
			seen[storePath] = true
			if infos[i] == nil || infos[i].StorePath != storePath {
				missing = append(missing, storePath)
				continue
			}
			have = append(have, infos[i])
			next = append(next, infos[i].References...)
		}
		level = next
	}
	return have, missing, nil
}

// toFiles uploads to a plain Nix cache: an archive is named by the hash of its compressed file, which is thus made first.
type toFiles struct {
	*push
	mu    sync.Mutex
	files map[nar.Hash]narFile // what was uploaded, by NarHash
}

type narFile struct {
	hash nar.Hash
	size int64
}

func (t *toFiles) prepare(ctx context.Context, storeDir string) error {
	text, err := t.c.files.get(ctx, cacheInfo, maxNarInfo)
	if errors.Is(err, errAbsent) {
		text = []byte("StoreDir: " + storeDir + "\nWantMassQuery: 1\nPriority: 40\n")
		return t.c.files.put(ctx, cacheInfo, "text/x-nix-cache-info", fixedBody(text))
	}
	if err != nil {
		return err
	}
	for line := range bytes.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(string(line)), ":")
		if value = strings.TrimSpace(value); key == "StoreDir" && value != storeDir {
			return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "cache %s is of another store: %s, not %s", t.c.shown, value, storeDir).
				WithHint("push to a cache that was made for %s", storeDir)
		}
	}
	return nil
}

func (t *toFiles) putArchive(ctx context.Context, info *nar.PathInfo) error {
	s, err := t.spooled(ctx, info)
	if err != nil {
		return err
	}
	defer s.Close()
	f := narFile{s.hash, s.size}
	size, err := t.c.files.size(ctx, f.name())
	if errors.Is(err, errAbsent) || err == nil && size >= 0 && size != f.size {
		err = t.c.files.put(ctx, f.name(), narType, s.whole())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.files[info.NarHash] = f
	return err
}

func (f narFile) name() string { return "nar/" + f.hash.Nix32() + ".nar.zst" }

func (t *toFiles) putInfo(ctx context.Context, info *nar.PathInfo) (differs bool, err error) {
	hash, err := nar.HashPart(info.StorePath)
	if err != nil {
		return false, unusable(err)
	}
	t.mu.Lock()
	f := t.files[info.NarHash]
	t.mu.Unlock()
	n := nar.NarInfo{PathInfo: *info, URL: f.name(), Compression: "zstd", FileHash: f.hash, FileSize: f.size}
	if t.c.key != nil && !info.SignedBy(t.c.key.Public()) {
		n.Sigs = append(slices.Clone(n.Sigs), t.c.key.Sign(info.Fingerprint()))
	}
	return false, t.c.files.put(ctx, hash+".narinfo", narInfoType, fixedBody(n.Encode()))
}

func (t *toFiles) upstreams(context.Context) ([]nar.PublicKey, error) { return nil, nil }
