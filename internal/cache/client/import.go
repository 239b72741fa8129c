package client

import (
	"bufio"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/mikelolasagasti/xz"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// ImportOptions say how Import works.
type ImportOptions struct {
	PushOptions
	// Keys are those of the other cache: what none of them signed is left out. With none, and Unsigned, everything is taken: this cache signs it anew.
	Keys     []nar.PublicKey
	Unsigned bool
}

// ImportStats says what an import did.
type ImportStats struct {
	Stats
	Unsigned []string // store paths left out because none of the keys signed them
	Broken   []string // store paths left out because they refer to what neither cache has
}

// Import pushes what another cache has: those paths and all that they refer to; with none, everything that it has, if its files can be listed.
// Archives are checked on their way as those of Push are, and what is here already is not fetched.
func (c *Client) Import(ctx context.Context, from *Client, paths []string, o ImportOptions) (ImportStats, error) {
	var stats ImportStats
	var have []*nar.NarInfo
	var err error
	if len(paths) > 0 {
		have, _, err = from.walk(ctx, paths)
	} else {
		have, err = from.all(ctx)
	}
	if err != nil {
		return stats, err
	}
	if missing := notAmong(paths, have); missing != "" {
		return stats, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "cache %s does not have %s", from.shown, missing)
	}
	have = slices.DeleteFunc(have, func(n *nar.NarInfo) bool {
		left := !o.Unsigned && !n.SignedBy(o.Keys...)
		if left {
			stats.Unsigned = append(stats.Unsigned, n.StorePath)
		}
		return left
	})
	if have, stats.Broken, err = c.whole(ctx, have); err != nil {
		return stats, err
	}
	source := otherCache{from, map[string]*nar.NarInfo{}}
	infos := make([]nar.PathInfo, len(have))
	for i, n := range have {
		infos[i] = n.PathInfo
		source.infos[n.StorePath] = n
	}
	o.PushOptions.from = source
	stats.Stats, err = c.Push(ctx, infos, o.PushOptions)
	slices.Sort(stats.Unsigned)
	return stats, err
}

func notAmong(paths []string, have []*nar.NarInfo) string {
	there := map[string]bool{}
	for _, n := range have {
		there[n.StorePath] = true
	}
	i := slices.IndexFunc(paths, func(p string) bool { return !there[p] })
	if i < 0 {
		return ""
	}
	return paths[i]
}

// all reads all narinfos that there are.
func (c *Client) all(ctx context.Context) ([]*nar.NarInfo, error) {
	l, ok := c.files.(lister)
	if !ok {
		return nil, fleet.Errorf("", fleet.CodeUsage, "what cache %s has cannot be listed", c.shown).WithHint("name the store paths to import")
	}
	var hashes []string
	err := l.list(ctx, ".narinfo", func(name string) error {
		if hash := strings.TrimSuffix(name, ".narinfo"); nar.ValidHashPart(hash) {
			hashes = append(hashes, hash)
		}
		return nil
	})
	if errors.Is(err, errAbsent) {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "there is no cache at %s", c.shown)
	}
	if err != nil {
		return nil, err
	}
	infos := make([]*nar.NarInfo, len(hashes))
	err = each(ctx, lookups, hashes, func(ctx context.Context, i int, hash string) (err error) {
		infos[i], err = c.narInfo(ctx, hash)
		return err
	})
	return infos, err
}

