package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/deploy"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	maxOrder  = 64 << 10 // bytes
	maxReason = 1000
	orderTime = 20 * time.Second
)

// asked is an operator's order on its way to the loop.
type asked struct {
	event  deploy.Event
	act    fleet.Act
	answer chan error
}

// take does what was asked for: it is in the history before it is on record, so that nothing that had an effect is missing there.
func (q asked) take(ctx context.Context, a *Agent) {
	err := a.policy.May(a.record, q.event, time.Now().UTC())
	if err == nil {
		err = a.rememberAct(q.act)
	}
	if err == nil {
		a.Log.Info("an operator's order", "act", q.act.Act, "by", q.act.By, "reason", q.act.Reason)
		if !a.apply(ctx, q.event) {
			err = fleet.Errorf(fleet.Transient, fleet.CodeCanceled, "the agent is just ending; nothing was done").WithHint("try again")
		}
	}
	if err == nil && q.act.Act == fleet.ActAccept {
		a.look()
	}
	q.answer <- err
}

func (a *Agent) rememberAct(act fleet.Act) error {
	act.Schema, act.Host = fleet.StatusSchema, a.Config.Host
	if act.At.IsZero() {
		act.At = time.Now().UTC()
	}
	err := a.acts.Append(act)
	if err == nil {
		a.lastAct.Store(&act)
		err = a.acts.Trim(historyKept)
	}
	return stateError(err)
}

// serveOrder takes an order (fleet.Order) and answers when it is on record (fleet.Answer) or why it is not taken (fleet.Failure).
func (a *Agent) serveOrder(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), orderTime)
	defer cancel()
	said, err := a.order(ctx, w, r)
	if err != nil {
		refuseOrder(w, err)
		return
	}
	writeJSON(w, fleet.Answer{Schema: fleet.StatusSchema, Said: said, Status: a.Status()})
}

func (a *Agent) order(ctx context.Context, w http.ResponseWriter, r *http.Request) (said string, err error) {
	var o fleet.Order
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxOrder))
	d.DisallowUnknownFields()
	if err := d.Decode(&o); err != nil {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "the order cannot be read").WithCause(err)
	}
	if len(o.Reason) > maxReason {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "the reason has more than %d bytes", maxReason)
	}
	by, _ := r.Context().Value(peerKey{}).(fleet.Actor)
	event, act, said, err := a.eventOf(ctx, o, by)
	if err != nil {
		return "", err
	}
	act.Act, act.By, act.Reason, act.Now = o.Act, &by, o.Reason, o.Now
	q := asked{event, act, make(chan error, 1)}
	select {
	case a.results <- q:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	select {
	case err := <-q.answer:
		return said, err
	case <-ctx.Done():
		return "", fleet.Errorf(fleet.Local, fleet.CodeTimeout, "the agent did not come to an answer in %s", orderTime).WithHint("is its disk full? see garrison status")
	}
}

