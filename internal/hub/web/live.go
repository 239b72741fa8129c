package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/stream"
)

// beat is how often an open page hears that nothing happens: the script takes three times as long for a lost connection.
const beat = 5 * time.Second

// notice is what an open page is told: that something is new, not what. It asks for that like for the page itself.
type notice struct {
	Kind string `json:"kind"`           // host, run, event, beat
	Name string `json:"name,omitempty"` // of the host; the type of the event
}

// stream tells an open page what is new, until its reader goes away or may not read any more.
func (s *server) stream(w http.ResponseWriter, r *http.Request) {
	events, leave := s.Hub.Listen()
	defer leave()
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	notices := make(chan notice)
	go func() {
		defer close(notices)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for n := (notice{Kind: "beat"}); ; {
			select {
			case notices <- n:
			case <-ctx.Done():
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if v, err := s.visitor(r); v == nil && err == nil {
					return
				}
				n = notice{Kind: "beat"}
			case e, open := <-events:
				if !open {
					return
				}
				n = noticeOf(e)
			}
		}
	}()
	stream.Serve(w, r, notices, func(n notice) []byte {
		text, _ := json.Marshal(n) // strings alone
		return text
	})
}

func noticeOf(event []byte) notice {
	var e struct {
		Kind   string
		Status struct{ Host string }
		Event  struct{ Type string }
	}
	if json.Unmarshal(event, &e) != nil {
		return notice{Kind: "beat"}
	}
	return notice{Kind: e.Kind, Name: e.Status.Host + e.Event.Type}
}

// asEvents makes a text that grows into server-sent events for who asks for these, each a JSON string, and one of the type "end" when it has ended.
func asEvents(serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			serve(w, r)
			return
		}
		q := r.URL.Query()
		q.Set("follow", "1")
		r.URL.RawQuery = q.Encode()
		t := &told{ResponseWriter: w}
		serve(t, r)
		if t.status < http.StatusBadRequest && r.Context().Err() == nil {
			_, _ = fmt.Fprint(w, "event: end\ndata: \"\"\n\n") // the reader went away
		}
	}
}

// told writes what is written to it as events.
type told struct {
	http.ResponseWriter
	status int
}

func (t *told) WriteHeader(status int) {
	if t.status == 0 && status < http.StatusBadRequest {
		t.Header().Set("Content-Type", "text/event-stream")
	}
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

func (t *told) Write(p []byte) (int, error) {
	if t.status == 0 {
		t.WriteHeader(http.StatusOK)
	}
	if t.status >= http.StatusBadRequest {
		return t.ResponseWriter.Write(p)
	}
	if len(p) == 0 {
		return 0, nil
	}
	text, _ := json.Marshal(string(p))
	_, err := fmt.Fprintf(t.ResponseWriter, "data: %s\n\n", text)
	return len(p), err
}

// FlushError sends what was written, and the header before anything was.
func (t *told) FlushError() error {
	if t.status == 0 {
		t.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(t.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController, which sets deadlines.
func (t *told) Unwrap() http.ResponseWriter { return t.ResponseWriter }
