package drill

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rolloutFrozen has the freeze ordered by the command and ended on the hub's page, by orders that it must not take first.
func rolloutFrozen(ctx context.Context, r *run) error {
	if err := r.rings(ctx); err != nil {
		return err
	}
	same, err := r.untouched(ctx, r.hosts()...)
	if err != nil {
		return err
	}
	before, err := r.branches(ctx, "canary", "second", "last")
	if err != nil {
		return err
	}
	r.ordered(ctx, "the fleet is frozen", "garrison rollout freeze --until 1h --reason 'Drill: a freeze'")
	p, err := r.put(ctx, newMarker(), "Drill: in the freeze")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.await(ctx, "the roll-out says who froze it, and why", func() (string, error) {
		v, err := r.rollout(ctx)
		if err == nil && (v.Freeze == nil || v.State != fleet.RolloutWaiting || !strings.Contains(v.Freeze.Reason, "Drill: a freeze")) {
			err = fmt.Errorf("it is %s: %s", v.State, v.Reason)
		}
		return v.Reason, err
	})
	at, err := r.yard.logIn(ctx)
	if err != nil {
		return err
	}
	if err := r.refused(ctx, at); err != nil {
		return err
	}
	time.Sleep(3 * time.Second)
	r.unmoved(ctx, "every ring's branch is where it was", before, "canary", "second", "last")
	r.see("every host runs, and would boot, what it did", same)
	const why = "Drill: it's over"
	r.see("a person ends the freeze on the page, with a token and a reason", func() (string, error) {
		form, err := at.form(ctx, "unfreeze", why)
		if err != nil {
			return "", err
		}
		text, err := at.order(ctx, hubURL, form, r.yard.token("person"), http.StatusOK)
		if err != nil {
			return "", err
		}
		return onPage(text, "Done: it is in the ledger")
	})
	r.await(ctx, "the release goes through all rings", func() (string, error) { return r.everywhere(ctx, p) })
	r.see("the ledger in git says who ended it, and why", func() (string, error) { return r.unfrozen(ctx, "token person", why) })
	r.await(ctx, "and so does the page", func() (string, error) {
		text, err := at.get(ctx, "/-/rollout")
		if err != nil {
			return "", err
		}
		line, err := onPage(text, why)
		if err != nil {
			return "", err
		}
		return contains(line, "token person")
	})
	return nil
}

// refused sees that the page lets nobody end the freeze who may not, and that the ledger stays what it was.
func (r *run) refused(ctx context.Context, at *browser) error {
	tip := func() (string, error) {
		return r.yard.run(ctx, "forge", "git", "-C", bare, "rev-parse", fleet.RolloutBranch("release"))
	}
	before, err := tip()
	if err != nil {
		return err
	}
	form, err := at.form(ctx, "unfreeze", "Drill: by nobody who may")
	if err != nil {
		return err
	}
	outside := &browser{&http.Client{Transport: r.yard.hub.Transport}}
	for _, x := range []struct {
		name, origin, token string
		by                  *browser
		status              int
		says                string
	}{
		{"without a token", hubURL, "", at, http.StatusForbidden, "Not done: This takes a token"},
		{"with a token that may only read", hubURL, r.yard.token("demo"), at, http.StatusForbidden, "Not done: That is no token"},
		{"with the right one, sent from another site", "http://192.0.2.2", r.yard.token("person"), at, http.StatusForbidden, "cross-origin"},
		{"with the right one, for who is not logged in", hubURL, r.yard.token("person"), outside, http.StatusUnauthorized, "Log in"},
	} {
		r.see("the page does not end it "+x.name, func() (string, error) {
			text, err := x.by.order(ctx, x.origin, form, x.token, x.status)
			if err != nil {
				return "", err
			}
			return onPage(text, x.says)
		})
	}
	r.see("nothing of it is in the ledger", func() (string, error) {
		now, err := tip()
		if err == nil && now != before {
			err = fmt.Errorf("it was at %s and is at %s", before, now)
		}
		return now, err
	})
	return nil
}

// unfrozen says whether the ledger in git has it that somebody ended the freeze, in a commit of theirs.
func (r *run) unfrozen(ctx context.Context, by, why string) (string, error) {
	branch := fleet.RolloutBranch("release")
	text, err := r.yard.run(ctx, "forge", "git", "-C", bare, "show", branch+":"+fleet.LedgerPath)
	if err != nil {
		return "", err
	}
	l, err := fleet.ParseLedger([]byte(text))
	if err == nil && (l.Freeze != nil || l.Unfrozen == nil || l.Unfrozen.By != by || l.Unfrozen.Reason != why) {
		err = fmt.Errorf("it says:\n%s", text)
	}
	if err != nil {
		return "", err
	}
	log, err := r.yard.run(ctx, "forge", "git", "-C", bare, "log", "--format=%h %an: %s: %b", branch)
	if err != nil {
		return "", err
	}
	return contains(log, " "+by+": unfreeze: "+why)
}
