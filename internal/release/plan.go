package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/secret"
)

// ChangesSchema is the schema of Changes.
const ChangesSchema = 1

// Changes are what a release of a commit would change for the fleet.
type Changes struct {
	Schema  int            `json:"schema"`
	Base    ChangesOf      `json:"base"`
	Source  ChangesOf      `json:"source"`
	Hosts   []HostChange   `json:"hosts"` // all of the fleet's, sorted
	Secrets []SecretChange `json:"secrets"`
	Rotate  []string       `json:"rotate"` // values to change: somebody may not read them any more
	Gone    []string       `json:"gone"`   // secrets that no host wants any more
	Kept    int            `json:"kept"`   // secrets that stay as they are
	// Rings are those after it, in the order in which they get releases; RingsChanged says what is not as before.
	Rings        []RingPlan `json:"rings,omitempty"`
	RingsChanged []string   `json:"ringsChanged,omitempty"`
}

// RingPlan is a ring and who is in it.
type RingPlan struct {
	fleet.Ring
	Hosts []string `json:"hosts"`
}

// ChangesOf says what is compared.
type ChangesOf struct {
	Release int    `json:"release,omitempty"` // 0 for a commit, or for nothing at all
	Commit  string `json:"commit,omitempty"`  // of the source branch
	Subject string `json:"subject,omitempty"`
}

// What becomes of a host.
const (
	HostAdded     = "added"
	HostRemoved   = "removed"
	HostChanged   = "changed"
	HostUnchanged = "unchanged"
)

// HostChange is what becomes of one host.
type HostChange struct {
	Name   string        `json:"name"`
	Change string        `json:"change"`
	Manual bool          `json:"manual,omitempty"` // no agent deploys it
	Before string        `json:"before,omitempty"` // toplevels
	After  string        `json:"after,omitempty"`
	Diff   *closure.Diff `json:"diff,omitempty"`    // of the closures, for a changed host where both are known
	Why    string        `json:"unknown,omitempty"` // why there is no Diff
}

// SecretChange is a file that would be re-keyed.
type SecretChange struct {
	Path  string   `json:"path"`
	Why   string   `json:"why"`
	Hosts []string `json:"hosts"`
	Keys  []string `json:"recipients"` // of the hosts; of a sops file, as they stand in it
}

// Empty says whether a release would change nothing for any host.
func (c *Changes) Empty() bool {
	return len(c.Secrets)+len(c.Gone)+len(c.Rotate)+len(c.RingsChanged) == 0 &&
		!slices.ContainsFunc(c.Hosts, func(h HostChange) bool { return h.Change != HostUnchanged })
}

// PlanOptions say what to compare.
type PlanOptions struct {
	Options        // Repo, Remote, Source (a commit in Repo), Jobs, EvalMemory, Nix, Log, AllowedSigners or SigningKey
	Base    string // a release's tag, or a commit of the source branch; "" means the newest release
	NoBuild bool   // build nothing: then there are no closures to compare
	// Closure asks a cache for the closure of a system that is not in the store; nil asks none.
	Closure func(Config) (func(ctx context.Context, tops []string) (have []nar.PathInfo, missing []string, err error), error)
}

// Plan tells what a release of Source would change. It reads no secret and publishes nothing. Secrets that would be re-keyed stand in
// the compared systems as they are on the source branch, so a host that gets another secret is shown as changed.
func Plan(ctx context.Context, o PlanOptions) (*Changes, error) {
	unlock, err := lockRepo(o.Repo)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s := &state{Options: o.Options.withLog(), outcome: Outcome{Rekeyed: []string{}}}
	if err := fetch(ctx, s.Repo, s.Remote); err != nil {
		return nil, err
	}
	if err := s.readSource(ctx, "a commit "+o.Source, o.Source); err != nil {
		return nil, err
	}
	base, err := s.findBase(ctx, o.Base)
	if err != nil {
		return nil, err
	}
	after, in, err := s.systemsOf(ctx, s.source)
	if err != nil {
		return nil, err
	}
	c := &Changes{Schema: ChangesSchema, Base: base.of, Source: ChangesOf{Commit: s.source, Subject: s.info.Subject},
		Hosts: []HostChange{}, Secrets: []SecretChange{}, Rotate: []string{}, Gone: []string{}}
	if err := c.secretsFrom(in, s.prev); err != nil {
		return nil, err
	}
	c.hostsFrom(base.systems, after, s.config.Hosts.Manual)
	if c.Rings, err = ringsOf(s.config, after); err != nil {
		return nil, err
	}
	c.RingsChanged = ringChanges(base.rings, c.Rings)
	if !o.NoBuild {
		err = o.compare(ctx, s, c, base.systems, after)
	}
	return c, err
}

