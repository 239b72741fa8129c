package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// told looks whether people are told of what was pushed at a time: of an alert that docs/ALERTS.md promises, about a release ("": of none).
// Without a hub nobody has alerts.
func (r *run) told(ctx context.Context, kind fleet.AlertKind, host, release string, since time.Time) {
	if r.yard != nil {
		r.await(ctx, "somebody is told", func() (string, error) { return r.yard.ears.heard(kind, host, since) })
		return
	}
	if r.live.hub == nil {
		return
	}
	var a fleet.Alert
	r.await(ctx, "the hub has the alert "+string(kind), func() (string, error) {
		var err error
		a, err = r.live.newAlert(ctx, kind, host, release)
		return a.What, err
	})
	if a.ID > 0 {
		r.live.alerts = append(r.live.alerts, a)
		r.await(ctx, "and its senders have told", func() (string, error) { return r.live.hub.whoTold(ctx, a) })
	}
}

// lastAlert is the number of a hub's newest alert; 0: there was none.
func (h *hubView) lastAlert(ctx context.Context) (int64, error) {
	var newest []fleet.Alert
	if err := h.get(ctx, "/api/v1/alerts?all=1&n=1", &newest); err != nil || len(newest) == 0 {
		return 0, err
	}
	return newest[0].ID, nil
}

// newAlert is an open one that the hub did not have when the drill pushed last.
func (l *live) newAlert(ctx context.Context, kind fleet.AlertKind, host, release string) (fleet.Alert, error) {
	var open []fleet.Alert
	if err := l.hub.get(ctx, "/api/v1/alerts", &open); err != nil {
		return fleet.Alert{}, err
	}
	i := slices.IndexFunc(open, func(a fleet.Alert) bool {
		return a.ID > l.alertsUntil && a.Kind == kind && a.Host == host && a.Release == release
	})
	if i < 0 {
		return fleet.Alert{}, fmt.Errorf("there is none; of %d that are open", len(open))
	}
	return open[i], nil
}

// whoTold are the hub's senders that have told something since an alert was opened. It is an error when there are some, and none has.
func (h *hubView) whoTold(ctx context.Context, a fleet.Alert) (string, error) {
	var all []fleet.SenderState
	if err := h.get(ctx, "/api/v1/notify", &all); err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "the hub has no sender: nobody is told", nil
	}
	var told []string
	var errs []error
	for _, s := range all {
		switch {
		case s.Delivered != nil && !s.Delivered.Before(a.OpenedAt):
			told = append(told, s.Name)
		case s.Error != "":
			errs = append(errs, fmt.Errorf("the sender %s does not work: %s", s.Name, s.Error))
		}
	}
	if len(told) == 0 {
		return "", errors.Join(append(errs, errors.New("none of the hub's senders has told anything since"))...)
	}
	return strings.Join(told, ", "), nil
}

// alertsOver says whether the alerts that the drill brought about are over.
func (l *live) alertsOver(ctx context.Context) error {
	if len(l.alerts) == 0 {
		return nil
	}
	var open []fleet.Alert
	if err := l.hub.get(ctx, "/api/v1/alerts", &open); err != nil {
		return err
	}
	var errs []error
	for _, a := range l.alerts {
		if slices.ContainsFunc(open, func(o fleet.Alert) bool { return o.ID == a.ID }) {
			errs = append(errs, fmt.Errorf("alert %s is still open: %s", a.Kind, a.What))
		}
	}
	return errors.Join(errs...)
}
