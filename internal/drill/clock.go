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

// clockOff makes a release on a builder whose clock is a day ahead, as git and ssh-keygen would there: no namespace has a clock of its own, and
// Garrison asks its machine's. It has the content of an earlier one, so hosts have something to do; commit, tag and manifest are of tomorrow.
func clockOff(ctx context.Context, r *run) error {
	back, err := r.newest(ctx)
	if err != nil {
		return err
	}
	was, err := r.host(drilled).marker(ctx)
	if err != nil {
		return err
	}
	if _, err := r.yard.putAndWait(ctx, "Drill: before the clock is off"); err != nil {
		return err
	}
	n, ahead := back+2, time.Now().Add(24*time.Hour).UTC()
	script := fmt.Sprintf(`
export GIT_COMMITTER_DATE=@%[1]d GIT_AUTHOR_DATE=@%[1]d
git for-each-ref --format='%%(contents)' refs/tags/release-%[2]d | sed 's/"number": *%[2]d\b/"number": %[3]d/; s/release-%[2]d\b/release-%[3]d/; s/"createdAt": *"[^"]*"/"createdAt": "%[4]s"/; /-----BEGIN SSH SIGNATURE/,$d' > /tmp/manifest
commit=$(git commit-tree -p refs/heads/release -m 'made tomorrow' 'refs/tags/release-%[2]d^{tree}')
git -c gpg.format=ssh -c user.signingkey=/etc/garrison/release-key tag -s -F /tmp/manifest release-%[3]d $commit
git update-ref refs/heads/release $commit
`, ahead.Unix(), back, n, ahead.Format(time.RFC3339))
	r.yard.bad = true // afterwards hosts have another release than that of main's tip
	r.see("a release is made by a builder whose clock is a day ahead", func() (string, error) {
		if _, err := r.onForge(ctx, script); err != nil {
			return "", err
		}
		dates, err := r.onForge(ctx, fmt.Sprintf("git for-each-ref --format='%%(taggerdate:unix) %%(*committerdate:unix)' refs/tags/release-%d", n))
		if want := fmt.Sprintf("%d %[1]d", ahead.Unix()); err == nil && dates != want {
			err = fmt.Errorf("its tag and commit are of %s, not %s", dates, want)
		}
		return ahead.Format(time.RFC3339), errors.Join(err, r.wake(ctx))
	})
	for _, h := range r.hosts() {
		r.await(ctx, h+" has it", func() (string, error) {
			s, err := r.yard.status(ctx, h)
			if err == nil && (s.Newest == nil || s.Newest.Number != n || !s.Converged()) {
				err = errors.New(s.Summary())
			}
			return s.Summary(), err
		})
	}
	r.see("the host says what that release has", func() (string, error) { return saysMarker(ctx, r.host(drilled), marker{Text: was}) })
	p, err := r.put(ctx, newMarker(), "Drill: the clock is right again")
	if err != nil {
		return err
	}
	r.await(ctx, "the next one, of a builder whose clock is right, arrives", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	return nil
}
