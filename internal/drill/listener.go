package drill

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// listener is who a sandbox's hub tells of alerts: the person whom a real one would wake.
type listener struct {
	server *http.Server
	mu     sync.Mutex
	told   []fleet.Alert // firing ones, in the order in which they came
}

// listen takes what comes to l until close.
func newListener(l net.Listener) *listener {
	x := &listener{}
	x.server = &http.Server{Handler: x, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = x.server.Serve(l) }() // ends by close
	return x
}

// ServeHTTP takes one CloudEvent.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var e fleet.Event
	var a fleet.Alert
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err = errors.Join(err, json.Unmarshal(body, &e)); err != nil {
		http.Error(w, "this is no event", http.StatusBadRequest)
		return
	}
	if e.Type == fleet.EventAlert && json.Unmarshal(e.Data, &a) == nil {
		l.mu.Lock()
		l.told = append(l.told, a)
		l.mu.Unlock()
	}
	w.WriteHeader(http.StatusNoContent)
}

// heard says whether an alert of that kind, about that host ("" for none), began at that time or later.
func (l *listener) heard(kind fleet.AlertKind, host string, since time.Time) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.told {
		if a.Kind == kind && a.Host == host && !a.OpenedAt.Before(since) {
			return a.What, nil
		}
	}
	return "", fmt.Errorf("nobody was told of %s %s; of %d other things", kind, host, len(l.told))
}

func (l *listener) close() error { return l.server.Close() }
