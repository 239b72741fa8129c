package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
)

// window bounds what compressing one archive takes: twice as much.
const window = 2 << 20

// source is where archives come from.
type source interface {
	// dump writes the archive of a path. An error of fleet.Transient may pass.
	dump(ctx context.Context, to io.Writer, info *nar.PathInfo) error
	// damaged is the error for a path whose archive is another than info says.
	damaged(info *nar.PathInfo, got nar.Hash, size int64) error
}

// archiver makes compressed archives of paths.
type archiver struct {
	from     source
	encoders sync.Pool // of *zstd.Encoder, whose tables are worth keeping
	buffers  sync.Pool // of *buffer
}

// stream returns what write writes, while it writes. Reading it fails before io.EOF when write fails, and failed then says how.
func stream(write func(io.Writer) error) body {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err) // nil is io.EOF
		done <- err
	}()
	failed := func() error {
		err := <-done
		if errors.Is(err, io.ErrClosedPipe) { // the reader went away first
			return nil
		}
		return err
	}
	return body{r, -1, failed}
}

// compressed writes the archive of a path, compressed. The same version of this program gives the same bytes each time. It
// fails at its end when the path is not what info says.
func (a *archiver) compressed(ctx context.Context, to io.Writer, info *nar.PathInfo) error {
	return a.zstd(to, func(z io.Writer) error { return a.raw(ctx, z, info) })
}

// unchecked is compressed for a cache that checks by itself whether the path is what info says.
func (a *archiver) unchecked(ctx context.Context, to io.Writer, info *nar.PathInfo) error {
	return a.zstd(to, func(z io.Writer) error { return a.from.dump(ctx, z, info) })
}

func (a *archiver) zstd(to io.Writer, write func(io.Writer) error) error {
	z, err := a.encoder(to)
	if err != nil {
		return err
	}
	defer a.encoders.Put(z)
	if err := write(z); err != nil {
		return err
	}
	return z.Close()
}

// raw writes the archive of a path as it is, and fails at its end when the path is not what info says.
func (a *archiver) raw(ctx context.Context, to io.Writer, info *nar.PathInfo) error {
	sum := sha256.New()
	size := &counter{}
	if err := a.from.dump(ctx, io.MultiWriter(sum, size, to), info); err != nil {
		return err
	}
	var got nar.Hash
	sum.Sum(got[:0])
	if got != info.NarHash || size.n != info.NarSize {
		return a.from.damaged(info, got, size.n)
	}
	return nil
}

func (a *archiver) encoder(to io.Writer) (*zstd.Encoder, error) {
	if z, ok := a.encoders.Get().(*zstd.Encoder); ok {
		z.Reset(to)
		return z, nil
	}
	// No checksum: whoever gets the archive compares its NarHash. Without twice the window, the whole window is moved for each block.
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithEncoderCRC(false))
}

// buffer holds a small compressed archive.
type buffer struct{ bytes.Buffer }

func (a *archiver) buffer() *buffer {
	if b, ok := a.buffers.Get().(*buffer); ok {
		return b
	}
	return &buffer{}
}

// fill has b hold what write writes.
func (b *buffer) fill(write func(io.Writer) error) error {
	b.Reset()
	if err := write(b); err != nil {
		return brokenBody{err}
	}
	return nil
}

// body is what is in b, as often as it is asked for. Once one is closed nobody reads b by it: a request may end before the transport has.
func (b *buffer) body() body {
	return body{r: &bufferReader{r: bytes.NewReader(b.Bytes())}, size: int64(b.Len())}
}

type bufferReader struct {
	mu sync.Mutex
	r  *bytes.Reader // nil once closed
}

func (r *bufferReader) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.r == nil {
		return 0, os.ErrClosed
	}
	return r.r.Read(p)
}

func (r *bufferReader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.r = nil
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// localStore is the folder with the files of a store's paths.
type localStore string

func (s localStore) damaged(info *nar.PathInfo, got nar.Hash, size int64) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState,
		"%s is damaged: its NarHash is %s (%d bytes), the store recorded %s (%d bytes)",
		s.path(info), got, size, info.NarHash, info.NarSize).
		WithHint("repair it with `nix-store --repair-path %s`, then push again", info.StorePath)
}

func (s localStore) path(info *nar.PathInfo) string {
	return filepath.Join(string(s), filepath.Base(info.StorePath))
}

func (s localStore) dump(ctx context.Context, to io.Writer, info *nar.PathInfo) error {
	w := nar.NewWriter(&cancelable{ctx, to})
	if err := dumpNode(w, s.path(info)); err != nil {
		return err
	}
	return w.Close()
}

// cancelable fails once its context has ended.
type cancelable struct {
	ctx context.Context
	to  io.Writer
}

func (c *cancelable) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.to.Write(b)
}

func dumpNode(w *nar.Writer, path string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	switch mode := fi.Mode(); {
	case mode.IsRegular():
		return dumpFile(w, path, fi)
	case mode.IsDir():
		return dumpDirectory(w, path)
	case mode&os.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return w.Symlink(target)
	}
	return fmt.Errorf("%s is neither a file nor a directory nor a symlink", path)
}

func dumpFile(w *nar.Writer, path string, fi os.FileInfo) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.Regular(fi.Mode()&0o100 != 0, fi.Size(), f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func dumpDirectory(w *nar.Writer, path string) error {
	entries, err := os.ReadDir(path) // sorted by the bytes of names, as the format wants
	if err != nil {
		return err
	}
	if err := w.Directory(); err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.Entry(e.Name()); err != nil {
			return err
		}
		if err := dumpNode(w, filepath.Join(path, e.Name())); err != nil {
			return err
		}
		if err := w.EndEntry(); err != nil {
			return err
		}
	}
	return w.EndDirectory()
}
