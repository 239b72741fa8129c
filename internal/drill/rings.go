package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rollouts are releases that go through the fleet ring by ring, and what must stop them.
var rollouts = []scenario{
	{name: "rollout", title: "a release goes ring by ring: the next one has it staged, and is given it when the one before has soaked", missing: onlySandbox, run: rolloutSoaks},
	{name: "canary-fails", title: "a release that fails on the first host stops there; a newer one goes through", missing: onlySandbox, run: canaryFails},
	{name: "rollout-frozen", title: "in a freeze nothing is given to any ring; it is when a person, and only one who may, has ended it on the hub's page", missing: onlySandbox, run: rolloutFrozen},
	{name: "rollout-aborted", title: "a release that is aborted is left again by every host that had it", missing: onlySandbox, run: rolloutAborted},
	{name: "rollout-hub-lost", title: "a hub that is lost in mid-roll-out, and made anew, goes on where it was", missing: onlySandbox, run: rolloutHubLost},
	{name: "rollout-host-offline", title: "a host that is away does not hold up a roll-out, and goes straight to what its ring has", missing: onlySandbox, run: rolloutHostOffline},
	{name: "ring-reboots", title: "of two hosts of a ring that need a reboot one is away at a time; each comes back well, in the new system", missing: noSystemd, run: ringReboots},
}

// rings has the fleet's hosts in rings until the scenario ends, each with a soak time of a second.
func (r *run) rings(ctx context.Context) error {
	r.afterwards(func(ctx context.Context) error {
		r.yard.bad = true // it is not as it was
		v, err := r.rollout(ctx)
		for command, needed := range map[string]bool{"resume": v.State == fleet.RolloutStopped, "unfreeze": v.Freeze != nil} {
			if needed {
				_, e := r.order(ctx, "garrison rollout "+command+" --reason 'the drill is over'")
				err = errors.Join(err, e)
			}
		}
		return errors.Join(err, r.yard.write("garrison.toml", []byte(r.yard.config)))
	})
	if err := r.reshape(threeRings("1s")); err != nil {
		return err
	}
	p, err := r.put(ctx, newMarker(), "Drill: rings")
	if err != nil {
		return err
	}
	r.await(ctx, "a release with rings is everywhere", func() (string, error) { return r.everywhere(ctx, p) })
	return nil
}

// reshape changes the rings with the next push.
func (r *run) reshape(rings string) error {
	return r.yard.write("garrison.toml", []byte(r.yard.config+rings))
}

// ringOf is a ring of garrison.toml.
func ringOf(name, more string, hosts ...string) string {
	return fmt.Sprintf("[[rings]]\nname = %q\nhosts = [\"%s\"]\n%s\n", name, strings.Join(hosts, `", "`), more)
}

// order is a command about the roll-out, as a person would type it in a clone of the fleet.
func (r *run) order(ctx context.Context, command string) (string, error) {
	return r.yard.run(ctx, "developer", "sh", "-c", "cd "+clone+" && "+command)
}

// ordered is one that is part of what is drilled.
func (r *run) ordered(ctx context.Context, name, command string) {
	r.see(name, func() (string, error) {
		r.Commands = append(r.Commands, command)
		out, err := r.order(ctx, command)
		return firstLine(out), err
	})
}

// everywhere says whether every host has what was pushed, and the hub that the roll-out is done.
func (r *run) everywhere(ctx context.Context, p pushed) (string, error) {
	for _, h := range r.hosts() {
		if _, err := r.has(ctx, h, p); err != nil {
			return "", err
		}
	}
	v, err := r.rollout(ctx)
	if err == nil && v.State != fleet.RolloutDone {
		err = fmt.Errorf("the hub says %s: %s", v.State, v.Reason)
	}
	return fmt.Sprintf("release-%d", v.Release), err
}

// has says whether a host was given the release of a commit, and is well with it.
func (r *run) has(ctx context.Context, host string, p pushed) (string, error) {
	s, err := r.yard.status(ctx, host)
	if err == nil && (s.Newest == nil || s.Newest.Source.Commit != p.commit || !s.Converged()) {
		err = fmt.Errorf("%s: %s", host, s.Summary())
	}
	return s.Summary(), err
}

// rollout is what the hub says of it.
func (r *run) rollout(ctx context.Context) (v fleet.Rollout, err error) {
	return v, r.yard.get(ctx, "/api/v1/rollout", &v)
}

// untouched are hosts, and what they run.
func (r *run) untouched(ctx context.Context, hosts ...string) (func() (string, error), error) {
	before := map[string]string{}
	look := func() (err error) {
		for _, h := range hosts {
			s, e := r.standing(ctx, r.host(h))
			if was, known := before[h]; known && was != s {
				e = errors.Join(e, fmt.Errorf("%s was %s and is %s", h, was, s))
			} else if !known {
				before[h] = s
			}
			err = errors.Join(err, e)
		}
		return err
	}
	return func() (string, error) { return strings.Join(hosts, ", "), look() }, look()
}

