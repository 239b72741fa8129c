package hub

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Roller shows a roll-out and takes people's orders about it; a Controller does.
type Roller interface {
	// View is how far the newest release is on its way through the rings.
	View(ctx context.Context) (fleet.Rollout, error)
	// Order does what somebody orders, as a commit in git in their name, and returns what came of it. Errors: CodeUsage, what is ordered makes no sense;
	// CodeNotFound, there is no such ring or release; CodeNotNow, the roll-out's state does not allow it; CodeRace, somebody else wrote at the same time again and
	// again; CodeInvalid, the ledger cannot be read; those of git.Repo.Push.
	Order(ctx context.Context, by string, c fleet.RolloutCommand) (fleet.Rollout, error)
}

// checkOrder says what of an order does not go together; "" for nothing. Whether it is complete, and may be, rollout.Ordered knows.
func checkOrder(c fleet.RolloutCommand) string {
	only := func(act string, set bool) bool { return set && c.Act != act }
	switch {
	case !slices.Contains(fleet.RolloutActs(), c.Act):
		return "act is " + oneOf(fleet.RolloutActs())
	case c.Act == fleet.RolloutPromote && !fleet.ValidRingName(c.Ring):
		return "promote needs the ring to give the release to"
	case only(fleet.RolloutPromote, c.Ring != ""), only(fleet.RolloutPromote, c.Force):
		return "ring and force are for promote"
	case only(fleet.RolloutFreeze, c.Until != nil):
		return "until is for freeze"
	case only(fleet.RolloutAbort, c.To != 0), only(fleet.RolloutAbort, c.AtOnce):
		return "to and atOnce are for abort"
	case c.Release < 0 || c.Release > fleet.MaxNumber || c.To < 0 || c.To > fleet.MaxNumber:
		return "that is no number of a release"
	}
	return ""
}

func oneOf(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (h *Hub) serveRollout(w http.ResponseWriter, r *http.Request) {
	v, err := h.Rollout.View(r.Context())
	if err != nil {
		h.refuseOrder(w, err)
		return
	}
	h.answer(w, v, nil)
}

// serveOrder does what a token's holder orders, in its name.
func (h *Hub) serveOrder(w http.ResponseWriter, r *http.Request) {
	var c fleet.RolloutCommand
	if !document(w, r, &c) {
		return
	}
	v, err := h.Order(r.Context(), callerOf(r).hash, c)
	if err != nil {
		h.refuseOrder(w, err)
		return
	}
	h.answer(w, v, nil)
}

// Order does what somebody orders who has the token with that hash, in its name: for the API and the page alike, which see to it that the token may.
// Errors are those of Roller.
func (h *Hub) Order(ctx context.Context, hash string, c fleet.RolloutCommand) (v fleet.Rollout, err error) {
	if h.Rollout == nil {
		return v, fleet.Errorf(fleet.Local, fleet.CodeNotFound, "this hub follows no repository")
	}
	if wrong := checkOrder(c); wrong != "" {
		return v, fleet.Errorf(fleet.Local, fleet.CodeUsage, "%s", wrong)
	}
	tokens, err := h.Tokens()
	if err != nil {
		return v, err
	}
	by := "token " + tokens.NameOf(hash)
	if v, err = h.Rollout.Order(ctx, by, c); err != nil {
		h.Log.Warn("an order about the roll-out was not done", "act", c.Act, "by", by, "err", err)
		return v, err
	}
	h.Log.Info("an order about the roll-out", "act", c.Act, "ring", c.Ring, "release", c.Release, "by", by, "reason", c.Reason)
	return v, nil
}

// statusOf is how a request is answered that ended with an error of that code; 503 for others.
var statusOf = map[fleet.Code]int{
	fleet.CodeUsage: http.StatusBadRequest, fleet.CodeNotFound: http.StatusNotFound, fleet.CodeNotNow: http.StatusConflict, fleet.CodeRace: http.StatusConflict,
	fleet.CodeInvalid: http.StatusConflict, fleet.CodeForcePushed: http.StatusConflict, fleet.CodeUnauthorized: http.StatusConflict,
}

// OrderStatus is how an order is answered that was not done, and with which words: a line, with what to do next.
func OrderStatus(err error) (status int, text string) {
	var e *fleet.Error
	if !errors.As(err, &e) {
		return http.StatusServiceUnavailable, "the hub cannot do this now: its log says why"
	}
	text = e.What
	if e.Hint != "" {
		text += ": " + e.Hint
	}
	if status = statusOf[e.Code]; status == 0 {
		status = http.StatusServiceUnavailable
	}
	return status, text
}

func (h *Hub) refuseOrder(w http.ResponseWriter, err error) {
	status, text := OrderStatus(err)
	http.Error(w, text, status)
}
