// Package stream carries fleet.StreamEvents over HTTP as server-sent events, for agents, hubs, and those who ask them.
//
// Both ends notice when the other is gone, though it said nothing: something is said every Beat, and who does not take it within WriteTime
// is dropped. Start at Serve, Read, and Follow for what is no event: a text that grows.
package stream

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	// Beat is how long a server is silent at most; Silence is when a client gives up on it.
	Beat    = 20 * time.Second
	Silence = 3 * Beat
	// WriteTime bounds how long a client takes what is written to it.
	WriteTime = 10 * time.Second
	// MaxEvent bounds an event, in bytes.
	MaxEvent = 1 << 20
	maxLine  = MaxEvent + 16
)

// Serve sends what comes from events, as text has it (JSON, in one line), until the client goes away or events is closed.
func Serve[T any](w http.ResponseWriter, r *http.Request, events <-chan T, text func(T) []byte) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // else its end would end the request
	beat := time.NewTicker(Beat)
	defer beat.Stop()
	line := []byte(": hello\n\n")
	for {
		_ = out.SetWriteDeadline(time.Now().Add(WriteTime))
		if _, err := w.Write(line); err != nil {
			return
		}
		if err := out.Flush(); err != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-beat.C:
			line = []byte(": still here\n\n")
		case e, open := <-events:
			if !open {
				return
			}
			line = fmt.Appendf(nil, "data: %s\n\n", text(e))
		}
	}
}

// Read hands see each event of a stream, and tells alive of whatever comes, until see wants no more (done is true, and err its error) or the stream
// ends (err is why, nil for an ordinary end). What is no event is passed over.
func Read(body io.Reader, alive func(), see func(fleet.StreamEvent) (done bool, err error)) (done bool, err error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		alive()
		var e fleet.StreamEvent
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && json.Unmarshal([]byte(data), &e) == nil {
			if done, err := see(e); done || err != nil {
				return true, err
			}
		}
	}
	return false, lines.Err()
}

// Follow copies a text as it grows until the client goes away or stop is closed. more writes what is new of it, which may be nothing,
// and is asked every so often.
func Follow(w http.ResponseWriter, r *http.Request, stop <-chan struct{}, every time.Duration, more func(to io.Writer) error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Accel-Buffering", "no")
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{})
	look := time.NewTicker(every)
	defer look.Stop()
	for {
		_ = out.SetWriteDeadline(time.Now().Add(WriteTime))
		if more(w) != nil || out.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-stop:
			return
		case <-look.C:
		}
	}
}
