package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// clockBehind tells the hub, in the place of the drilled host's agent, what that would with a clock that was set back by a day. No namespace has a
// clock of its own, so the agent itself cannot be given one.
func clockBehind(ctx context.Context, r *run) error {
	host := r.yard.world.hosts[drilled]
	if err := host.StopService(ctx, "agent"); err != nil {
		return err
	}
	r.afterwards(func(ctx context.Context) error { return host.StartService(ctx, "agent") })
	var s fleet.Status
	if err := r.yard.get(ctx, "/api/v1/hosts/"+drilled, &s); err != nil {
		return err
	}
	began := time.Now()
	s.At, s.Seen = s.At.Add(-24*time.Hour), nil
	s.NextPoll, s.Since = s.At.Add(5*time.Second), s.At
	r.see("the hub takes its report", func() (string, error) { return "", r.yard.reportAs(ctx, drilled, s) })
	r.await(ctx, "and says that it heard of the host now, and how far its clock is off", func() (string, error) {
		var now fleet.Status
		err := r.yard.get(ctx, "/api/v1/hosts/"+drilled, &now)
		off := time.Duration(now.ClockOffSeconds) * time.Second
		if err == nil && (now.Seen == nil || now.Seen.At.Before(began) || (off+24*time.Hour).Abs() > time.Hour) {
			err = fmt.Errorf("off by %s, seen %+v", off, now.Seen)
		}
		return off.String(), err
	})
	r.see("garrison explain says so, and what to do", func() (string, error) {
		out, err := r.yard.run(ctx, "forge", "sh", "-c", "umask 077; printf %s '"+r.yard.token("demo")+"' > /root/read-token; garrison explain --hub "+hubURL+" --token-file /root/read-token --host "+drilled)
		if err == nil {
			_, err = contains(out, "timedatectl set-ntp true")
		}
		if err != nil {
			return "", err
		}
		return contains(out, "behind the hub's")
	})
	r.await(ctx, "somebody is told", func() (string, error) { return r.alerted(ctx, fleet.AlertClock, drilled) })
	if err := host.StartService(ctx, "agent"); err != nil {
		return err
	}
	r.await(ctx, "the clock right again, the hub believes what the host says", func() (string, error) {
		var now fleet.Status
		err := r.yard.get(ctx, "/api/v1/hosts/"+drilled, &now)
		if err == nil && (now.ClockOffSeconds != 0 || !now.Converged()) {
			err = errors.New(now.Summary())
		}
		return now.Summary(), err
	})
	return nil
}

// reportAs tells the hub a status with a host's token.
func (w *world) reportAs(ctx context.Context, host string, s fleet.Status) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hubURL+"/api/v1/reports", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+w.token(host))
	resp, err := w.hub.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
