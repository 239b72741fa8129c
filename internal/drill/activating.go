package drill

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// activating are changes that reach the host, and must not stay; and activations that are interrupted.
var activating = []scenario{
	{name: "activation-fails", title: "a system that activates badly is rolled back, the release held", live: true, harm: true, run: func(ctx context.Context, r *run) error {
		return r.rolledBack(ctx, breakActivate)
	}},
	{name: "unit-fails", title: "a system with a failing unit is rolled back", live: true, harm: true, missing: noSystemd, run: func(ctx context.Context, r *run) error {
		return r.rolledBack(ctx, breakUnit)
	}},
	{name: "health-check-fails", title: "a system that activates, but fails its health check, is rolled back", live: true, harm: true, run: func(ctx context.Context, r *run) error {
		return r.rolledBack(ctx, breakCheck)
	}},
	{name: "network-cut", title: "a system that cuts the host off is rolled back by the host itself", live: true, harm: true, run: func(ctx context.Context, r *run) error {
		return r.rolledBack(ctx, breakNetwork)
	}},
	{name: "agent-killed", title: "an agent that dies in mid-activation does not stop it: the change arrives", run: agentKilled},
	{name: "power-cut", title: "after a power cut in mid-activation the host boots the system before, says so, and waits for somebody's word", run: powerCut},
}

func noSystemd(p place) string {
	if y, sandboxed := p.(*yard); sandboxed && y.base == "" {
		return "the hosts of this sandbox have no systemd"
	}
	return ""
}

// rolledBack pushes what the host must get rid of by itself.
func (r *run) rolledBack(ctx context.Context, b breakage) error {
	host := r.host(r.hosts()[0])
	before, err := r.standing(ctx, host)
	if err != nil {
		return err
	}
	p, err := r.put(ctx, broken(r.hosts()[0], b), "Drill: "+string(b)+" is broken")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it: nothing is wrong that could be seen there", func() (string, error) { return r.released(ctx, p) })
	var d *fleet.Deployment
	r.await(ctx, "the host rolled back", func() (string, error) {
		var err error
		if d, err = host.deployment(ctx, p.commit); err != nil || d == nil {
			return "", errors.Join(errNotYet, err)
		}
		if d.Result != fleet.RolledBack {
			return "", final{fmt.Errorf("its deployment ended as %s", d.Result)}
		}
		return firstLine(d.Failure.Message), nil
	})
	same := func() (string, error) {
		after, err := r.standing(ctx, host)
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		return "", err
	}
	if r.yard != nil {
		r.see("profile, boot entry and system are what they were", same)
	} else { // the hub may hear of it a moment later
		r.await(ctx, "profile and system are what they were", same)
	}
	if b != breakNetwork && b != breakUnit { // which say nothing themselves
		r.see("its log says why", func() (string, error) {
			log, err := host.log(ctx)
			if err != nil {
				return "", err
			}
			if d != nil && d.Failure != nil {
				log += "\n" + d.Failure.Message
			}
			return contains(log, b.complaint())
		})
	}
	r.await(ctx, "the release is held: not tried again", func() (string, error) {
		s, err := host.status(ctx)
		if err != nil || s == nil {
			return "", err
		}
		if s.Phase != fleet.PhaseHeld {
			return "", fmt.Errorf("the agent says %s", s.Summary())
		}
		return s.Summary(), nil
	})
	release := ""
	if d != nil {
		release = d.Release.Name()
	}
	r.told(ctx, fleet.AlertDeployment, r.hosts()[0], release, p.at)
	if r.yard != nil {
		r.see("garrison explain says what to do", func() (string, error) {
			out, err := r.yard.run(ctx, drilled, "garrison", "explain")
			if err != nil {
				return "", err
			}
			return contains(out, "→")
		})
	}
	return nil
}

// standing is what a host runs and would boot.
func (r *run) standing(ctx context.Context, h observed) (string, error) {
	system, err := h.system(ctx)
	if err != nil {
		return "", err
	}
	if r.yard == nil {
		s, err := h.status(ctx)
		if err == nil && s != nil {
			system += " " + s.Systems.Profile
		}
		return system, err
	}
	name := h.(inYard).name
	profile, err := r.yard.run(ctx, name, "readlink", "-f", "/nix/var/nix/profiles/system")
	if err != nil {
		return "", err
	}
	entry, err := r.yard.world.hosts[name].ReadFile("/boot/garrison-entry")
	return strings.Join([]string{system, profile, strings.TrimSpace(string(entry))}, " "), err
}

