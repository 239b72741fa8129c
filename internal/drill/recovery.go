package drill

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// recovery are the ways in which a person mends things by hand; the commands are those that OPERATIONS.md tells.
var recovery = []scenario{
	{name: "rollback", title: "garrison rollback: the system before, until a newer release", run: rollbackByHand},
	{name: "manual-switch", title: "a switch by hand (nixos-rebuild) beside a running agent is left alone until a newer release", run: func(ctx context.Context, r *run) error {
		return r.switched(ctx, "nix-env -p /nix/var/nix/profiles/system --set %[1]s && %[1]s/bin/switch-to-configuration switch")
	}},
	{name: "deploy-rs", title: "so is one by deploy-rs, which sets the profile and activates", run: func(ctx context.Context, r *run) error {
		return r.switched(ctx, "nix-env -p /nix/var/nix/profiles/system --set %[1]s && /nix/var/nix/profiles/system/bin/switch-to-configuration test && /nix/var/nix/profiles/system/bin/switch-to-configuration boot")
	}},
	{name: "agent-stopped", title: "with the agent stopped a host can be mended by hand; started again, it leaves that alone", run: agentStopped},
	{name: "state-lost", title: "an agent that lost all that it knew finds its way, and activates nothing anew", run: stateLost},
	{name: "hub-lost", title: "a hub that lost everything is told everything again", run: hubLost},
	{name: "cache-lost", title: "a cache that lost all but its key is filled again by the next release", run: cacheLost},
}

// before is the store path of the system that the drilled host had before the one that it runs.
func (r *run) before(ctx context.Context) (string, error) {
	if _, err := r.yard.putAndWait(ctx, "Drill: to be gone back from"); err != nil {
		return "", err
	}
	s, err := r.yard.status(ctx, drilled)
	if err == nil && (s.Last == nil || s.Last.Previous == "") {
		err = errors.New("the host had no system before")
	}
	if err != nil {
		return "", err
	}
	return s.Last.Previous, nil
}

// putAndWait pushes a change and waits until all hosts have it.
func (y *yard) putAndWait(ctx context.Context, subject string) (pushed, error) {
	p, err := y.put(ctx, newMarker(), subject)
	if err != nil {
		return p, err
	}
	return p, y.converged(ctx, p.commit)
}

// runs checks what the drilled host runs and would boot.
func (r *run) runs(ctx context.Context, name, system string) {
	r.await(ctx, name, func() (string, error) { return system, r.stands(ctx, system) })
}

// stands says what else than a system the drilled host runs, or would boot.
func (r *run) stands(ctx context.Context, system string) error {
	at, err := r.standing(ctx, r.host(drilled))
	if want := system + " " + system + " " + system; err == nil && at != want {
		err = fmt.Errorf("system, profile and boot entry are %s, not %s", at, system)
	}
	return err
}

// newerTakesOver pushes a change, which ends what somebody chose.
func (r *run) newerTakesOver(ctx context.Context) error {
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: a newer release")
	if err != nil {
		return err
	}
	r.await(ctx, "a newer release takes over", func() (string, error) { return committed(ctx, r.host(drilled), p) })
	r.see("the host says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(drilled), m) })
	return nil
}

// overruled checks that the agent says that somebody chose a system, has looked at git again since, and leaves that as it is.
func (r *run) overruled(ctx context.Context, system string) {
	since := time.Now()
	r.await(ctx, "the agent says so, looks at git again, and leaves it alone", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		if err == nil && (s.Phase != fleet.PhaseOverruled || !s.Remote.LastOK.After(since)) {
			err = fmt.Errorf("phase %s: %s", s.Phase, s.Summary())
		}
		if err == nil {
			err = r.stands(ctx, system)
		}
		return s.Summary(), err
	})
}

func rollbackByHand(ctx context.Context, r *run) error {
	before, err := r.before(ctx)
	if err != nil {
		return err
	}
	r.see("it is ordered", func() (string, error) { return r.confirm(ctx, drilled, "garrison rollback --reason 'a drill'") })
	r.runs(ctx, "the host runs the system before, and would boot it", before)
	r.overruled(ctx, before)
	return r.newerTakesOver(ctx)
}

