package rollout

import (
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// member is a host, with how well it is heard.
type member struct {
	*Host // never nil
	name  string
	step  *step     // nil if the newest release has it in none
	last  time.Time // when it last reported, zero for never
	heard hearing
	skew  time.Duration // what its clock is behind
}

// hearing is whether the last that a host said is worth something.
type hearing int

const (
	fresh  hearing = iota // it is
	unsure                // it is overdue, but the hub has not listened for long
	lost                  // it is overdue
)

// Bounds: what a host may say of when it reports next; what its clock may differ before that counts; how many hosts words name.
const (
	mostPoll  = 24 * time.Hour
	mostSkew  = time.Minute
	mostNamed = 3
)

var nobody = &Host{}

func (p *plan) member(name string, h *Host) member {
	m := member{name: name, Host: h}
	if h == nil || h.Status.Seen == nil || h.Status.Seen.At.IsZero() {
		if m.heard = lost; h == nil {
			m.Host = nobody
		}
	} else {
		m.last = h.Status.Seen.At
		if skew := m.last.Sub(h.Status.At); skew.Abs() > mostSkew {
			m.skew = skew
		}
		due := m.last.Add(min(max(0, h.Status.NextPoll.Sub(h.Status.At)), mostPoll) + p.Silent)
		if p.Now.Before(due) {
			p.quiet = earlier(p.quiet, due)
			return m
		}
		m.heard = lost
	}
	if listened := p.Heard.Add(p.Silent); p.Now.Before(listened) {
		m.heard = unsure
		p.quiet = earlier(p.quiet, listened)
	}
	return m
}

// at is a time that the host told, by the hub's clock.
func (m *member) at(t time.Time) time.Time {
	if t = t.Add(m.skew); !m.last.IsZero() && t.After(m.last) {
		return m.last
	}
	return t
}

func (m *member) isTroubled() bool {
	s := &m.Status
	return len(m.Faults) > 0 || s.Phase == fleet.PhaseHeld || s.Refused != nil || s.Failure != nil || s.Reboot != nil && s.Reboot.Failure != nil
}

// verdict is how a ring's batches, as far as they were looked at, do with a release.
type verdict struct {
	release                             int
	done, failed, silent, away, pending fleet.Named
	gone                                []*member // the first that failed, or were silent
	wait                                []*member // the first that are pending
	since                               time.Time // when the last of those that are done had it, or was not well
	heard                               time.Time // the oldest word of those that are done
	ungiven                             bool      // not all of these batches were given it
	hosts                               int       // that it names there
}

// class is where a host is with a release.
type class int

const (
	nothing class = iota // it does not count: not named, let off, or past it
	done
	failed
	silent
	away
	pending
)

// judge looks at how the first batches of a ring do with release n. Where that went on already (over), a host that had it once is done.
func (p *plan) judge(r *ring, n, batches int, over bool) verdict {
	v := verdict{release: n}
	of := p.Releases[n]
	for _, s := range r.steps[:batches] {
		if s.tip < n {
			v.ungiven = true
			continue
		}
		given := p.givenAt(s, n)
		for _, m := range s.members {
			e, named := of.Hosts[m.name]
			if !named {
				continue
			}
			v.hosts++
			c, since := p.classify(m, e, n, given)
			if over {
				c = m.afterwards(c, e.OutPath)
			}
			v.add(m, c)
			if c == done {
				v.since = later(v.since, since)
				v.heard = earlier(v.heard, m.last)
			}
		}
	}
	for _, m := range p.troubled {
		here := m.step != nil && m.step.ring == r && m.step.Batch <= batches && m.step.tip >= n
		if e, named := of.Hosts[m.name]; named && !here && p.charged(m, e, r) && p.failedWith(m, n, e.OutPath) {
			v.add(m, failed)
		}
	}
	return v
}

// stops says whether more hosts of some ring failed with release n than may: then it goes no further, wherever it is.
func (p *plan) stops(n int) bool {
	of := p.Releases[n]
	for _, r := range p.rings {
		count := 0
		for _, m := range p.troubled {
			if e, named := of.Hosts[m.name]; named && p.charged(m, e, r) && p.failedWith(m, n, e.OutPath) {
				count++
			}
		}
		if count > r.Failures {
			return true
		}
	}
	return false
}

func (p *plan) failedWith(m *member, n int, system string) bool {
	at, did := m.failure(n, system)
	return did && !p.forgiven(n, at)
}

// charged says whether a host's failure with a release counts in ring r: the one that it is in, or was in by that release; the first,
// if neither is there any more.
func (p *plan) charged(m *member, then fleet.Entry, r *ring) bool {
	if m.step != nil && m.step.ring == r || then.Ring == r.Name {
		return true
	}
	if m.step != nil || r.index > 0 {
		return false
	}
	for _, other := range p.rings {
		if other.Name == then.Ring {
			return false
		}
	}
	return true
}

func (v *verdict) add(m *member, c class) {
	list, names := (*fleet.Named)(nil), (*[]*member)(nil)
	switch c {
	case nothing:
		return
	case done:
		list = &v.done
	case failed:
		list, names = &v.failed, &v.gone
	case silent:
		list, names = &v.silent, &v.gone
	case away:
		list = &v.away
	case pending:
		list, names = &v.pending, &v.wait
	}
	if list.Add(m.name); names != nil && len(*names) < mostNamed {
		*names = append(*names, m)
	}
}

// classify says where a host is with release n, that its step was given at a time; done since when.
func (p *plan) classify(m *member, e fleet.Entry, n int, given time.Time) (class, time.Time) {
	if at, did := m.failure(n, e.OutPath); did {
		if p.forgiven(n, at) {
			return nothing, at
		}
		return failed, at
	}
	since, has, skipped := m.has(n, e.OutPath)
	switch {
	case skipped:
		return nothing, since
	case e.Error != "": // CI could not build it, and left it what it had: that it is well says nothing
		return nothing, since
	case m.heard == unsure:
		return pending, since
	case m.heard == lost && m.knew(n, given) && !p.forgiven(n, m.last):
		return silent, since
	case m.heard == lost:
		return away, since
	case has && m.well(e.OutPath, p.Now):
		return done, m.at(since)
	}
	return pending, since
}

// afterwards is the class of a host where the release went on already: what becomes of the host later is not the roll-out's.
func (m *member) afterwards(c class, system string) class {
	switch a := m.Status.Active; {
	case c != silent && c != pending, m.Status.Phase == fleet.PhaseReboot && a != nil && a.OutPath == system:
		return c
	case a != nil && a.OutPath == system:
		return done
	}
	for _, t := range m.Took {
		if t.OutPath == system {
			return done
		}
	}
	return c
}

// knew says whether the host was heard of after its step was given release n.
func (m *member) knew(n int, given time.Time) bool {
	newest := m.Status.Newest
	return m.last.After(given) || newest != nil && newest.Number >= n
}

// forgiven says whether somebody let the roll-out go on in spite of what happened with release n until then.
func (p *plan) forgiven(n int, at time.Time) bool {
	o := p.Ledger.Resumed
	return o != nil && (o.Release == 0 || n <= o.Release) && !at.After(o.At)
}

// failure says when the host failed with release n, that has that system for it, if it did and has not had it since.
func (m *member) failure(n int, system string) (at time.Time, failed bool) {
	for _, f := range m.Faults {
		if f.Release == n && !m.tookAfter(f.At, system) {
			at, failed = later(at, f.At), true
		}
	}
	about := func(t *fleet.Target) bool { return t != nil && (t.Release.Number == n || t.OutPath == system) }
	s := &m.Status
	switch {
	case s.Phase == fleet.PhaseHeld && about(s.Target):
		at, failed = later(at, s.Since), true
	case s.Last != nil && s.Last.Result == fleet.RollbackFailed && s.Failure != nil && s.Last.Release.Number == n:
		at, failed = later(at, s.Last.EndedAt), true
	case s.Reboot != nil && s.Reboot.Failure != nil && about(s.Active):
		at, failed = later(at, s.Since), true
	case s.Refused != nil && m.step != nil && m.step.tip == n && (s.Newest == nil || s.Newest.Number < n): // what its branch points at
		at, failed = later(at, s.Refused.Since), true
	}
	return m.at(at), failed
}

// tookAfter says whether the host confirmed the system after that time.
func (m *member) tookAfter(at time.Time, system string) bool {
	if a := m.Status.Active; a != nil && a.OutPath == system && a.At.After(at) {
		return true
	}
	for _, t := range m.Took {
		if t.OutPath == system && t.At.After(at) {
			return true
		}
	}
	return false
}

// has says since when the host has release n, that has that system for it, by the host's clock; or that it went past it to a newer one.
func (m *member) has(n int, system string) (since time.Time, has, skipped bool) {
	s := &m.Status
	switch a := s.Active; {
	case a == nil:
		return since, false, false
	case a.OutPath == system:
		if since = a.At; s.Phase == fleet.PhaseIdle {
			since = later(since, s.Since)
		}
	case a.Release.Number <= n:
		return since, false, false
	default:
		k := 0
		for k < len(m.Took) && m.Took[k].Release < n {
			k++
		}
		switch {
		case k < len(m.Took) && m.Took[k].OutPath == system:
			since = m.Took[k].At
		case k > 0 && m.Took[k-1].OutPath == system:
			since = m.Took[k-1].At
		default:
			return since, false, true
		}
	}
	for _, f := range m.Faults { // then it was not well
		since = later(since, f.At)
	}
	return since, true, false
}

// well says whether the host is well with a system that it has, or has gone on from.
func (m *member) well(system string, now time.Time) bool {
	s := &m.Status
	if s.Drift || s.Refused != nil || s.Active == nil || s.Suspended != nil && now.Before(s.Suspended.Until.Add(m.skew)) || s.Reboot != nil && s.Reboot.Failure != nil {
		return false
	}
	if s.Last != nil && s.Last.Result == fleet.RollbackFailed && s.Failure != nil {
		return false
	}
	switch s.Phase {
	case fleet.PhaseIdle:
		return s.Failure == nil
	case fleet.PhaseReboot: // what it has is not what it runs
		return s.Active.OutPath != system
	case fleet.PhaseStaging, fleet.PhaseWaiting, fleet.PhaseActivating, fleet.PhaseRetrying, fleet.PhaseHeld: // it is about another one
		return s.Target == nil || s.Target.OutPath != system
	}
	return false
}