// slowly pushes a change whose activation takes a while, and returns when that is under way.
func (r *run) slowly(ctx context.Context) (pushed, marker, error) {
	m := broken(drilled, breakSlow)
	p, err := r.put(ctx, m, "Drill: a slow activation")
	if err != nil {
		return p, m, err
	}
	r.await(ctx, "the activation is under way", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Phase != fleet.PhaseActivating || s.Target == nil || s.Target.Release.Source.Commit != p.commit) {
			err = errors.New(s.Summary())
		}
		if err != nil { // the log may still be of the last one
			return "", err
		}
		log, err := r.yard.run(ctx, drilled, "garrison", "logs")
		if err != nil {
			return "", err
		}
		return contains(log, breakSlow.complaint())
	})
	return p, m, nil
}

func agentKilled(ctx context.Context, r *run) error {
	p, m, err := r.slowly(ctx)
	if err != nil {
		return err
	}
	pid, err := r.yard.world.hosts[drilled].ServicePID(ctx, "agent")
	if err != nil {
		return err
	}
	if _, err := r.yard.run(ctx, drilled, "kill", "-KILL", fmt.Sprint(pid)); err != nil {
		return err
	}
	r.await(ctx, "the change is committed all the same", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

var errNotYet = errors.New("no deployment of it ended yet")

// committed says that a host has confirmed a change.
func committed(ctx context.Context, h observed, p pushed) (string, error) {
	d, err := h.deployment(ctx, p.commit)
	switch {
	case err != nil:
		return "", err
	case d == nil:
		return "", errNotYet
	case d.Result != fleet.Committed:
		return "", final{fmt.Errorf("its deployment ended as %s: %v", d.Result, d.Failure)}
	}
	return d.Release.Name(), nil
}

func powerCut(ctx context.Context, r *run) error {
	host := r.yard.world.hosts[drilled]
	_, before, err := r.boots(ctx)
	if err != nil {
		return err
	}
	p, m, err := r.slowly(ctx)
	if err != nil {
		return err
	}
	if err := host.Kill(); err != nil {
		return err
	}
	r.afterwards(func(ctx context.Context) error {
		if host.Running() {
			return nil
		}
		return host.Start(ctx)
	})
	r.see("what it would boot is the system before", func() (string, error) {
		entry, err := host.ReadFile("/boot/garrison-entry")
		if err == nil && strings.TrimSpace(string(entry)) != before {
			err = fmt.Errorf("it would boot %s, not %s", entry, before)
		}
		return before, err
	})
	if err := host.Start(ctx); err != nil {
		return err
	}
	r.await(ctx, "back again, it holds the release, and says why", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Phase != fleet.PhaseHeld || s.Failure == nil || s.Failure.Code != fleet.CodeInterrupted) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Failure.Message), nil
	})
	r.see("profile, boot entry and system are what they were", func() (string, error) {
		after, err := r.standing(ctx, r.host(drilled))
		if want := before + " " + before + " " + before; err == nil && after != want {
			err = fmt.Errorf("they are %s", after)
		}
		return "", err
	})
	r.see("somebody has it tried again", func() (string, error) { return r.confirm(ctx, drilled, "garrison retry") })
	r.await(ctx, "it is committed", func() (string, error) {
		text, err := committed(ctx, r.host(drilled), p)
		if errors.As(err, new(final)) { // the last one is still that which was interrupted
			err = errNotYet
		}
		return text, err
	})
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// boots are the profile and the boot entry of the drilled host.
func (r *run) boots(ctx context.Context) (profile, entry string, err error) {
	if profile, err = r.yard.run(ctx, drilled, "readlink", "-f", "/nix/var/nix/profiles/system"); err != nil {
		return "", "", err
	}
	b, err := r.yard.world.hosts[drilled].ReadFile("/boot/garrison-entry")
	return profile, strings.TrimSpace(string(b)), err
}