// switched switches to the system before by commands that a person, or deploy-rs, runs.
func (r *run) switched(ctx context.Context, command string) error {
	before, err := r.before(ctx)
	if err != nil {
		return err
	}
	r.see("it is done", func() (string, error) { return r.confirm(ctx, drilled, fmt.Sprintf(command, before)) })
	r.runs(ctx, "the host runs that, and would boot it", before)
	r.overruled(ctx, before)
	return r.newerTakesOver(ctx)
}

func agentStopped(ctx context.Context, r *run) error {
	before, err := r.before(ctx)
	if err != nil {
		return err
	}
	host := r.yard.world.hosts[drilled]
	r.afterwards(func(ctx context.Context) error { return host.StartService(ctx, "agent") })
	r.see("the agent is stopped", func() (string, error) {
		r.Commands = append(r.Commands, "systemctl stop garrison-agent")
		return "", host.StopService(ctx, "agent")
	})
	r.see("the host is mended by hand", func() (string, error) {
		return r.confirm(ctx, drilled, fmt.Sprintf("nix-env -p /nix/var/nix/profiles/system --set %[1]s && %[1]s/bin/switch-to-configuration switch", before))
	})
	r.see("the agent is started", func() (string, error) {
		r.Commands = append(r.Commands, "systemctl start garrison-agent")
		return "", host.StartService(ctx, "agent")
	})
	r.runs(ctx, "the host runs what it was mended to, and would boot it", before)
	r.overruled(ctx, before)
	return r.newerTakesOver(ctx)
}

func stateLost(ctx context.Context, r *run) error {
	host := r.yard.world.hosts[drilled]
	before, err := r.standing(ctx, r.host(drilled))
	if err != nil {
		return err
	}
	r.afterwards(func(ctx context.Context) error { return host.StartService(ctx, "agent") })
	if err := host.StopService(ctx, "agent"); err != nil {
		return err
	}
	r.Commands = append(r.Commands, "systemctl stop garrison-agent")
	r.see("everything that the agent knew is removed", func() (string, error) { return r.confirm(ctx, drilled, "rm -rf /var/lib/garrison") })
	r.Commands = append(r.Commands, "systemctl start garrison-agent")
	if err := host.StartService(ctx, "agent"); err != nil {
		return err
	}
	r.await(ctx, "it finds the newest release, and that the host runs it: nothing is activated", func() (string, error) {
		s, err := r.yard.status(ctx, drilled)
		switch {
		case err == nil && s.Last != nil:
			err = final{fmt.Errorf("it has deployed %s anew", s.Last.Release.Name())}
		case err == nil && (s.Newest == nil || !s.Converged()):
			err = errors.New(s.Summary())
		}
		return s.Summary(), err
	})
	r.see("profile, boot entry and system are what they were", func() (string, error) {
		after, err := r.standing(ctx, r.host(drilled))
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		return "", err
	})
	return r.newerTakesOver(ctx)
}

func hubLost(ctx context.Context, r *run) error {
	r.see("everything that the hub knew is removed", func() (string, error) {
		if err := r.yard.world.hosts["forge"].StopService(ctx, "hub"); err != nil {
			return "", err
		}
		_, err := r.confirm(ctx, "forge", "rm -rf /var/lib/garrison-hub")
		return "", errors.Join(err, r.yard.world.hosts["forge"].StartService(ctx, "hub"))
	})
	for _, h := range r.hosts() {
		r.await(ctx, "the hub knows again how "+h+" is", func() (string, error) {
			var s fleet.Status
			err := r.yard.get(ctx, "/api/v1/hosts/"+h, &s)
			if err == nil && !s.Converged() {
				err = errors.New(s.Summary())
			}
			return s.Summary(), err
		})
	}
	return r.newerTakesOver(ctx)
}