// branches are what rings' branches point at.
func (r *run) branches(ctx context.Context, rings ...string) (string, error) {
	args := []string{"-C", bare, "for-each-ref", "--format=%(refname:short) %(objectname)"}
	for _, ring := range rings {
		args = append(args, "refs/heads/"+fleet.RingBranch("release", ring, 1))
	}
	return r.yard.run(ctx, "forge", "git", args...)
}

// unmoved checks that they point at what they did.
func (r *run) unmoved(ctx context.Context, name, before string, rings ...string) {
	r.see(name, func() (string, error) {
		now, err := r.branches(ctx, rings...)
		if err == nil && now != before {
			err = fmt.Errorf("before:\n%s\nnow:\n%s", before, now)
		}
		return strings.Join(rings, ", "), err
	})
}

// threeRings are rings of a host each; the first one soaks for so long.
func threeRings(soak string) string {
	return ringOf("canary", fmt.Sprintf("soak = %q", soak), drilled) + ringOf("second", "soak = \"1s\"", "joker") + ringOf("last", "", selfBuilder)
}

const soak = 10 * time.Second // long enough to look at

func rolloutSoaks(ctx context.Context, r *run) error {
	if err := errors.Join(r.rings(ctx), r.reshape(threeRings(soak.String()))); err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: ring by ring")
	if err != nil {
		return err
	}
	var first time.Time
	r.await(ctx, drilled+", in the first ring, has it", func() (string, error) {
		d, err := r.host(drilled).deployment(ctx, p.commit)
		if err != nil || d == nil || d.Result != fleet.Committed {
			return "", errors.Join(errNotYet, err)
		}
		first = d.EndedAt
		return r.has(ctx, drilled, p)
	})
	r.await(ctx, "the hub says that it soaks there, and until when", func() (string, error) {
		v, err := r.rollout(ctx)
		if err == nil && (len(v.Rings) != 3 || v.Rings[0].SoakUntil == nil || v.Rings[0].State != fleet.RolloutSoaking) {
			err = fmt.Errorf("it says %s: %s", v.State, v.Reason)
		}
		return v.Reason, err
	})
	r.await(ctx, "joker, in the second ring, has fetched it already, and goes on with what it has", func() (string, error) {
		s, err := r.yard.status(ctx, "joker")
		if err == nil && (s.Ahead == nil || s.Ahead.Release.Source.Commit != p.commit || s.Ahead.StagedAt == nil) {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	for i, h := range []string{"joker", selfBuilder} {
		r.await(ctx, h+" has it, no sooner than it may", func() (string, error) {
			d, err := r.host(h).deployment(ctx, p.commit)
			if err != nil || d == nil || d.Result != fleet.Committed {
				return "", errors.Join(errNotYet, err)
			}
			after := d.EndedAt.Sub(first)
			if after < soak+time.Duration(i)*time.Second {
				return "", final{fmt.Errorf("it had it %s after %s", after, drilled)}
			}
			return fmt.Sprintf("%.1f s after %s", after.Seconds(), drilled), nil
		})
	}
	for _, h := range r.hosts() {
		r.see(h+" says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(h), m) })
	}
	r.await(ctx, "the roll-out is done", func() (string, error) { return r.everywhere(ctx, p) })
	return nil
}

func canaryFails(ctx context.Context, r *run) error {
	if err := r.rings(ctx); err != nil {
		return err
	}
	same, err := r.untouched(ctx, r.hosts()...)
	if err != nil {
		return err
	}
	later, err := r.branches(ctx, "second", "last")
	if err != nil {
		return err
	}
	p, err := r.put(ctx, broken(drilled, breakActivate), "Drill: the first host fails")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.await(ctx, drilled+" rolls back, and holds it", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Phase != fleet.PhaseHeld || s.Newest == nil || s.Newest.Source.Commit != p.commit) {
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	r.await(ctx, "the roll-out is paused, and names the host", func() (string, error) {
		v, err := r.rollout(ctx)
		if err == nil && (v.State != fleet.RolloutStopped || !strings.Contains(v.Reason, drilled)) {
			err = fmt.Errorf("it is %s: %s", v.State, v.Reason)
		}
		return v.Reason, err
	})
	r.await(ctx, "somebody is told", func() (string, error) { return r.yard.ears.heard(fleet.AlertRollout, "", p.at) })
	time.Sleep(3 * time.Second) // more than any poll or soak that is left
	r.unmoved(ctx, "the later rings' branches are where they were", later, "second", "last")
	r.see("every host runs, and would boot, what it did", same)
	m := newMarker()
	if p, err = r.put(ctx, m, "Drill: mended"); err != nil {
		return err
	}
	r.await(ctx, "a newer release goes through all rings", func() (string, error) { return r.everywhere(ctx, p) })
	return nil
}

func rolloutAborted(ctx context.Context, r *run) error {
	if err := r.rings(ctx); err != nil {
		return err
	}
	same, err := r.untouched(ctx, r.hosts()...)
	if err != nil {
		return err
	}
	was, err := r.host("joker").marker(ctx)
	if err != nil {
		return err
	}
	if err := r.reshape(ringOf("canary", "soak = \"1s\"", drilled) + ringOf("second", "soak = \"1h\"", "joker") + ringOf("last", "", selfBuilder)); err != nil {
		return err
	}
	p, err := r.put(ctx, newMarker(), "Drill: to be aborted")
	if err != nil {
		return err
	}
	for _, h := range []string{drilled, "joker"} {
		r.await(ctx, h+" has the release", func() (string, error) { return r.has(ctx, h, p) })
	}
	r.ordered(ctx, "the release is aborted", "garrison rollout abort --at-once --reason 'Drill: an abort'")
	for _, h := range []string{drilled, "joker"} {
		r.await(ctx, h+" says what it said before", func() (string, error) { return saysMarker(ctx, r.host(h), marker{Text: was}) })
	}
	r.await(ctx, "every host is well, in a newer release", func() (string, error) {
		for _, h := range r.hosts() {
			s, err := r.yard.status(ctx, h)
			if err == nil && (!s.Converged() || s.Newest == nil || s.Newest.Source.Commit == p.commit) {
				err = fmt.Errorf("%s: %s", h, s.Summary())
			}
			if err != nil {
				return "", err
			}
		}
		return "", nil
	})
	r.await(ctx, "and runs, and would boot, what it did before", same)
	return nil
}

func rolloutHubLost(ctx context.Context, r *run) error {
	if err := errors.Join(r.rings(ctx), r.reshape(threeRings(soak.String()))); err != nil {
		return err
	}
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: the hub is lost in mid-roll-out")
	if err != nil {
		return err
	}
	var first time.Time
	r.await(ctx, drilled+" has it", func() (string, error) {
		d, err := r.host(drilled).deployment(ctx, p.commit)
		if err != nil || d == nil || d.Result != fleet.Committed {
			return "", errors.Join(errNotYet, err)
		}
		first = d.EndedAt
		return r.has(ctx, drilled, p)
	})
	r.see("the hub's database and its repositories are removed", func() (string, error) {
		forge := r.yard.world.hosts["forge"]
		if err := forge.StopService(ctx, "hub"); err != nil {
			return "", err
		}
		_, err := r.confirm(ctx, "forge", "rm -rf /var/lib/garrison-hub/hub.db* /var/lib/garrison-hub/repo.git /var/lib/garrison-hub/ci /var/lib/garrison-hub/rollout*")
		return "", errors.Join(err, forge.StartService(ctx, "hub"))
	})
	r.await(ctx, "joker is given it all the same, no sooner than it may", func() (string, error) {
		d, err := r.host("joker").deployment(ctx, p.commit)
		if err != nil || d == nil || d.Result != fleet.Committed {
			return "", errors.Join(errNotYet, err)
		}
		if after := d.EndedAt.Sub(first); after < soak {
			return "", final{fmt.Errorf("it had it %s after %s", after, drilled)}
		}
		return d.Release.Name(), nil
	})
	r.await(ctx, "the roll-out is done", func() (string, error) { return r.everywhere(ctx, p) })
	return nil
}

func rolloutHostOffline(ctx context.Context, r *run) error {
	if err := errors.Join(r.rings(ctx), r.reshape(ringOf("canary", "soak = \"1s\"", drilled, "joker")+ringOf("last", "", selfBuilder))); err != nil {
		return err
	}
	restore, err := r.cut(ctx, "joker")
	if err != nil {
		return err
	}
	missed, err := r.put(ctx, newMarker(), "Drill: missed by one host")
	if err != nil {
		return err
	}
	r.await(ctx, drilled+" has it", func() (string, error) { return r.has(ctx, drilled, missed) })
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: the newest")
	if err != nil {
		return err
	}
	for _, h := range []string{drilled, selfBuilder} {
		r.await(ctx, h+" has the newest, though joker has not", func() (string, error) { return r.has(ctx, h, p) })
	}
	if err := restore(ctx); err != nil {
		return err
	}
	r.await(ctx, "joker, back, goes straight to it", func() (string, error) { return r.has(ctx, "joker", p) })
	r.see("and never had the one between", func() (string, error) { return r.never(ctx, "joker", missed) })
	r.await(ctx, "the roll-out is done", func() (string, error) { return r.everywhere(ctx, p) })
	return nil
}