// base is what is compared with.
type base struct {
	of      ChangesOf
	systems map[string]nix.Host // only OutPath where it is a release; DrvPath too where it was evaluated
	rings   []RingPlan
}

// findBase reads the release, or evaluates the commit, that the plan starts from. It sets s.prev to the newest release.
func (s *state) findBase(ctx context.Context, name string) (base, error) {
	b := base{systems: map[string]nix.Host{}}
	if err := s.findPrevious(ctx); err != nil {
		return b, err
	}
	if s.prev != nil && s.AllowedSigners == "" && s.SigningKey == "" {
		s.Log.Warn("the signatures of releases are not checked: no keys were given")
	}
	from := s.prev
	if _, isTag := fleet.TagNumber(name); isTag {
		tags, err := s.Repo.Refs(ctx, tagsRef)
		if err != nil {
			return b, err
		}
		ref, there := tags[name]
		if !there {
			return b, fleet.Errorf("", fleet.CodeNotFound, "there is no %s", name).WithHint("git ls-remote --tags shows which there are")
		}
		if from, err = s.readRelease(ctx, name, ref); err != nil {
			return b, err
		}
	} else if name != "" {
		return s.evaluateBase(ctx, name)
	}
	if from == nil {
		return b, nil
	}
	b.of = ChangesOf{Release: from.manifest.Number, Commit: from.manifest.Source.Commit, Subject: from.manifest.Source.Subject}
	for h, e := range from.manifest.Hosts {
		b.systems[h] = nix.Host{Name: h, OutPath: e.OutPath}
	}
	b.rings = ringsIn(from.manifest)
	return b, nil
}

func (s *state) evaluateBase(ctx context.Context, commit string) (base, error) {
	b := base{systems: map[string]nix.Host{}}
	id, ok, err := s.Repo.Resolve(ctx, commit+"^{commit}")
	if err != nil {
		return b, err
	}
	if !ok {
		return b, fleet.Errorf("", fleet.CodeNotFound, "there is no release and no commit %q to compare with", commit)
	}
	info, err := s.Repo.CommitInfo(ctx, id)
	if err != nil {
		return b, err
	}
	b.of = ChangesOf{Commit: id, Subject: info.Subject}
	if b.systems, _, err = s.systemsOf(ctx, id); err != nil {
		return b, err
	}
	config, err := s.readConfig(ctx, id)
	if err == nil {
		b.rings, err = ringsOf(config, b.systems)
	}
	return b, err
}

// systemsOf evaluates a commit with the released secrets in place, as far as they are unchanged.
func (s *state) systemsOf(ctx context.Context, commit string) (map[string]nix.Host, secret.Input, error) {
	at := *s
	at.source = commit
	var err error
	if at.blobs, err = s.Repo.Blobs(ctx, commit); err != nil {
		return nil, secret.Input{}, err
	}
	if err := at.keepSecrets(ctx); err != nil {
		return nil, secret.Input{}, err
	}
	if err := at.compose(ctx); err != nil {
		return nil, secret.Input{}, err
	}
	found, err := at.evaluate(ctx)
	if err != nil {
		return nil, secret.Input{}, err
	}
	in, err := wanted(found, at.config, at.rules)
	in.Blobs = at.blobs
	systems := map[string]nix.Host{}
	for _, h := range found.hosts {
		systems[h.Name] = h
	}
	return systems, in, err
}

// secretsFrom plans the re-keying against the newest release.
func (c *Changes) secretsFrom(in secret.Input, prev *previous) error {
	if prev != nil {
		in.Previous = &prev.secrets
	}
	plan, err := secret.MakePlan(in)
	if err != nil {
		return err
	}
	for _, r := range plan.Rekey {
		c.Secrets = append(c.Secrets, SecretChange{Path: r.Path, Why: string(r.Why), Hosts: r.Hosts, Keys: r.Recipients})
	}
	for _, d := range plan.Dropped {
		c.Rotate = append(c.Rotate, d.String())
	}
	c.Gone = append(c.Gone, plan.Gone...)
	c.Kept = len(plan.Keep)
	return nil
}

