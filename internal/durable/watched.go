package durable

import (
	"os"
	"sync"
	"time"
)

// Watched is what a file holds, which is read again when it changes.
type Watched[T any] struct {
	Path string
	Read func(path string) (T, error)

	mu    sync.Mutex
	info  os.FileInfo
	value T
}

// settled is the age from which on a file's time is believed: a second write within the same tick of the clock would not show.
const settled = 2 * time.Second

// Get returns what the file holds now, and Read's error.
func (w *Watched[T]) Get() (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	info, err := os.Stat(w.Path) // before it is read: of a change in between, the next call learns
	if err == nil && w.info != nil && os.SameFile(info, w.info) && info.ModTime().Equal(w.info.ModTime()) && info.Size() == w.info.Size() {
		return w.value, nil
	}
	v, err := w.Read(w.Path)
	if err == nil && info != nil && time.Since(info.ModTime()) > settled {
		w.info, w.value = info, v
	}
	return v, err
}
