package drill

import (
	"context"
	"fmt"
	"slices"
)

// happy is the path of a visible change.
var happy = []scenario{{name: "happy-path", title: "a visible change travels from push to the host, with no hand on it", live: true, run: happyPath}}

func happyPath(ctx context.Context, r *run) error {
	host := r.hosts()[0]
	m := newMarker()
	p, err := r.put(ctx, m, "Drill: a visible change")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.await(ctx, host+" says what was pushed", func() (string, error) { return saysMarker(ctx, r.host(host), m) })
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
	{name: "build-fails", title: "a change that evaluates but does not build is not released", live: true, run: func(ctx context.Context, r *run) error {
		return r.stopsInCI(ctx, breakBuild)
	}},
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
	r.see("its log says why", func() (string, error) { return contains(v.log+v.why, b.complaint()) })
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
