package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// happy is the path of a visible change.
var happy = []scenario{{name: "happy-path", title: "a visible change travels from push to the host, with no hand on it", live: true, run: happyPath}}

// happyPath is repeated as often as asked; the figures are of all repetitions, the close look at what came of it is of the last one.
func happyPath(ctx context.Context, r *run) error {
	host := r.hosts()[0]
	var journeys []journey
	for i := range max(1, r.Repeat) {
		m := newMarker()
		p, err := r.put(ctx, m, fmt.Sprintf("Drill: a visible change (%d)", i+1))
		if err != nil {
			return err
		}
		var v verdict
		r.await(ctx, "CI releases it", func() (string, error) {
			text, err := r.released(ctx, p)
			if err == nil {
				v, err = r.ci(ctx, p.commit)
			}
			return text, err
		})
		if r.Result == fleet.DrillFail {
			break // it will not arrive
		}
		ciAt := time.Now()
		r.await(ctx, host+" says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(host), m) })
		seen := time.Now()
		if r.live != nil && !r.live.agent { // nobody says when it was committed
			r.see("in time", func() (string, error) { return r.inTime(seen.Sub(p.at)) })
			if journeys = append(journeys, seenJourney(p, ciAt, seen)); r.Result == fleet.DrillFail {
				break
			}
			continue
		}
		var d *fleet.Deployment
		r.await(ctx, "and has committed it, in time", func() (string, error) {
			var err error
			if d, err = r.host(host).deployment(ctx, p.commit); err != nil || d == nil {
				return "", errors.Join(errNotYet, err)
			}
			if d.Result != fleet.Committed {
				return "", final{fmt.Errorf("its deployment ended as %s", d.Result)}
			}
			return r.inTime(d.EndedAt.Sub(p.at))
		})
		if d != nil {
			journeys = append(journeys, journeyOf(p, v.run, d))
		}
		if r.Result == fleet.DrillFail {
			break
		}
	}
	r.report.Timing = timing(journeys, r.Limit)
	switch {
	case r.Result == fleet.DrillFail:
	case r.yard != nil:
		return r.closeLook(ctx)
	case r.live.Cache != "":
		r.see("the system's closure is in the cache, whole and signed", func() (string, error) {
			system, err := r.host(host).system(ctx)
			if err != nil {
				return "", err
			}
			return r.live.seeCache(ctx, system)
		})
	}
	return nil
}

// inTime says whether the change came within the limit.
func (r *run) inTime(took time.Duration) (string, error) {
	if took > r.Limit {
		return "", final{fmt.Errorf("it took %.1f s, and may take %s s", took.Seconds(), plainly(r.Limit.Seconds()))}
	}
	return fmt.Sprintf("%.2f s after the push; limit %s s", took.Seconds(), plainly(r.Limit.Seconds())), nil
}

// closeLook checks what came of the last change from all sides.
func (r *run) closeLook(ctx context.Context) error {
	y := r.yard
	if err := y.converged(ctx, y.last); err != nil {
		return err
	}
	c := &change{commit: y.last, hosts: map[string]fleet.Deployment{}}
	for _, h := range r.hosts() {
		d, err := r.host(h).deployment(ctx, y.last)
		if err != nil || d == nil {
			return fmt.Errorf("%s has no deployment of %.12s: %w", h, y.last, err)
		}
		c.hosts[h] = *d
	}
	r.see("the tag is signed with the release key", func() (string, error) { return y.seeSignature(ctx, c.hosts[drilled].Release.Number) })
	r.see("every followed host committed it", func() (string, error) { return y.allCommitted(c) })
	r.see("profile and boot entry are the released system's", func() (string, error) { return y.seeSystems(c) })
	r.see("each secret is decrypted on the hosts it is for", func() (string, error) { return y.seeSecrets() })
	r.see("and can be decrypted by no other host", func() (string, error) { return y.seeNoOtherSecrets(ctx) })
	r.see("the closure of each system that CI builds is in the cache, whole and signed", func() (string, error) { return y.seeCacheOf(ctx, c, builtByCI(r.hosts())...) })
	r.see("the host that is deployed by hand was left alone", func() (string, error) { return y.seeManual(ctx, c.hosts[drilled].Release.Number) })
	return nil
}

// released waits for CI's word.
func (r *run) released(ctx context.Context, p pushed) (string, error) {
	v, err := r.ci(ctx, p.commit)
	switch {
	case err != nil:
		return "", err
	case v.state == ciFailed:
		return "", final{fmt.Errorf("CI failed%s", suffix(v.why))}
	case v.state != ciReleased:
		return "", fmt.Errorf("CI says %q%s", v.state, suffix(v.why))
	case v.run != nil && v.run.Release != nil:
		return v.run.Release.Name(), nil
	}
	return "released", nil
}

func saysMarker(ctx context.Context, h observed, m marker) (string, error) {
	got, err := h.marker(ctx)
	if err == nil && got != m.Text {
		err = fmt.Errorf("/etc/gitops-test says %q, not %q", got, m.Text)
	}
	return firstLine(got), err
}

// failing are changes that must not arrive, or must not stay.
var failing = []scenario{
	{name: "check-fails", title: "a change that breaks the check leaves the release branch alone", live: true, run: func(ctx context.Context, r *run) error {
		return r.stopsInCI(ctx, breakEvaluate)
	}},
	{name: "host-build-fails", title: "a change that evaluates but does not build on the host that builds itself leaves it as it was", missing: onlySandbox, run: hostBuildFails},
	{name: "build-fails", title: "a change that evaluates but does not build is not released", live: true, run: func(ctx context.Context, r *run) error {
		return r.stopsInCI(ctx, breakBuild)
	}},
}

func onlySandbox(p place) string {
	if _, is := p.(*yard); !is {
		return "needs a host that builds its system itself"
	}
	return ""
}

// hostBuildFails breaks the build of the host that CI cannot build for.
func hostBuildFails(ctx context.Context, r *run) error {
	host := r.host(selfBuilder)
	before, err := r.standing(ctx, host)
	if err != nil {
		return err
	}
	p, err := r.put(ctx, broken(selfBuilder, breakBuild), "Drill: does not build on the host")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it: it cannot build for that host", func() (string, error) { return r.released(ctx, p) })
	r.await(ctx, "the host cannot build it, and holds the release", func() (string, error) {
		s, err := r.yard.status(ctx, selfBuilder)
		if err == nil && (s.Phase != fleet.PhaseHeld || s.Failure == nil || s.Failure.Code != fleet.CodeBuild) {
			err = errors.New(s.Summary())
		}
		if err != nil {
			return "", err
		}
		return firstLine(s.Failure.Message), nil
	})
	r.see("profile, boot entry and system are what they were", func() (string, error) {
		after, err := r.standing(ctx, host)
		if err == nil && after != before {
			err = fmt.Errorf("before: %s, after: %s", before, after)
		}
		return "", err
	})
	r.see("garrison status shows the builder's error, and so does its log", func() (string, error) {
		s, err := r.yard.status(ctx, selfBuilder)
		if err != nil {
			return "", err
		}
		log, err := r.yard.world.hosts[selfBuilder].ReadFile("/var/lib/garrison/build.log")
		if err == nil {
			_, err = contains(string(log), breakBuild.complaint())
		}
		if err != nil {
			return "", err
		}
		return contains(s.Failure.Message, breakBuild.complaint())
	})
	r.see("garrison explain says what failed, and what to do", func() (string, error) {
		out, err := r.yard.run(ctx, selfBuilder, "garrison", "explain")
		if err == nil {
			_, err = contains(out, "→")
		}
		if err != nil {
			return "", err
		}
		return contains(out, "which failed here for a reason of its own")
	})
	r.told(ctx, fleet.AlertDeployment, selfBuilder, "", p.at)
	return nil
}

// stopsInCI pushes what CI must not let through.
func (r *run) stopsInCI(ctx context.Context, b breakage) error {
	host := r.hosts()[0]
	before, err := r.snapshot(ctx)
	if err != nil {
		return err
	}
	p, err := r.put(ctx, broken(host, b), "Drill: "+string(b)+" is broken")
	if err != nil {
		return err
	}
	var v verdict
	r.await(ctx, "CI fails", func() (string, error) {
		var err error
		if v, err = r.ci(ctx, p.commit); err == nil && v.state != ciFailed {
			err = fmt.Errorf("CI says %q", v.state)
		}
		return firstLine(v.why), err
	})
	if v.run != nil { // of a forge's CI nobody has the log
		r.see("its log says why", func() (string, error) { return contains(v.log+v.why, b.complaint()) })
	}
	r.told(ctx, fleet.AlertRelease, "", "", p.at)
	r.see("release branch and tags are byte-identical, the hosts as they were", func() (string, error) {
		after, err := r.snapshot(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return "", err
	})
	return nil
}

// snapshot is what a change that is stopped must leave alone.
func (r *run) snapshot(ctx context.Context) (string, error) {
	all, err := r.refs(ctx)
	if err != nil {
		return "", err
	}
	for _, h := range slices.Sorted(slices.Values(r.hosts())) {
		system, err := r.host(h).system(ctx)
		if err != nil {
			return "", err
		}
		text, err := r.host(h).marker(ctx)
		if err != nil {
			return "", err
		}
		all += fmt.Sprintf("\n%s %s %q", h, system, text)
	}
	return all, nil
}
