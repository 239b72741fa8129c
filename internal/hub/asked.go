package hub

import (
	"net/http"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	maxReleasesAsk = 100
	maxDrillsAsk   = 100
	maxStatsDays   = 3660
)

func (h *Hub) serveReleases(w http.ResponseWriter, r *http.Request) {
	before := 0
	if q := r.URL.Query().Get("before"); q != "" {
		var ok bool
		if before, ok = fleet.TagNumber(fleet.TagPrefix + q); !ok {
			http.Error(w, "before must be the number of a release", http.StatusBadRequest)
			return
		}
	}
	if n, ok := number(w, r, maxReleasesAsk); ok {
		list, err := h.Releases(r.Context(), before, n)
		h.answer(w, list, err)
	}
}

func (h *Hub) serveRelease(w http.ResponseWriter, r *http.Request) {
	n, ok := fleet.TagNumber(fleet.TagPrefix + r.PathValue("number"))
	if !ok {
		http.Error(w, "a release has a number", http.StatusBadRequest)
		return
	}
	v, found, err := h.Release(r.Context(), n)
	h.answerFound(w, v, found, err)
}

func (h *Hub) serveStats(w http.ResponseWriter, r *http.Request) {
	days := 30
	if q := r.URL.Query().Get("days"); q != "" {
		var err error
		if days, err = strconv.Atoi(q); err != nil || days < 1 || days > maxStatsDays {
			http.Error(w, "days must be a number from 1 to "+strconv.Itoa(maxStatsDays), http.StatusBadRequest)
			return
		}
	}
	now := time.Now().UTC()
	s, err := h.Stats(r.Context(), now.AddDate(0, 0, -days), now)
	h.answer(w, s, err)
}

func (h *Hub) serveDrills(w http.ResponseWriter, r *http.Request) {
	if n, ok := number(w, r, maxDrillsAsk); ok {
		list, err := h.Store.Drills(r.Context(), n)
		h.answer(w, list, err)
	}
}