// eventOf is what an order means: for the state machine, for the history, and in words.
func (a *Agent) eventOf(ctx context.Context, o fleet.Order, by fleet.Actor) (deploy.Event, fleet.Act, string, error) {
	var act fleet.Act
	s := a.Status()
	switch o.Act {
	case fleet.ActRetry:
		if s.Target != nil {
			act.Release, act.OutPath = &s.Target.Release, s.Target.OutPath
			return deploy.Retry{}, act, s.Target.Release.Name() + " is tried again now", nil
		}
		return deploy.Retry{}, act, "", nil // and refused
	case fleet.ActConfirm:
		act.Release = &fleet.ReleaseRef{Number: o.Release, Tag: o.Tag}
		confirmed := fleet.TagName(o.Release)
		if o.Release == 0 {
			confirmed = "the test release"
		}
		return deploy.Confirm{By: by, Release: o.Release, Tag: o.Tag, Now: o.Now}, act, confirmed + " is confirmed", nil
	case fleet.ActSuspend:
		until := time.Now().Add(time.Duration(o.Seconds * float64(time.Second))).UTC().Truncate(time.Second)
		if o.Reason == "" || o.Seconds <= 0 || o.Seconds > maxSuspension.Seconds() {
			return nil, act, "", fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "a suspension needs a reason, and a length of at most %s", maxSuspension)
		}
		act.Until = &until
		return deploy.Suspend{By: by, Reason: o.Reason, Until: until}, act, "no activation starts until " + until.Local().Format("Mon "+time.DateTime) + " or garrison resume", nil
	case fleet.ActAccept:
		if len(o.Commit) < leastCommit || strings.Trim(o.Commit, "0123456789abcdef") != "" {
			return nil, act, "", fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "a commit is named by at least %d of its digits, not by %.100q", leastCommit, o.Commit)
		}
		if act.Commit = o.Commit; s.Refused != nil && strings.HasPrefix(s.Refused.Tip, o.Commit) {
			act.Commit = s.Refused.Tip
		}
		return deploy.Accept{By: by, Commit: act.Commit}, act, fmt.Sprintf("%.12s may be followed, if it is signed like any other", act.Commit), nil
	case fleet.ActResume:
		return deploy.Resumed{}, act, "activations may start again", nil
	case fleet.ActDeploy, fleet.ActRollback:
		if o.StorePath != "" && by.UID != 0 {
			// Whoever can build something here could become root by it: nobody signed it.
			return nil, act, "", fleet.Errorf(fleet.Bad, fleet.CodeUnauthorized, "only root may deploy a store path, which no signed release names").WithHint("sudo garrison deploy …")
		}
		target, err := a.choose(ctx, o, s)
		if err != nil {
			return nil, act, "", err
		}
		act.OutPath = target.OutPath
		what := target.OutPath
		if target.Release.Number > 0 {
			act.Release = &target.Release
			what = fmt.Sprintf("%s (%s)", target.Release.Name(), target.OutPath)
		}
		// Whoever rolls back does so because something is wrong now.
		return deploy.Choose{Act: o.Act, By: by, Reason: o.Reason, Target: target, Now: o.Now || o.Act == fleet.ActRollback}, act, "turning to " + what, nil
	}
	return nil, act, "", fleet.Errorf(fleet.Bad, fleet.CodeInvalid, "there is no order %q", o.Act)
}

// leastCommit is how many digits say which commit is meant.
const leastCommit = 7

// maxSuspension bounds a suspension, so that none is forgotten for good.
const maxSuspension = 90 * 24 * time.Hour

// refuseOrder tells why an order is not taken.
func refuseOrder(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	switch fleet.CodeOf(err) {
	case fleet.CodeInvalid:
		code = http.StatusBadRequest
	case fleet.CodeUnauthorized:
		code = http.StatusForbidden
	case fleet.CodeNotFound:
		code = http.StatusNotFound
	case fleet.CodeNotNow:
		code = http.StatusConflict
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(fleet.FailureOf("", err)) // the client went away
}

func (a *Agent) serveActs(w http.ResponseWriter, r *http.Request) {
	serveJournal[fleet.Act](a, w, r, a.actsFile())
}

// serveJournal answers with the newest n entries, newest last.
func serveJournal[T any](a *Agent, w http.ResponseWriter, r *http.Request, file string) {
	n := 20
	if s := r.URL.Query().Get("n"); s != "" {
		v, err := strconv.Atoi(s)
		if err != nil || v < 1 || v > historyKept {
			http.Error(w, "n must be a number from 1 to "+strconv.Itoa(historyKept), http.StatusBadRequest)
			return
		}
		n = v
	}
	past, err := durable.ReadJournal[T](file, n)
	if err != nil {
		a.Log.Error("history is damaged in part", "err", err)
	}
	if past == nil {
		past = []T{}
	}
	writeJSON(w, past)
}

type peerKey struct{}

// withPeer notes who is at the other end of a connection, as the kernel says.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	who := fleet.Actor{UID: -1}
	_ = raw.Control(func(fd uintptr) { // who stays unknown then
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			who.UID = int(cred.Uid)
		}
	})
	if known, err := user.LookupId(strconv.Itoa(who.UID)); err == nil {
		who.User = known.Username
	}
	return context.WithValue(ctx, peerKey{}, who)
}
