package agent

import (
	"encoding/json"
	"net/http"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

const mostWatchers = 16

const tooManyWatch = "too many others watch already"

// watchers are told when the status changed. They ask for it themselves when they get to it: a slow one
// misses what was in between, and costs nothing. The zero value is ready.
type watchers struct {
	mu  sync.Mutex
	all map[chan struct{}]bool
}

// join is false when there are too many. Who joins has something to see at once.
func (w *watchers) join() (changed <-chan struct{}, leave func(), ok bool) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.all) >= mostWatchers {
		return nil, nil, false
	}
	if w.all == nil {
		w.all = map[chan struct{}]bool{}
	}
	w.all[ch] = true
	ch <- struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.all, ch)
	}, true
}

func (w *watchers) tell() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.all {
		select {
		case ch <- struct{}{}:
		default: // it is going to look anyway
		}
	}
}

// serveWatch sends the status now and whenever it changed, as server-sent events, until the client goes away.
func (a *Agent) serveWatch(w http.ResponseWriter, r *http.Request) {
	changed, leave, ok := a.watching.join()
	if !ok {
		http.Error(w, tooManyWatch, http.StatusServiceUnavailable)
		return
	}
	defer leave()
	stream.Serve(w, r, changed, func(struct{}) []byte {
		s := a.Status()
		data, _ := json.Marshal(fleet.StreamEvent{Kind: "host", Status: &s}) // our own types always marshal
		return data
	})
}
