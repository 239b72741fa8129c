package agent

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	mostWatchers = 16
	watchAlive   = 20 * time.Second // a word now and then, so that both sides notice the other's end
	watchWrite   = 10 * time.Second // a client that takes longer to take an event is dropped
)

const tooManyWatch = "too many others watch already"

// watchers are told when the status changed. They ask for it themselves when they get to it: a slow one
// misses what was in between, and costs nothing. The zero value is ready.
type watchers struct {
	mu  sync.Mutex
	all map[chan struct{}]bool
}

// join is false when there are too many.
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
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // else its end would end the request
	alive := time.NewTicker(watchAlive)
	defer alive.Stop()
	for say := true; ; {
		line := []byte(": still here\n\n")
		if say {
			s := a.Status()
			data, err := json.Marshal(fleet.StreamEvent{Kind: "host", Status: &s})
			if err != nil {
				return // our own types always marshal
			}
			line = fmt.Appendf(nil, "data: %s\n\n", data)
		}
		_ = out.SetWriteDeadline(time.Now().Add(watchWrite))
		if _, err := w.Write(line); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
			say = false
		case <-changed:
			say = true
		}
	}
}
