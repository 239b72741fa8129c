package cachetest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/nar"
)

// Fault is what goes wrong with one call of a storage.
type Fault int

// The faults. The first group meets every call, the second only Put and Open, others pass.
const (
	Fails      Fault = iota + 1 // nothing is done
	FailsAfter                  // it is done, and the answer is an error
	Stalls                      // nothing is done until the caller gives up, or the storage does

	Slow     // it takes a while
	BreaksAt // an error half way through the content
	Short    // content ends half way, without an error where it is read
	Corrupt  // one bit of what is read is wrong
	Vanishes // what was put is not there, what is opened is not there any more
)

// Meets says whether a call of that name can meet the fault.
func (f Fault) Meets(call string) bool { return f < Slow || call == "Put" || call == "Open" }

// Faults are all, by name.
var Faults = map[string]Fault{
	"fails": Fails, "fails after": FailsAfter, "stalls": Stalls, "slow": Slow,
	"breaks at": BreaksAt, "short": Short, "corrupt": Corrupt, "vanishes": Vanishes,
}

// ErrFault is the error of a storage that fails on purpose.
var ErrFault = errors.New("this storage fails on purpose")

// Injector stands between a cache and its storage and makes one call fail. The zero value makes none fail.
type Injector struct {
	mu      sync.Mutex
	calls   []string // until now
	fault   Fault
	at      int // the call that meets it
	stalled chan struct{}
}

// Arm has the n-th call from now on, from 0, meet a fault. What it returns is closed once that call stalls.
func (i *Injector) Arm(f Fault, n int) (stalled <-chan struct{}) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.calls, i.fault, i.at, i.stalled = nil, f, n, make(chan struct{})
	return i.stalled
}

// Disarm ends that, and returns the names of the calls since then.
func (i *Injector) Disarm() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault = 0
	return i.calls
}

// meet counts a call and says what is to go wrong with it.
func (i *Injector) meet(ctx context.Context, name string) (Fault, error) {
	i.mu.Lock()
	f, stalled := i.fault, i.stalled
	if len(i.calls) != i.at || !f.Meets(name) {
		f = 0
	}
	i.calls = append(i.calls, name)
	i.mu.Unlock()
	switch f {
	case Fails:
		return f, ErrFault
	case Stalls:
		close(stalled)
		select { // net/http does not notice that a client is gone while the body is not read
		case <-ctx.Done():
		case <-time.After(30 * time.Millisecond):
		}
		return f, ErrFault
	case Slow:
		time.Sleep(20 * time.Millisecond)
	}
	return f, nil
}

func faulty[T any](ctx context.Context, i *Injector, name string, do func() (T, error)) (T, error) {
	var none T
	f, err := i.meet(ctx, name)
	if err != nil {
		return none, err
	}
	v, err := do()
	if f == FailsAfter && err == nil {
		return none, ErrFault
	}
	return v, err
}

// Blobs is b with the injector in front. It is a cache.Redirector if b is one.
func (i *Injector) Blobs(b cache.Blobs) cache.Blobs {
	f := &faultyBlobs{b, i}
	if r, ok := b.(cache.Redirector); ok {
		return struct {
			*faultyBlobs
			cache.Redirector
		}{f, r}
	}
	return f
}

type faultyBlobs struct {
	cache.Blobs
	i *Injector
}

func (b *faultyBlobs) Put(ctx context.Context, key string, write func(io.Writer) error) error {
	f, err := b.i.meet(ctx, "Put")
	if err != nil {
		return err
	}
	err = b.Blobs.Put(ctx, key, func(w io.Writer) error {
		if f == BreaksAt || f == Short {
			w = &halfWriter{w, f}
		}
		return write(w)
	})
	switch {
	case err != nil:
	case f == FailsAfter:
		return ErrFault
	case f == Vanishes:
		return b.Delete(ctx, key)
	}
	return err
}

func (b *faultyBlobs) Open(ctx context.Context, key string) (io.ReadSeekCloser, error) {
	f, err := b.i.meet(ctx, "Open")
	if err != nil {
		return nil, err
	}
	r, err := b.Blobs.Open(ctx, key)
	if err != nil || f == 0 || f == Slow {
		return r, err
	}
	if f == FailsAfter || f == Vanishes {
		err := errors.Join(cache.ErrNotFound, r.Close())
		if f == FailsAfter {
			err = ErrFault
		}
		return nil, err
	}
	size, err := r.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = r.Seek(0, io.SeekStart)
	}
	return &halfReader{r, f, size / 2}, err
}

