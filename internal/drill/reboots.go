package drill

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ringReboots has two hosts of a ring need a reboot at the same time, where one at a time may. The pause makes sure of that: what they
// wait for is looked at while both do.
func ringReboots(ctx context.Context, r *run) error {
	pair := []string{drilled, "joker"}
	if err := errors.Join(r.rings(ctx), r.reshape(ringOf("servers", "reboots = 1", pair...)+ringOf("last", "", selfBuilder))); err != nil {
		return err
	}
	before := map[string]string{}
	for _, h := range pair {
		s, err := r.yard.status(ctx, h)
		if err = errors.Join(err, r.yard.write("hosts/"+h+"/init-interface", []byte("systemd 2\n"))); err != nil {
			return err
		}
		before[h] = s.Boot
	}
	r.ordered(ctx, "the roll-out is paused", "garrison rollout pause --reason 'Drill: reboots'")
	p, err := r.put(ctx, newMarker(), "Drill: another init")
	if err != nil {
		return err
	}
	r.await(ctx, "CI releases it", func() (string, error) { return r.released(ctx, p) })
	r.ordered(ctx, "the ring is given the release all the same", "garrison promote --to servers --force --reason 'Drill: reboots'")
	for _, h := range pair {
		r.await(ctx, h+" has it for its next boot, and its garrison explain says that it waits for its ring", func() (string, error) {
			s, err := r.yard.status(ctx, h)
			if err == nil && (s.Phase != fleet.PhaseReboot || s.Active == nil || s.Active.Release.Source.Commit != p.commit) {
				err = errors.New(s.Summary())
			}
			if err != nil {
				return "", err
			}
			out, err := r.yard.run(ctx, h, "garrison", "explain")
			if err != nil {
				return "", err
			}
			return contains(out, "when its ring lets it")
		})
	}
	r.await(ctx, "the hub says that both wait for their turn, and that none has it in the pause", func() (string, error) {
		v, err := r.rollout(ctx)
		if err == nil && (len(v.Rings) != 2 || v.Rings[0].ToReboot.Count != 2 || len(v.Rings[0].Rebooting) > 0) {
			err = fmt.Errorf("it says %+v", v.Rings)
		}
		return v.Reason, err
	})
	r.ordered(ctx, "the roll-out goes on", "garrison rollout resume --reason 'Drill: reboots'")
	r.await(ctx, "both come back well, in another boot, and never were both away", func() (string, error) {
		return r.oneByOne(ctx, p, pair, before)
	})
	for _, h := range pair {
		r.see(h+" runs, and would boot, the new system", func() (string, error) {
			now, err := r.standing(ctx, r.host(h))
			if all := strings.Fields(now); err == nil && len(slices.Compact(all)) != 1 {
				err = fmt.Errorf("system, profile and boot entry: %s", now)
			}
			return firstLine(strings.Fields(now + " -")[0]), err
		})
	}
	r.see("the ledger never let more than one", func() (string, error) { return r.permits(ctx, pair) })
	return nil
}

// oneByOne says whether each of the hosts is well with a release in another boot than before, and ends the waiting when all are away.
// That they are is told by looking at the first one again: a host goes away once.
func (r *run) oneByOne(ctx context.Context, p pushed, hosts []string, before map[string]string) (string, error) {
	var away, missing []string
	for _, h := range append(slices.Clone(hosts), hosts[0]) {
		s, err := r.yard.status(ctx, h)
		if err != nil {
			away = append(away, h)
		}
		if err != nil || s.Boot == before[h] || s.Newest == nil || s.Newest.Source.Commit != p.commit || !s.Converged() {
			missing = append(missing, h+": "+s.Summary())
		}
	}
	if len(away) > len(hosts) {
		return "", final{fmt.Errorf("all were away: %s", strings.Join(hosts, ", "))}
	}
	if len(missing) > 0 {
		return "", errors.New(strings.Join(missing, "; "))
	}
	return strings.Join(hosts, ", "), nil
}

// permits reads all that the ledger ever said of reboots: each host had its turn, and no two at once.
func (r *run) permits(ctx context.Context, hosts []string) (string, error) {
	out, err := r.onForge(ctx, "for c in $(git rev-list --reverse "+fleet.RolloutBranch("release")+"); do git show $c:"+fleet.LedgerPath+"; done")
	if err != nil {
		return "", err
	}
	var turns []string
	for d := json.NewDecoder(strings.NewReader(out)); ; {
		var l fleet.Ledger
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", err
		}
		if len(l.Reboots) > 1 {
			return "", fmt.Errorf("it let %d hosts reboot at once: %v", len(l.Reboots), l.Reboots)
		}
		for h := range l.Reboots {
			if !slices.Contains(turns, h) {
				turns = append(turns, h)
			}
		}
	}
	if len(turns) != len(hosts) {
		return "", fmt.Errorf("it let %v reboot, of %v", turns, hosts)
	}
	return strings.Join(turns, ", then "), nil
}
