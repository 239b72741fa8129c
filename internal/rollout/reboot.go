package rollout

import (
	"slices"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// reboots says who may reboot from now on, and by rings who that is.
func (p *plan) reboots() (permits map[string]fleet.RebootPermit, by [][]string) {
	permits, by = map[string]fleet.RebootPermit{}, make([][]string, len(p.rings))
	held := p.Ledger.Paused != nil || Frozen(p.Ledger, p.Now)
	for i, r := range p.rings {
		stuck := held || p.Releases[r.steps[0].tip] != nil && p.stops(r.steps[0].tip)
		for m := range r.members() {
			permit, has := p.Ledger.Reboots[m.name]
			if !has || m.rebooted(permit) || r.Reboots == 0 && !m.asks() {
				continue
			}
			permits[m.name], by[i] = permit, append(by[i], m.name)
			stuck = stuck || r.Reboots > 0 && m.heard != fresh || r.Reboots > 0 && m.Status.Reboot != nil && m.Status.Reboot.Failure != nil
		}
		if stuck {
			continue
		}
		for m := range r.members() {
			if r.Reboots > 0 && len(by[i]) >= r.Reboots {
				break
			}
			if _, has := permits[m.name]; has || !m.toReboot() || m.heard != fresh || !m.fit() {
				continue
			}
			if r.Reboots == 0 && !m.asks() {
				continue
			}
			if at := m.Status.Reboot.At.Add(m.skew); p.Now.Before(at) {
				p.clock(at)
				continue
			}
			permits[m.name], by[i] = fleet.RebootPermit{Boot: m.Status.Boot, At: p.Now}, append(by[i], m.name)
		}
		slices.Sort(by[i])
	}
	return permits, by
}

// members are the ring's hosts, batch by batch.
func (r *ring) members() func(yield func(*member) bool) {
	return func(yield func(*member) bool) {
		for _, s := range r.steps {
			for _, m := range s.members {
				if !yield(m) {
					return
				}
			}
		}
	}
}

// rebooted says whether a host has made use of its permit and is well, or needs it no more.
func (m *member) rebooted(p fleet.RebootPermit) bool {
	s := &m.Status
	needless := s.Reboot == nil || !s.Reboot.Needed
	return m.heard == fresh && m.fit() && s.Boot != "" && (s.Boot != p.Boot || needless && m.last.After(p.At))
}

// asks says whether the host waits for a permit, be there a limit or not.
func (m *member) asks() bool { return m.Status.Reboot != nil && m.Status.Reboot.Ring }

// toReboot says whether the host is to reboot, and would by itself.
func (m *member) toReboot() bool {
	b := m.Status.Reboot
	return b != nil && b.Needed && b.At != nil && m.Status.Boot != ""
}

// fit says whether the host is well as it runs.
func (m *member) fit() bool {
	s := &m.Status
	if s.Drift || s.Failure != nil || s.Reboot != nil && s.Reboot.Failure != nil {
		return false
	}
	return s.Phase == fleet.PhaseIdle || s.Phase == fleet.PhaseReboot || s.Phase == fleet.PhaseWaiting || s.Phase == fleet.PhaseStaging
}