func (b *faultyBlobs) Stat(ctx context.Context, key string) (size int64, ok bool, err error) {
	ok, err = faulty(ctx, b.i, "Stat", func() (bool, error) {
		size, ok, err = b.Blobs.Stat(ctx, key)
		return ok, err
	})
	return size, ok, err
}

// halfWriter takes half of the first write, and fails then, or does not say so.
type halfWriter struct {
	w io.Writer
	f Fault
}

func (h *halfWriter) Write(b []byte) (int, error) {
	n, err := h.w.Write(b[:len(b)/2])
	if err == nil && h.f == BreaksAt {
		err = ErrFault
	}
	return n, err
}

// halfReader is right until the middle.
type halfReader struct {
	io.ReadSeekCloser
	f    Fault
	half int64
}

func (h *halfReader) Read(b []byte) (int, error) {
	at, err := h.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if left := h.half - at; left > 0 {
		return h.ReadSeekCloser.Read(b[:min(int64(len(b)), left)])
	}
	switch h.f {
	case BreaksAt:
		return 0, ErrFault
	case Short:
		return 0, io.EOF
	}
	n, err := h.ReadSeekCloser.Read(b)
	if at == h.half && n > 0 {
		b[0] ^= 1
	}
	return n, err
}

// Index is x with the injector in front of what pushing and pulling need.
func (i *Injector) Index(x cache.Index) cache.Index { return &faultyIndex{x, i} }

type faultyIndex struct {
	cache.Index
	i *Injector
}

func (x *faultyIndex) PutNar(ctx context.Context, n cache.Nar, sentTo string) error {
	_, err := faulty(ctx, x.i, "PutNar", func() (any, error) { return nil, x.Index.PutNar(ctx, n, sentTo) })
	return err
}

func (x *faultyIndex) NoteSent(ctx context.Context, name string, h nar.Hash, at time.Time) error {
	_, err := faulty(ctx, x.i, "NoteSent", func() (any, error) { return nil, x.Index.NoteSent(ctx, name, h, at) })
	return err
}

func (x *faultyIndex) NarsFor(ctx context.Context, name string, h []nar.Hash) (map[nar.Hash]cache.Nar, error) {
	return faulty(ctx, x.i, "NarsFor", func() (map[nar.Hash]cache.Nar, error) { return x.Index.NarsFor(ctx, name, h) })
}

func (x *faultyIndex) TouchNars(ctx context.Context, h []nar.Hash, at time.Time) error {
	_, err := faulty(ctx, x.i, "TouchNars", func() (any, error) { return nil, x.Index.TouchNars(ctx, h, at) })
	return err
}

func (x *faultyIndex) Touch(ctx context.Context, name string, hashParts []string, at time.Time) error {
	_, err := faulty(ctx, x.i, "Touch", func() (any, error) { return nil, x.Index.Touch(ctx, name, hashParts, at) })
	return err
}

func (x *faultyIndex) Nar(ctx context.Context, h nar.Hash) (n cache.Nar, ok bool, err error) {
	ok, err = faulty(ctx, x.i, "Nar", func() (bool, error) {
		n, ok, err = x.Index.Nar(ctx, h)
		return ok, err
	})
	return n, ok, err
}

func (x *faultyIndex) NarOf(ctx context.Context, name string, h nar.Hash) (n cache.Nar, ok bool, err error) {
	ok, err = faulty(ctx, x.i, "NarOf", func() (bool, error) {
		n, ok, err = x.Index.NarOf(ctx, name, h)
		return ok, err
	})
	return n, ok, err
}

func (x *faultyIndex) Lookup(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	return faulty(ctx, x.i, "Lookup", func() (map[string]cache.Record, error) { return x.Index.Lookup(ctx, name, hashParts) })
}

func (x *faultyIndex) Present(ctx context.Context, name string, hashParts []string) (map[string]cache.Record, error) {
	return faulty(ctx, x.i, "Present", func() (map[string]cache.Record, error) { return x.Index.Present(ctx, name, hashParts) })
}

func (x *faultyIndex) PutPaths(ctx context.Context, paths []cache.NewPath, at time.Time) (int, error) {
	return faulty(ctx, x.i, "PutPaths", func() (int, error) { return x.Index.PutPaths(ctx, paths, at) })
}
