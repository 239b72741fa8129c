package hub

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/stream"
)

// The kinds of fleet.StreamEvents.
const (
	kindWake  = "wake"
	kindRun   = "run"
	kindHost  = "host"
	kindEvent = "event"
)

var kindNames = [...]string{kindWake, kindRun, kindHost, kindEvent}

// kinds is a set of them: a bit for each, in the order of kindNames.
type kinds uint8

const (
	wakes    kinds = 1
	allKinds       = 1<<len(kindNames) - 1
)

// kindsNamed are the kinds of those names, all where there is none.
func kindsNamed(values []string) (set kinds, err error) {
	for _, name := range named(values) {
		i := slices.Index(kindNames[:], name)
		if i < 0 {
			return 0, fmt.Errorf("there is no kind %q; there are %s", name, strings.Join(kindNames[:], ", "))
		}
		set |= 1 << i
	}
	if set == 0 {
		set = allKinds
	}
	return set, nil
}

// serveStream sends events until the client goes away. One of all events that does not keep up is dropped, and comes back.
func (h *Hub) serveStream(w http.ResponseWriter, r *http.Request) {
	wanted := wakes
	if slices.Contains(scopesOf(r), ScopeRead) {
		var err error
		if wanted, err = kindsNamed(r.URL.Query()["kinds"]); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	events, leave := h.events.join(wanted)
	defer leave()
	stream.Serve(w, r, events, func(text []byte) []byte { return text })
}

// Listen gives what happens, each a fleet.StreamEvent in JSON, until leave is called. The channel is closed for who does not keep up, and when streams end.
func (h *Hub) Listen() (events <-chan []byte, leave func()) { return h.events.join(allKinds) }

// broker hands events to all listeners. The zero value is ready.
type broker struct {
	mu     sync.Mutex
	agents listeners     // that want to hear of wakes alone: many, who are not looked through for whatever happens
	others listeners     // of which one that does not keep up is dropped
	end    chan struct{} // closed by closeAll; nil while nobody asked
}

// listeners are channels, and what is to be heard there.
type listeners map[chan []byte]kinds

const listenerQueue = 64

func (b *broker) join(wanted kinds) (events <-chan []byte, leave func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	set, queue := &b.others, listenerQueue
	if wanted == wakes {
		set, queue = &b.agents, 1 // of an agent that has a wake-up before it, a second one says nothing new
	}
	if *set == nil {
		*set = listeners{}
	}
	ch := make(chan []byte, queue)
	(*set)[ch] = wanted
	return ch, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(*set, ch)
	}
}

func (b *broker) send(e fleet.StreamEvent) {
	kind := kinds(1) << slices.Index(kindNames[:], e.Kind)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.others) == 0 && kind != wakes {
		return
	}
	data, err := json.Marshal(e)
	if err != nil || len(data) > stream.MaxEvent {
		return // our own types always marshal; what is longer would end the streams of all who listen
	}
	if kind == wakes {
		for ch := range b.agents {
			select {
			case ch <- data:
			default:
			}
		}
	}
	for ch, wanted := range b.others {
		if wanted&kind == 0 {
			continue
		}
		select {
		case ch <- data:
		default:
			delete(b.others, ch)
			close(ch)
		}
	}
}

// count is how many listen: for wakes alone, and for more.
func (b *broker) count() (toWakes, toMore int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.agents), len(b.others)
}

// ended is closed when all streams are.
func (b *broker) ended() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = make(chan struct{})
	}
	return b.end
}

func (b *broker) closeAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end != nil {
		close(b.end)
		b.end = nil
	}
	for _, set := range []listeners{b.agents, b.others} {
		for ch := range set {
			delete(set, ch)
			close(ch)
		}
	}
}
