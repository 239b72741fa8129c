package hub

import (
	"context"
	"errors"
	"net/http"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Alerts is whoever knows what is wrong, and tells people.
type Alerts interface {
	// Open are the alerts that are not over, by key.
	Open(ctx context.Context) ([]fleet.Alert, error)
	// Past are the newest, those that are over too, newest first, at most so many.
	Past(ctx context.Context, most int) ([]fleet.Alert, error)
	// Senders says how each sender does, in the configuration's order.
	Senders(ctx context.Context) ([]fleet.SenderState, error)
	// Test sends something by the senders of those names, none: by all. An unknown name is an error with CodeNotFound.
	Test(ctx context.Context, names []string) ([]fleet.SenderTest, error)
}

const maxAlertsAsk = 1000

func (h *Hub) serveAlerts(w http.ResponseWriter, r *http.Request) {
	n, ok := number(w, r, maxAlertsAsk)
	if !ok {
		return
	}
	ask := h.Alerts.Open
	if r.URL.Query().Get("all") != "" {
		ask = func(ctx context.Context) ([]fleet.Alert, error) { return h.Alerts.Past(ctx, n) }
	}
	list, err := ask(r.Context())
	h.answer(w, list, err)
}

func (h *Hub) serveSenders(w http.ResponseWriter, r *http.Request) {
	list, err := h.Alerts.Senders(r.Context())
	h.answer(w, list, err)
}

func (h *Hub) serveSenderTest(w http.ResponseWriter, r *http.Request) {
	list, err := h.Alerts.Test(r.Context(), r.URL.Query()["sender"])
	var known *fleet.Error
	if errors.As(err, &known) && known.Code == fleet.CodeNotFound {
		http.Error(w, known.What, http.StatusNotFound)
		return
	}
	h.answer(w, list, err)
}
