package client

import (
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

// window bounds what compressing one archive takes.
const window = 4 << 20

// archiver makes compressed archives of paths. The zero value is ready.
type archiver struct {
	encoders sync.Pool // of *zstd.Encoder, whose tables are worth keeping
}

// stream returns the archive of a path, compressed, made while it is read. It
// fails at its end, before the reader sees io.EOF, when the path is not what
// info says; failed then says how.
func (a *archiver) stream(info *nar.PathInfo, realPath string) body {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := a.write(w, info, realPath)
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

func (a *archiver) write(to io.Writer, info *nar.PathInfo, realPath string) error {
	z, err := a.encoder(to)
	if err != nil {
		return err
	}
	defer a.encoders.Put(z)
	sum := sha256.New()
	size := &counter{}
	if err := dump(io.MultiWriter(sum, size, z), realPath); err != nil {
		return err
	}
	var got nar.Hash
	sum.Sum(got[:0])
	if got != info.NarHash || size.n != info.NarSize {
		return damaged(info, realPath, got, size.n)
	}
	return z.Close()
}

func (a *archiver) encoder(to io.Writer) (*zstd.Encoder, error) {
	if z, ok := a.encoders.Get().(*zstd.Encoder); ok {
		z.Reset(to)
		return z, nil
	}
	return zstd.NewWriter(to, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true))
}

func damaged(info *nar.PathInfo, realPath string, got nar.Hash, size int64) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState,
		"%s is damaged: its NarHash is %s (%d bytes), the store recorded %s (%d bytes)",
		realPath, got, size, info.NarHash, info.NarSize).
		WithHint("repair it with `nix-store --repair-path %s`, then push again", info.StorePath)
}

type counter struct{ n int64 }

func (c *counter) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return len(b), nil
}

// dump writes the archive of what is at path.
func dump(to io.Writer, path string) error {
	w := nar.NewWriter(to)
	if err := dumpNode(w, path); err != nil {
		return err
	}
	return w.Close()
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
