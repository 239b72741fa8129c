package client

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// errAbsent means that a file is not there. It is never used for a failure to look.
var errAbsent = errors.New("it is not there")

const (
	cacheInfo   = "nix-cache-info"
	maxNarInfo  = 1 << 20 // bytes
	narType     = "application/x-nix-nar"
	narInfoType = "text/x-nix-narinfo"
)

// files is a plain Nix cache: files, by their names relative to its root. Errors are *fleet.Error, errAbsent or ctx's.
type files interface {
	// get returns a small file, of at most most bytes, or errAbsent.
	get(ctx context.Context, name string, most int64) ([]byte, error)
	// size returns how large a file is, or errAbsent. -1 is not known.
	size(ctx context.Context, name string) (int64, error)
	// open returns a file's content, or errAbsent.
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// put stores a file, of which nothing is seen until it is whole, in place of what was there.
	put(ctx context.Context, name, contentType string, content func() body) error
}

// lister is a second interface of files whose names can be listed.
type lister interface {
	// list calls each with the names of all files at the root that end in suffix.
	list(ctx context.Context, suffix string, each func(name string) error) error
}

// httpFiles are files behind HTTP.
type httpFiles struct{ c *Client }

func (h httpFiles) get(ctx context.Context, name string, most int64) ([]byte, error) {
	b, err := h.c.do(ctx, request{what: "read " + name, method: http.MethodGet, url: h.c.shown + "/" + name, maxAnswer: most})
	return b, absent(err)
}

func (h httpFiles) size(ctx context.Context, name string) (int64, error) {
	var header http.Header
	_, err := h.c.do(ctx, request{what: "look for " + name, method: http.MethodHead, url: h.c.shown + "/" + name, into: &header})
	if err != nil {
		return 0, absent(err)
	}
	return contentLength(header), nil
}

// absent makes errAbsent of the answers that mean it to Nix. 403 is what a bucket says that must not be listed.
func absent(err error) error {
	var status *statusError
	if errors.As(err, &status) {
		switch status.status {
		case http.StatusNotFound, http.StatusGone, http.StatusForbidden:
			return errAbsent
		}
	}
	return err
}

func (h httpFiles) open(ctx context.Context, name string) (io.ReadCloser, error) {
	r := request{what: "read " + name, method: http.MethodGet, url: h.c.shown + "/" + name}
	var content io.ReadCloser
	err := h.c.try(ctx, r.what, func() (err error) {
		content, err = h.c.start(ctx, r)
		return err
	})
	return content, absent(err)
}

// start makes a request whose answer's body is read by who gets it.
func (c *Client) start(ctx context.Context, r request) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	req, err := c.build(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	res, err := c.cfg.HTTP.Do(req)
	if err != nil {
		cancel()
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		defer cancel()
		defer res.Body.Close()
		_, err := r.read(res)
		return nil, err
	}
	return &download{watched{res.Body, time.AfterFunc(stallLimit, cancel)}, c, r.what, cancel}, nil
}

// download is the body of an answer, given up when it does not move.
type download struct {
	watched
	c      *Client
	what   string
	cancel context.CancelFunc
}

func (d *download) Read(b []byte) (int, error) {
	n, err := d.watched.Read(b)
	if err != nil && err != io.EOF {
		err = d.c.explain(d.what, err)
	}
	return n, err
}

func (d *download) Close() error {
	d.dog.Stop()
	d.cancel()
	return d.ReadCloser.Close()
}

func (h httpFiles) put(ctx context.Context, name, contentType string, content func() body) error {
	_, err := h.c.do(ctx, request{what: "write " + name, method: http.MethodPut, url: h.c.shown + "/" + name, contentType: contentType, body: content})
	return err
}

// folder is a folder of files, as Nix's file:// caches are.
type folder string

func (c *Client) openFolder(u *url.URL) error {
	if u.Host != "" || !filepath.IsAbs(u.Path) || u.Fragment != "" {
		return badURL(u.Redacted())
	}
	if err := c.parameters(u, nil); err != nil {
		return err
	}
	c.files, c.protocol, c.shown = folder(u.Path), plain, "file://"+u.Path
	return nil
}

// path is where a file is. No name leads out of the folder.
func (f folder) path(name string) string { return filepath.Join(string(f), filepath.Join("/", name)) }

// failed makes of an error what a person is told.
func (f folder) failed(what, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return errAbsent
	}
	return fleet.Errorf(fleet.Local, fleet.CodeCache, "cannot %s %s", what, f.path(name)).WithCause(err).WithHint("see to the cache's folder; nothing is lost, run it again")
}

func (f folder) get(_ context.Context, name string, most int64) ([]byte, error) {
	file, err := os.Open(f.path(name))
	if err != nil {
		return nil, f.failed("read", name, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, most+1))
	if err == nil && int64(len(b)) > most {
		err = errors.New("it is too large")
	}
	return b, f.failed("read", name, err)
}

func (f folder) size(_ context.Context, name string) (int64, error) {
	fi, err := os.Stat(f.path(name))
	if err != nil {
		return 0, f.failed("look for", name, err)
	}
	return fi.Size(), nil
}

func (f folder) open(_ context.Context, name string) (io.ReadCloser, error) {
	file, err := os.Open(f.path(name))
	if err != nil {
		return nil, f.failed("read", name, err)
	}
	return file, nil
}

func (f folder) put(ctx context.Context, name, _ string, content func() body) error {
	if err := os.MkdirAll(filepath.Dir(f.path(name)), 0o755); err != nil {
		return f.failed("write", name, err)
	}
	err := f.write(ctx, f.path(name), content().r)
	if errors.Is(err, fs.ErrNotExist) { // the folder, not the file
		return fleet.Errorf(fleet.Local, fleet.CodeCache, "cannot write %s", f.path(name)).WithCause(err)
	}
	return f.failed("write", name, err)
}

func (f folder) write(ctx context.Context, to string, content io.ReadCloser) (err error) {
	defer content.Close()
	temp, err := os.CreateTemp(filepath.Dir(to), ".garrison-*.tmp")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // fails once it has its name
	_, err = io.Copy(&cancelable{ctx, temp}, content)
	if err == nil {
		err = temp.Chmod(0o644)
	}
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp.Name(), to); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (f folder) list(ctx context.Context, suffix string, each func(string) error) error {
	dir, err := os.Open(string(f))
	if err != nil {
		return f.failed("list", "", err)
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(1024)
		for _, e := range entries {
			if filepath.Ext(e.Name()) != suffix {
				continue
			}
			if err := errors.Join(ctx.Err(), each(e.Name())); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return f.failed("list", "", err)
		}
	}
}
