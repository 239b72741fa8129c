package agent

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// accepting is an operator's word on a refused tip, and who wants to know what came of it.
type accepting struct {
	Commit string `json:"commit"` // in full, or its beginning
	By     string `json:"by"`
	answer chan error
}

func (w accepting) take(ctx context.Context, a *Agent) {
	refused := a.record.Refused
	var err error
	switch {
	case refused == nil:
		err = fleet.Errorf(fleet.Local, fleet.CodeUsage, "no release is refused here: there is nothing to accept").WithHint("see garrison status")
	case refused.Tip == "" || !strings.HasPrefix(refused.Tip, w.Commit):
		err = fleet.Errorf(fleet.Local, fleet.CodeUsage, "%.12s is not the commit that is refused (%.12s)", w.Commit, refused.Tip).
			WithHint("only the branch's tip, as garrison status shows it, can be accepted")
	case !deploy.Acceptable(refused.Failure.Code):
		err = fleet.Errorf(fleet.Bad, refused.Failure.Code, "%.12s cannot be accepted by anybody's word: %s", refused.Tip, firstLine(refused.Failure.Message)).
			WithHint("%s", refused.Failure.Hint)
	case a.record.Accept != nil && a.record.Accept.Commit == refused.Tip:
		err = fleet.Errorf(fleet.Bad, refused.Failure.Code, "%.12s is accepted already; what is refused is not where it stands in the history: %s", refused.Tip, firstLine(refused.Failure.Message)).
			WithHint("%s", refused.Failure.Hint)
	default:
		a.Log.Warn("a refused release is accepted, whatever its history", "tip", refused.Tip, "by", w.By, "refusedFor", refused.Failure.Code)
		a.apply(ctx, deploy.Accepted{Commit: refused.Tip, By: w.By})
		a.look()
	}
	w.answer <- err
}

const (
	leastCommit  = 7 // digits that say which commit is meant
	maxAccept    = 4 << 10
	maxWhoLength = 100
)

// serveAccept takes {"commit", "by"}: 202, or 4xx and a fleet.Failure.
func (a *Agent) serveAccept(ctx context.Context, w http.ResponseWriter, r *http.Request) {
	q := accepting{answer: make(chan error, 1)}
	err := json.NewDecoder(io.LimitReader(r.Body, maxAccept)).Decode(&q)
	if err != nil || len(q.Commit) < leastCommit || strings.Trim(q.Commit, "0123456789abcdef") != "" || q.By == "" || len(q.By) > maxWhoLength {
		refuse(w, http.StatusBadRequest, fleet.Errorf(fleet.Bad, fleet.CodeUsage, "commit must be a commit's name, at least %d digits of it, and by must say who accepts it", leastCommit))
		return
	}
	a.send(ctx, q)
	select {
	case <-ctx.Done():
	case <-r.Context().Done():
	case err := <-q.answer:
		if err != nil {
			refuse(w, http.StatusConflict, err)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	}
}

func refuse(w http.ResponseWriter, status int, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(fleet.FailureOf("", err)) // the client went away
}
