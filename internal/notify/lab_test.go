package notify_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	hubsqlite "github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/notify"
	"github.com/garrison-nix/garrison/internal/tomlfile"
)

// store is what a hub has: both stores in one.
type store interface {
	hub.Store
	notify.Store
}

// lab is a hub's store with a Keeper over it, which may be ended and started again.
type lab struct {
	*testing.T
	store store
	mu    sync.Mutex
	facts notify.Facts
	log   lines
}

func newLab(t *testing.T) *lab {
	l := &lab{T: t}
	s, err := hubsqlite.Open(t.Context(), filepath.Join(t.TempDir(), "hub.db"))
	l.must(err)
	t.Cleanup(func() { l.must(s.Close()) })
	l.store = s
	return l
}

func (l *lab) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// know changes what is known of the fleet.
func (l *lab) know(change func(*notify.Facts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.facts)
}

// keeper reads a configuration and makes a Keeper of it.
func (l *lab) keeper(toml string, args ...string) *notify.Keeper {
	return l.keeperOf(l.store, toml, args...)
}

func (l *lab) keeperOf(s notify.Store, toml string, args ...string) *notify.Keeper {
	l.Helper()
	var c notify.Config
	l.must(tomlfile.Decode("hub.toml", []byte(strings.NewReplacer(args...).Replace(toml)), &c))
	l.must(c.Check("hub.toml"))
	k, err := notify.New(notify.Options{Store: s, Config: c, Log: slog.New(slog.NewTextHandler(&l.log, &slog.HandlerOptions{Level: slog.LevelDebug})), Facts: func(context.Context) (notify.Facts, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		f := l.facts
		f.Hosts = slices.Clone(f.Hosts)
		return f, nil
	}})
	l.must(err)
	return k
}

// run has a Keeper work until stop, or the test's end.
func (l *lab) run(k *notify.Keeper) (stop func()) {
	ctx, cancel := context.WithCancel(l.Context())
	var done sync.WaitGroup
	done.Go(func() { k.Run(ctx) })
	stop = func() { cancel(); done.Wait() }
	l.Cleanup(stop)
	return stop
}

// report is what a hub does with a host's report.
func (l *lab) report(k *notify.Keeper, s fleet.Status) {
	l.know(func(f *notify.Facts) {
		f.Hosts = append(slices.DeleteFunc(slices.Clone(f.Hosts), func(old fleet.Status) bool { return old.Host == s.Host }), s)
	})
	k.Reported(s)
}

// eventually waits for something to be true.
func (l *lab) eventually(what string, is func() bool) {
	l.Helper()
	for end := time.Now().Add(60 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("it did not come to this: %s\n%s", what, l.log.String())
		}
	}
}

func (l *lab) open() (keys []string) {
	list, err := l.store.OpenAlerts(l.Context())
	l.must(err)
	for _, a := range list {
		keys = append(keys, a.Key)
	}
	return keys
}

// act is an event that somebody told the hub of.
func (l *lab) act(id string) fleet.Event {
	e, err := fleet.NewEvent(fleet.EventAct, "/hosts/web1", id, "web1", time.Now(), fleet.Act{Schema: 1, Host: "web1", Act: fleet.ActRetry, Reason: id})
	l.must(err)
	return e
}

func (l *lab) put(k *notify.Keeper, ids ...string) {
	var events []fleet.Event
	for _, id := range ids {
		events = append(events, l.act(id))
	}
	kept, err := l.store.PutEvents(context.WithoutCancel(l.Context()), events)
	l.must(err)
	if k != nil {
		k.Noted(kept...)
	}
}

// lines are a log that is read while it is written.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lines) count(what string) int { return strings.Count(l.String(), what) }

// receiver is an HTTP server that takes what senders send, and does with it what it is told to.
type receiver struct {
	*httptest.Server
	mu   sync.Mutex
	got  []received
	then http.HandlerFunc // nil: answers 200
}

type received struct {
	*http.Request
	body []byte
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.got = append(r.got, received{req, body})
		then := r.then
		r.mu.Unlock()
		if then != nil {
			then(w, req)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) answers(then http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.then = then
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *receiver) count() int { return len(r.all()) }

// events are the CloudEvents received.
func (r *receiver) events(t *testing.T) (all []fleet.Event) {
	for _, g := range r.all() {
		var e fleet.Event
		if err := json.Unmarshal(g.body, &e); err != nil {
			t.Fatalf("%v: %s", err, g.body)
		}
		all = append(all, e)
	}
	return all
}

// told are the types and subjects of the events received.
func (r *receiver) told(t *testing.T) (all []string) {
	for _, e := range r.events(t) {
		all = append(all, strings.TrimPrefix(e.Type, "garrison.")+" "+e.Subject)
	}
	return all
}
