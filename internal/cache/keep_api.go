package cache

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/nar"
)

// longest is how long collecting or checking a cache may take a request.
const longest = 12 * time.Hour

// pinName is a file name, or several.
var pinName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+@:-]*(/[A-Za-z0-9][A-Za-z0-9._+@:-]*)*$`)
})

// mostPins bounds the pins of a cache, maxPinBytes a request about them.
const (
	mostPins    = 100_000
	maxPinBytes = 4 << 20
)

// NewPin asks for a pin.
type NewPin struct {
	Name      string    `json:"name"`
	StorePath string    `json:"storePath"`
	ExpiresAt time.Time `json:"expiresAt,omitzero"`
	// KeepLast, if not 0, removes the oldest of the pins whose names are the same up to the last "/", until so many are left.
	KeepLast int `json:"keepLast,omitempty"`
}

func (s *Server) getPins(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Pull)
	if err != nil {
		return err
	}
	pins, err := s.Index.Pins(r.Context(), c.Name)
	if err != nil {
		return err
	}
	if pins == nil {
		pins = []Pin{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"schema": 1, "pins": pins})
	return nil
}

// postPins sets pins, all of them or none that is wrong.
func (s *Server) postPins(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	var query struct {
		Pins []NewPin `json:"pins"`
	}
	if err := s.readJSON(w, r, maxPinBytes, &query); err != nil {
		return err
	}
	for _, p := range query.Pins {
		if err := s.checkPin(r.Context(), c, p); err != nil {
			return err
		}
	}
	have, err := s.Index.Pins(r.Context(), c.Name)
	if err != nil {
		return err
	}
	if len(have)+len(query.Pins) > mostPins {
		return badRequest("a cache has at most %d pins: remove some first", mostPins)
	}
	now := time.Now()
	for _, p := range query.Pins {
		pin := Pin{Name: p.Name, StorePath: p.StorePath, CreatedAt: now, ExpiresAt: p.ExpiresAt}
		if err := s.Index.PutPin(r.Context(), c.Name, pin); err != nil {
			return err
		}
		if err := s.rotate(r.Context(), c, have, pin, p.KeepLast); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, map[string]int{"schema": 1, "pins": len(query.Pins)})
	return nil
}

func (s *Server) checkPin(ctx context.Context, c *Cache, p NewPin) error {
	if len(p.Name) > 200 || !pinName().MatchString(p.Name) {
		return badRequest("%s cannot name a pin: use letters, digits and . _ + @ : - between slashes", quoted(p.Name))
	}
	hash, err := nar.HashPart(p.StorePath)
	if err != nil {
		return badRequest("%v", err)
	}
	record, ok, err := s.record(ctx, c, hash)
	if err != nil {
		return err
	}
	if !ok || record.StorePath != p.StorePath {
		return &httpError{status: http.StatusNotFound, kind: "NoSuchObject", message: p.StorePath + " is not in the cache: push it first, then pin it"}
	}
	return nil
}

// rotate removes the oldest pins beside p, so that keep are left. have is what there was before.
func (s *Server) rotate(ctx context.Context, c *Cache, have []Pin, p Pin, keep int) error {
	folder := p.Name[:strings.LastIndex(p.Name, "/")+1]
	if keep <= 0 || folder == "" {
		return nil
	}
	beside := slices.DeleteFunc(slices.Clone(have), func(q Pin) bool {
		return q.Name == p.Name || !strings.HasPrefix(q.Name, folder) || strings.Contains(q.Name[len(folder):], "/")
	})
	slices.SortFunc(beside, func(a, b Pin) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Name, b.Name)) })
	for len(beside) > keep-1 {
		if _, err := s.Index.DeletePin(ctx, c.Name, beside[0].Name); err != nil {
			return err
		}
		beside = beside[1:]
	}
	return nil
}

func (s *Server) deletePin(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Push)
	if err != nil {
		return err
	}
	name := r.PathValue("pin")
	was, err := s.Index.DeletePin(r.Context(), c.Name, name)
	if err != nil {
		return err
	}
	if !was {
		return &httpError{status: http.StatusNotFound, kind: "NoSuchObject", message: "there is no pin " + quoted(name)}
	}
	writeJSON(w, http.StatusOK, map[string]int{"schema": 1})
	return nil
}

// postCollect plans a collection, and executes it if it is to.
func (s *Server) postCollect(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Delete)
	if err != nil {
		return err
	}
	var query struct {
		Execute  bool   `json:"execute"`
		Unused   *int64 `json:"unused"` // seconds
		MaxBytes *int64 `json:"maxBytes"`
	}
	if err := s.readJSON(w, r, maxPinBytes, &query); err != nil {
		return err
	}
	retention := s.retention(c)
	if query.Unused != nil {
		retention.Unused = time.Duration(*query.Unused) * time.Second
	}
	if query.MaxBytes != nil {
		retention.MaxBytes = *query.MaxBytes
	}
	if err := checkRetention(retention); err != nil {
		return err
	}
	limitWriteTime(w, longest)
	p, err := s.PlanCollection(r.Context(), c.Name, retention)
	if err != nil {
		return err
	}
	answer := struct {
		*Collection
		Swept
	}{Collection: p}
	if query.Execute {
		if err := s.Execute(r.Context(), p); err != nil {
			return err
		}
		if answer.Swept, err = s.Sweep(r.Context()); err != nil {
			return err
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// postFsck answers with a line of JSON now and then, {"archives":…,"of":…}, so that nothing on the way
// takes the connection for dead, and with the Check at the end, or {"error":…}.
func (s *Server) postFsck(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Delete)
	if err != nil {
		return err
	}
	limitWriteTime(w, longest)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush() // a client waits for the first line no longer than for any answer
	lines, last := json.NewEncoder(w), time.Now()
	check, err := s.Fsck(r.Context(), c.Name, FsckOptions{
		Content: r.URL.Query().Has("content"), Repair: r.URL.Query().Has("repair"),
		Progress: func(archives, of int, bytes int64) error {
			if time.Since(last) < time.Second {
				return nil
			}
			last = time.Now()
			if err := lines.Encode(map[string]int64{"archives": int64(archives), "of": int64(of), "bytes": bytes}); err != nil {
				return err
			}
			return http.NewResponseController(w).Flush()
		},
	})
	if err != nil {
		s.Log.Error("checking the cache failed", "cache", c.Name, "err", err)
		_ = lines.Encode(map[string]string{"error": refusal(err).message})
		return nil
	}
	_ = lines.Encode(check)
	return nil
}

func (s *Server) deletePath(w http.ResponseWriter, r *http.Request) error {
	c, err := s.open(r, r.PathValue("cache"), Delete)
	if err != nil {
		return err
	}
	hash := r.PathValue("hash")
	if !nar.ValidHashPart(hash) {
		return badRequest("%s is not the hash of a store path", quoted(hash))
	}
	withReferrers := r.URL.Query().Has("referrers")
	referrers, err := s.DeletePath(r.Context(), c.Name, hash, withReferrers)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if len(referrers) > 0 && !withReferrers {
		status = http.StatusConflict
	}
	if referrers == nil {
		referrers = []string{}
	}
	writeJSON(w, status, map[string]any{"schema": 1, "deleted": status == http.StatusOK, "referrers": referrers})
	return nil
}

func limitWriteTime(w http.ResponseWriter, d time.Duration) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(d))
}
