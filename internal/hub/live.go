package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

const (
	mostLive      = 32 << 20 // bytes of all logs that are kept while they are said
	mostFollowers = 64
	followEvery   = 250 * time.Millisecond
)

// live holds what hosts say in the activations that are under way, in memory and in bounds: what there is no room for is not
// shown before the deployment has ended. The zero value is ready.
type live struct {
	mu        sync.Mutex
	logs      map[string]*liveLog // by host
	bytes     int
	followers int
}

// liveLog is the newest part of what is said in one activation.
type liveLog struct {
	activation string
	told       bool // its deployment is in the store
	start      int64
	text       []byte
	at         time.Time
}

// put adds what a host says. A part that does not follow what is here begins the log anew: the host, or we, lost something.
func (l *live) put(p fleet.LogPart, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.of(p.Host, p.Activation, p.Offset)
	if known := g.start + int64(len(g.text)) - p.Offset; known < 0 || p.Offset < g.start {
		l.bytes -= len(g.text)
		g.start, g.text = p.Offset, nil
	} else {
		p.Text = p.Text[min(known, int64(len(p.Text))):]
	}
	g.at = now
	l.add(g, p.Text)
	l.makeRoom(g)
}

// ended is told of a deployment that is in the store now, with all of its log or its end: who follows gets to see what was not said to them.
func (l *live) ended(d fleet.DeploymentReport, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.logs[d.Deployment.Host]
	switch {
	case g != nil && g.start == 0 && len(g.text) > 0 && strings.HasPrefix(d.Log, string(g.text)):
		d.Log = d.Log[len(g.text):]
	case g != nil && !g.told:
		// Too much was said to compare it; or it is of the next activation, which goes on.
		g.told = g.start > 0
		return
	default: // none of it was told while it was said
		g = l.of(d.Deployment.Host, fmt.Sprintf("%s at %d", d.Deployment.Release.Name(), d.Deployment.EndedAt.UnixNano()), 0)
	}
	g.told, g.at = true, now
	l.add(g, d.Log)
	l.makeRoom(g)
}

// of is the log of a host's activation, begun at offset if another one was here.
func (l *live) of(host, activation string, offset int64) *liveLog {
	g := l.logs[host]
	if g == nil || g.activation != activation {
		if l.logs == nil {
			l.logs = map[string]*liveLog{}
		}
		if g != nil {
			l.bytes -= len(g.text)
		}
		g = &liveLog{activation: activation, start: offset}
		l.logs[host] = g
	}
	return g
}

func (l *live) add(g *liveLog, text string) {
	l.bytes -= len(g.text)
	g.text = append(g.text, text...)
	if over := len(g.text) - fleet.MaxReportedLog; over > 0 {
		g.text, g.start = append([]byte(nil), g.text[over:]...), g.start+int64(over)
	}
	l.bytes += len(g.text)
}

// forget drops the log of a host.
func (l *live) forget(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if g := l.logs[host]; g != nil {
		l.bytes -= len(g.text)
		delete(l.logs, host)
	}
}

// makeRoom drops the logs that were added to least lately, but for one.
func (l *live) makeRoom(but *liveLog) {
	for l.bytes > mostLive {
		oldest := ""
		for host, g := range l.logs {
			if g != but && (oldest == "" || g.at.Before(l.logs[oldest].at)) {
				oldest = host
			}
		}
		l.bytes -= len(l.logs[oldest].text)
		delete(l.logs, oldest)
	}
}

// follower is how far somebody has read the logs of a host.
type follower struct {
	activation string
	read       int64
}

// next is what a follower has not read yet of a host's log; ok is false when there is no log.
func (l *live) next(host string, f *follower) (text string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g := l.logs[host]
	if g == nil {
		return "", false
	}
	if g.activation != f.activation {
		*f = follower{activation: g.activation}
	}
	if f.read < g.start {
		text = fmt.Sprintf("… %d bytes before are left out\n", g.start-f.read)
		f.read = g.start
	}
	from := min(f.read-g.start, int64(len(g.text))) // it may have been begun anew
	f.read = g.start + int64(len(g.text))
	return text + string(g.text[from:]), true
}

// underWay is what a host said in an activation whose deployment is not in the store yet; ok is false when there is none.
func (l *live) underWay(host string) (text string, ok bool) {
	l.mu.Lock()
	g := l.logs[host]
	told := g == nil || g.told
	l.mu.Unlock()
	if told {
		return "", false
	}
	return l.next(host, &follower{})
}

// join is false when there are too many followers.
func (l *live) join() (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.followers >= mostFollowers {
		return nil, false
	}
	l.followers++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.followers--
	}, true
}

// servePart takes what a host says in an activation, while it is under way.
func (h *Hub) servePart(w http.ResponseWriter, r *http.Request) {
	var p fleet.LogPart
	if !report(w, r, &p, func() (int, string) { return p.Schema, p.Host }) {
		return
	}
	if p.Activation == "" || len(p.Activation) > 100 || p.Offset < 0 || len(p.Text) > fleet.MaxReportedLog {
		http.Error(w, "the report is not a part of an activation's log of at most 64 KiB", http.StatusBadRequest)
		return
	}
	h.live.put(p, time.Now())
	w.WriteHeader(http.StatusNoContent)
}

// followLogs sends what a host says, beginning with the activation that is under way or was last, until the client goes away.
func (h *Hub) followLogs(w http.ResponseWriter, r *http.Request) {
	leave, ok := h.live.join()
	if !ok {
		http.Error(w, "too many others follow logs already", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	host := r.PathValue("host")
	var f follower
	text, ok := h.live.next(host, &f)
	if !ok {
		log, _, err := h.Store.DeploymentLog(r.Context(), host, 0)
		if err != nil {
			h.answer(w, nil, err)
			return
		}
		text = log
	}
	stream.Follow(w, r, h.events.ended(), followEvery, func(to io.Writer) error {
		if text == "" {
			text, _ = h.live.next(host, &f)
		}
		_, err := io.WriteString(to, text)
		text = ""
		return err
	})
}

// followRun sends a run's log as it grows, until the run has ended or the client goes away.
func (h *Hub) followRun(w http.ResponseWriter, r *http.Request, id int64, log io.Reader) {
	leave, ok := h.live.join()
	if !ok {
		http.Error(w, "too many others follow logs already", http.StatusServiceUnavailable)
		return
	}
	defer leave()
	stream.Follow(w, r, h.events.ended(), followEvery, func(to io.Writer) error {
		ended := h.runEnded(r.Context(), id) // before the last of it is read
		if _, err := io.Copy(to, log); err != nil {
			return err
		}
		return ended
	})
}

// runEnded is an error when the run is not under way any more.
func (h *Hub) runEnded(ctx context.Context, id int64) error {
	runs, err := h.Store.Runs(ctx, maxRunsAsk)
	if err != nil {
		return err
	}
	for _, run := range runs {
		if run.ID == id && run.State == fleet.RunRunning {
			return nil
		}
	}
	return io.EOF
}
