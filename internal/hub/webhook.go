package hub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// WebhookOptions say whose deliveries are taken, and who is told of them.
type WebhookOptions struct {
	Repo    string                              // owner/name
	Secrets func() ([]string, error)            // as they are now; each of them will do
	From    func(*http.Request) string          // the address that a delivery comes from
	Hint    func(ref string, at time.Time) bool // is told of a ref that has moved; false: it concerns nobody
	Log     *slog.Logger
}

// Webhooks takes what a forge delivers: hints that there is something to fetch. Who knows no secret can do nothing with it, and not much harm
// to it; who does can have git looked at.
type Webhooks struct {
	WebhookOptions
	sources, total, lines Bound
	places                chan struct{} // for bodies, which are in memory

	mu     sync.Mutex
	known  map[string]bool // deliveries
	order  []string        // of known, the oldest first
	hushed int             // lines that were not logged
}

const (
	maxDelivery      = 1 << 20 // bytes
	deliveryTime     = 10 * time.Second
	deliveriesAtOnce = 32 // more than one address can begin in deliveryTime
	deliveriesKnown  = 1000
)

// The bounds of what one address sends that the forge did not sign, of what all of them send, and of what is logged about it.
var (
	ofOne   = Rate{PerSecond: 1, Burst: 20}
	ofAll   = Rate{PerSecond: 20, Burst: 100}
	ofLines = Rate{PerSecond: 0.2, Burst: 20}
)

// NewWebhooks makes Webhooks.
func NewWebhooks(o WebhookOptions) *Webhooks {
	return &Webhooks{WebhookOptions: o, places: make(chan struct{}, deliveriesAtOnce), known: map[string]bool{}}
}

// ServeHTTP answers a delivery: with 2xx whenever it is the forge's, though nobody here cares for it, so that the forge does not send it again.
func (h *Webhooks) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	from, now := h.From(r), time.Now()
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(now.Add(deliveryTime))
	_ = c.SetWriteDeadline(now.Add(2 * deliveryTime))
	defer func() { _ = c.SetWriteDeadline(time.Time{}) }() // the connection goes on to other requests
	if !h.sources.Admit(ofOne, from, now) || !h.total.Admit(ofAll, "", now) {
		h.ignore(slog.LevelWarn, "too many webhooks are delivered", "from", from)
		w.Header().Set("Retry-After", "10")
		w.Header().Set("Connection", "close") // else its body would be waited for
		http.Error(w, "too many deliveries", http.StatusTooManyRequests)
		return
	}
	select {
	case h.places <- struct{}{}:
		defer func() { <-h.places }()
	case <-r.Context().Done():
		return
	case <-time.After(deliveryTime):
		http.Error(w, "too many deliveries at the same time", http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDelivery))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		h.ignore(slog.LevelWarn, "a webhook's delivery has more than 1 MiB", "from", from)
		http.Error(w, "a delivery has 1 MiB at most", http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		return // it went away, or was too slow
	}
	secrets, err := h.Secrets()
	if err != nil {
		h.ignore(slog.LevelError, "the secrets of webhooks cannot be read", "err", err)
		http.Error(w, "the hub cannot read its secrets", http.StatusServiceUnavailable)
		return
	}
	hook, err := forge.ReadHook(r.Header, body, secrets)
	switch {
	case fleet.CodeOf(err) == fleet.CodeInvalid:
		h.ignore(slog.LevelWarn, "a webhook's delivery is ignored", "from", from, "err", err)
		http.Error(w, "the delivery cannot be read", http.StatusBadRequest)
	case err != nil:
		h.ignore(slog.LevelWarn, "a webhook's delivery is ignored", "from", from, "err", err)
		http.Error(w, "the delivery is not signed with a secret that the hub has", http.StatusUnauthorized)
	default:
		h.sources.Give(ofOne, from)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintln(w, h.take(hook, from, now))
	}
}

// take does what a delivery of the forge asks for, and says what that was.
func (h *Webhooks) take(hook forge.Hook, from string, now time.Time) string {
	about := []any{"from", from, "delivery", hook.Delivery, "event", hook.Event, "repo", hook.Repo, "ref", hook.Ref}
	switch {
	case !h.isNew(hook.Delivery):
		h.ignore(slog.LevelInfo, "a webhook was delivered before", about...)
		return "known already"
	case hook.Event == "ping":
		h.Log.Info("a webhook was tried", about...)
		return "pong"
	case hook.Repo != h.Repo:
		h.ignore(slog.LevelWarn, "a webhook is of another repository", about...)
		return "another repository's: ignored"
	case hook.Ref == "" || !h.Hint(hook.Ref, now):
		h.ignore(slog.LevelDebug, "a webhook concerns nobody", about...)
		return "concerns nobody: ignored"
	}
	h.Log.Debug("a webhook was delivered", about...)
	return "looking"
}

// isNew notes a delivery, and says whether it had not been.
func (h *Webhooks) isNew(delivery string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known[delivery] {
		return false
	}
	if len(h.order) == deliveriesKnown {
		delete(h.known, h.order[0])
		h.order = h.order[1:]
	}
	h.known[delivery], h.order = true, append(h.order, delivery)
	return true
}

// ignore logs why a delivery does nothing, within bounds.
func (h *Webhooks) ignore(level slog.Level, why string, about ...any) {
	admitted := h.lines.Admit(ofLines, "", time.Now())
	h.mu.Lock()
	if !admitted {
		h.hushed++
		h.mu.Unlock()
		return
	}
	if h.hushed > 0 {
		about = append(about, "notLogged", h.hushed)
	}
	h.hushed = 0
	h.mu.Unlock()
	h.Log.Log(context.Background(), level, why, about...)
}

const maxSecrets = 64 << 10 // bytes

// ReadSecrets reads a file of secrets, one a line: several while one takes the place of another. Errors have CodeConfig.
func ReadSecrets(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot read the secrets of webhooks in %s", path).
			WithHint("write the secret that the forge signs with to it, and no other than the hub's user may read it").WithCause(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecrets))
	if err != nil {
		return nil, err
	}
	var secrets []string
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if s := bytes.TrimSpace(lines.Bytes()); len(s) > 0 {
			secrets = append(secrets, string(s))
		}
	}
	for _, s := range secrets {
		if len(s) < leastSecret {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s: a webhook's secret has at least %d characters", path, leastSecret).
				WithHint("make one: openssl rand -hex 32")
		}
	}
	if len(secrets) == 0 {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s has no secret in it", path).WithHint("make one: openssl rand -hex 32")
	}
	return secrets, nil
}

const leastSecret = 16