// hostsFrom lists every host of either side.
func (c *Changes) hostsFrom(before, after map[string]nix.Host, manual []string) {
	for name, now := range after {
		h := HostChange{Name: name, Change: HostChanged, After: now.OutPath, Manual: now.Kind != nix.NixOS || slices.Contains(manual, name)}
		was, stayed := before[name]
		h.Before = was.OutPath
		switch {
		case h.Manual && !stayed:
			continue // a release says nothing of it, so there is nothing to compare it with
		case !stayed:
			h.Change = HostAdded
		case h.Before == h.After:
			h.Change = HostUnchanged
		}
		c.Hosts = append(c.Hosts, h)
	}
	for name, was := range before {
		if _, stays := after[name]; !stays {
			c.Hosts = append(c.Hosts, HostChange{Name: name, Change: HostRemoved, Before: was.OutPath})
		}
	}
	slices.SortFunc(c.Hosts, func(a, b HostChange) int { return strings.Compare(a.Name, b.Name) })
}

// compare builds what changed and adds the difference of the closures.
func (o PlanOptions) compare(ctx context.Context, s *state, c *Changes, before, after map[string]nix.Host) error {
	var drvs []string
	for _, h := range c.Hosts {
		if h.Change == HostChanged {
			for _, host := range []nix.Host{before[h.Name], after[h.Name]} {
				if host.DrvPath != "" && host.Kind == nix.NixOS {
					drvs = append(drvs, host.DrvPath)
				}
			}
		}
	}
	unbuilt := map[string]bool{}
	why := error(nil)
	if len(drvs) > 0 {
		slices.Sort(drvs)
		if why = s.Nix.Build(ctx, slices.Compact(drvs), ""); why != nil {
			if ctx.Err() != nil {
				return why
			}
			var err error
			if unbuilt, err = s.Nix.Unbuilt(ctx, drvs); err != nil {
				return err
			}
		}
	}
	var tops []string
	for _, h := range c.Hosts {
		if h.Change == HostChanged && !unbuilt[after[h.Name].DrvPath] {
			tops = append(tops, h.Before, h.After)
		}
	}
	closures, err := o.closures(ctx, s, tops)
	if err != nil {
		return err
	}
	for i := range c.Hosts {
		h := &c.Hosts[i]
		if h.Change != HostChanged {
			continue
		}
		if unbuilt[after[h.Name].DrvPath] {
			h.Why = "it does not build:\n" + why.Error()
			continue
		}
		was, err := closures(h.Before)
		if err != nil {
			h.Why = err.Error()
			continue
		}
		now, err := closures(h.After)
		if err != nil {
			h.Why = err.Error()
			continue
		}
		diff := closure.Compare(was, now)
		h.Diff = &diff
	}
	return ctx.Err()
}

// closures asks for all closures at once, the store for those that it has and the cache for the others: hosts have most of them in common. What it
// returns tells a system's, or why it is not known.
func (o PlanOptions) closures(ctx context.Context, s *state, tops []string) (func(top string) ([]closure.Path, error), error) {
	slices.Sort(tops)
	var here, there []string
	for _, top := range slices.Compact(tops) {
		ok, err := s.Nix.Valid(ctx, top)
		if err != nil {
			return nil, err
		}
		if ok {
			here = append(here, top)
		} else {
			there = append(there, top)
		}
	}
	paths, err := s.Nix.Closure(ctx, here)
	if err != nil {
		return nil, err
	}
	var unknown error
	if len(there) > 0 {
		var have []nar.PathInfo
		have, unknown = o.ask(ctx, s, there)
		paths = append(paths, have...)
	}
	byPath := index(paths)
	return func(top string) ([]closure.Path, error) {
		all, missing := closureIn(byPath, top)
		if missing != "" {
			err := unknown
			if err == nil {
				err = fmt.Errorf("the cache does not have %s", missing)
			}
			return nil, fmt.Errorf("the closure of %s is not known: %w", top, err)
		}
		list := make([]closure.Path, len(all))
		for i, p := range all {
			list[i] = closure.Path{StorePath: p.StorePath, NarSize: p.NarSize}
		}
		return list, nil
	}, nil
}

// ask asks the cache for closures.
func (o PlanOptions) ask(ctx context.Context, s *state, tops []string) ([]nar.PathInfo, error) {
	if o.Closure == nil {
		return nil, errors.New("no cache to ask")
	}
	ask, err := o.Closure(s.config)
	if err != nil {
		return nil, err
	}
	have, _, err := ask(ctx, tops)
	return have, err
}