// whole leaves out what refers, directly or not, to what is neither among the paths nor here.
func (c *Client) whole(ctx context.Context, paths []*nar.NarInfo) (whole []*nar.NarInfo, broken []string, err error) {
	known := map[string]bool{}
	for _, n := range paths {
		known[n.StorePath] = true
	}
	byHash := map[string]string{} // of those elsewhere
	for _, n := range paths {
		for _, r := range n.References {
			if hash, err := nar.HashPart(r); err == nil && !known[r] {
				byHash[hash] = r
			}
		}
	}
	hashes := make([]string, 0, len(byHash))
	for hash := range byHash {
		hashes = append(hashes, hash)
	}
	missing, err := c.Missing(ctx, hashes)
	if err != nil {
		return nil, nil, err
	}
	lost := map[string]bool{}
	for _, hash := range missing {
		lost[byHash[hash]] = true
	}
	for n := -1; n != len(broken); {
		n = len(broken)
		paths = slices.DeleteFunc(paths, func(n *nar.NarInfo) bool {
			if !slices.ContainsFunc(n.References, func(r string) bool { return lost[r] }) {
				return false
			}
			lost[n.StorePath] = true
			broken = append(broken, n.StorePath)
			return true
		})
	}
	slices.Sort(broken)
	return paths, broken, nil
}

// otherCache is a source: a cache, and what it says of its paths.
type otherCache struct {
	c     *Client
	infos map[string]*nar.NarInfo
}

func (s otherCache) damaged(info *nar.PathInfo, got nar.Hash, size int64) error {
	return fleet.Errorf(fleet.Local, fleet.CodeCache, "cache %s has %s damaged: the archive's NarHash is %s (%d bytes), its narinfo says %s (%d bytes)",
		s.c.shown, info.StorePath, got, size, info.NarHash, info.NarSize).WithHint("leave it out, or mend that cache")
}

func (s otherCache) dump(ctx context.Context, to io.Writer, info *nar.PathInfo) error {
	n := s.infos[info.StorePath]
	u, err := url.Parse(n.URL)
	if err != nil || u.IsAbs() || u.Host != "" || strings.HasPrefix(path.Clean(u.Path), "..") || path.IsAbs(u.Path) {
		return fleet.Errorf(fleet.Local, fleet.CodeCache, "cache %s has %s at %q, which is outside of it", s.c.shown, n.StorePath, n.URL)
	}
	file, err := s.c.files.open(ctx, n.URL)
	if errors.Is(err, errAbsent) {
		return fleet.Errorf(fleet.Local, fleet.CodeCache, "cache %s says that it has %s, but %s is not there", s.c.shown, n.StorePath, n.URL).
			WithHint("leave it out, or mend that cache")
	}
	if err != nil {
		return err
	}
	defer file.Close()
	remembered := &rememberingReader{r: file}
	archive, end, err := decompress(n.Compression, remembered)
	if err == nil {
		defer end()
		_, err = io.Copy(&cancelable{ctx, to}, io.LimitReader(archive, info.NarSize+1))
	}
	var told *fleet.Error
	switch {
	case err == nil, errors.As(err, &told), ctx.Err() != nil, errors.Is(err, io.ErrClosedPipe):
		return err
	case remembered.err != nil:
		return remembered.err
	}
	return fleet.Errorf(fleet.Local, fleet.CodeCache, "the archive of %s in cache %s cannot be decompressed", n.StorePath, s.c.shown).WithCause(err)
}

// rememberingReader remembers why reading ended, whatever is made of it further up.
type rememberingReader struct {
	r   io.Reader
	err error
}

func (m *rememberingReader) Read(b []byte) (int, error) {
	n, err := m.r.Read(b)
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// xzDictionary is what decompressing xz may take: that of its highest level.
const xzDictionary = 64 << 20

// decompress reads what a narinfo's Compression names; end gives memory back.
func decompress(how string, from io.Reader) (_ io.Reader, end func(), err error) {
	end = func() {}
	switch how {
	case "none":
		return from, end, nil
	case "zstd":
		z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, end, err
		}
		return z, z.Close, nil
	case "xz":
		z, err := xz.NewReader(bufio.NewReaderSize(from, 64<<10), xzDictionary)
		return z, end, err
	case "gzip":
		z, err := gzip.NewReader(from)
		return z, end, err
	case "bzip2":
		return bzip2.NewReader(from), end, nil
	}
	return nil, end, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "archives compressed by %s cannot be read; those by zstd, xz, gzip, bzip2 and none can", how)
}
