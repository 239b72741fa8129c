package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// outages are servers, networks and tokens that are gone for a while. Hosts stay as they are, say what is wrong, and catch up.
var outages = []scenario{
	{name: "host-offline", title: "a host that was away through releases goes straight to the newest", run: hostOffline},
	{name: "two-releases", title: "of two changes in quick succession the newer one is what hosts end with", run: twoReleases},
	{name: "cache-down", title: "without the cache nothing is released, and what was released is tried again; it arrives when the cache is back", run: cacheDown},
	{name: "hub-down", title: "while the hub is away hosts are well and say so; back, it catches up by itself", run: hubDown},
	{name: "forge-down", title: "while git is away hosts go on running and say so; afterwards changes arrive", run: forgeDown},
	{name: "token-expired", title: "a host whose token is not taken any more is deployed all the same, and says so", run: tokenExpired},
	{name: "disk-full", title: "a release that does not fit on a host's disk leaves the host as it was, which says so, and arrives when there is room", run: diskFull},
	{name: "disk-full-activating", title: "a disk that is full in mid-activation: the host goes back to the system before, says so, and tries again", run: diskFullActivating},
	{name: "clock-behind", title: "of a host that says that it is yesterday, the hub tells that its clock is off, and goes on hearing it", run: clockBehind},
	{name: "clock-off", title: "a release by a builder whose clock is a day ahead arrives like any other", run: clockOff},
}

// cut takes a host off the network until restore is called.
func (r *run) cut(ctx context.Context, host string) (restore func(context.Context) error, err error) {
	h := r.yard.world.hosts[host]
	return h.RestoreLink, h.CutLink(ctx)
}

// stop ends a service of the forge until start is called, at the latest at the scenario's end.
func (r *run) stop(ctx context.Context, service string) (start func(context.Context) error, err error) {
	forge := r.yard.world.hosts["forge"]
	stopped := true
	start = func(ctx context.Context) error {
		if !stopped {
			return nil
		}
		stopped = false
		return forge.StartService(ctx, service)
	}
	r.afterwards(start)
	return start, forge.StopService(ctx, service)
}

func hostOffline(ctx context.Context, r *run) error {
	restore, err := r.cut(ctx, drilled)
	if err != nil {
		return err
	}
	missed, err := r.put(ctx, newMarker(), "Drill: missed by one host")
	if err != nil {
		return err
	}
	others := r.hosts()[1:]
	r.await(ctx, "the others have the first release", func() (string, error) { return committed(ctx, r.host(others[0]), missed) })
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: the newest")
	if err != nil {
		return err
	}
	for _, h := range others {
		r.await(ctx, h+" has the second one", func() (string, error) { return committed(ctx, r.host(h), p) })
	}
	r.await(ctx, drilled+" goes on running what it had, and says that git is away", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Remote.Failure == nil || !s.Healthy()) {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	if err := restore(ctx); err != nil {
		return err
	}
	r.await(ctx, "back, it commits the newest", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("and never had the one between", func() (string, error) { return r.never(ctx, drilled, missed) })
	r.see("it says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// never says whether a host never deployed the release of a commit.
func (r *run) never(ctx context.Context, host string, p pushed) (string, error) {
	var past []fleet.Deployment
	out, err := r.yard.run(ctx, host, "garrison", "history", "-n", "3", "-o", "json")
	if err == nil {
		err = unmarshal([]byte(out), &past)
	}
	for _, d := range past {
		if d.Release.Source.Commit == p.commit {
			err = fmt.Errorf("%s was deployed", d.Release.Name())
		}
	}
	return fmt.Sprintf("%d entries of its history read", len(past)), err
}

func twoReleases(ctx context.Context, r *run) error {
	if _, err := r.put(ctx, newMarker(), "Drill: the first of two"); err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: the second of two")
	if err != nil {
		return err
	}
	for _, h := range r.hosts() {
		r.await(ctx, h+" commits the second", func() (string, error) { return committed(ctx, r.host(h), p) })
		r.see(h+" says what was pushed last", func() (string, error) { return saysMarker(ctx, r.host(h), m) })
	}
	return nil
}

func hubDown(ctx context.Context, r *run) error {
	start, err := r.stop(ctx, "hub")
	if err != nil {
		return err
	}
	before, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: while the hub is away")
	if err != nil {
		return err
	}
	r.await(ctx, "the host says that the hub is away, and is well", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Hub.Failure == nil || !s.Converged()) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Hub.Failure.Message), nil
	})
	r.see("nothing was released, and the hosts are what they were", func() (string, error) {
		after, err := r.snapshot(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return "", err
	})
	if err := start(ctx); err != nil {
		return err
	}
	r.await(ctx, "back, it releases what was pushed meanwhile, with no hand on it", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.await(ctx, "and knows again how the host is", func() (string, error) {
		var s fleet.Status
		err := r.yard.get(ctx, "/api/v1/hosts/"+drilled, &s)
		if err == nil && (s.Newest == nil || s.Newest.Source.Commit != p.commit || s.Phase != fleet.PhaseIdle) {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	return nil
}

// newest is the number of the newest release, as the drilled host knows it.
func (r *run) newest(ctx context.Context) (int, error) {
	s, err := r.yard.status(ctx, drilled)
	if err == nil && s.Newest == nil {
		err = errors.New("the host has seen no release")
	}
	if err != nil {
		return 0, err
	}
	return s.Newest.Number, nil
}

func forgeDown(ctx context.Context, r *run) error {
	began := time.Now()
	start, err := r.stop(ctx, "git")
	if err != nil {
		return err
	}
	r.await(ctx, "the host says that git is away, and runs on", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Remote.Failure == nil || !s.Healthy()) {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	r.await(ctx, "somebody is told", func() (string, error) { // once, for all hosts
		return r.yard.ears.heard(fleet.AlertFetch, "", began)
	})
	m := newMarker()
	if _, err := r.put(ctx, m, "Drill: while git is away"); err == nil {
		return errors.New("git push to a forge that is down succeeded")
	}
	if err := start(ctx); err != nil {
		return err
	}
	r.await(ctx, "git back, the push goes through", func() (string, error) {
		_, err := r.yard.git(ctx, "push", "--quiet", "origin", "main")
		return "", err
	})
	for _, h := range r.hosts() {
		r.await(ctx, h+" says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(h), m) })
	}
	return nil
}

func tokenExpired(ctx context.Context, r *run) error {
	const swap = "cp /etc/garrison/hub-token /root/hub-token && echo expired > /etc/garrison/hub-token"
	if _, err := r.yard.run(ctx, drilled, "sh", "-euc", swap); err != nil {
		return err
	}
	r.afterwards(func(ctx context.Context) error {
		_, err := r.yard.run(ctx, drilled, "sh", "-euc", "cat /root/hub-token > /etc/garrison/hub-token")
		return err
	})
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: without a token")
	if err != nil {
		return err
	}
	r.await(ctx, "the host commits the change", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.await(ctx, "and says that its token is refused", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Hub.Failure == nil || s.Hub.Failure.Code != fleet.CodeUnauthorized) {
			err = fmt.Errorf("of the hub it says: %+v", s.Hub)
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Hub.Failure.Message), nil
	})
	return nil
}
