package cli

import (
	"context"
	"log/slog"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/notify"
)

// factRuns are so many runs of CI that are looked at for what is wrong.
const factRuns = 50

// newKeeper has h's alerts kept, and people told, as c says.
func newKeeper(c HubFile, h *hub.Hub, store notify.Store, watch *watchers, log *slog.Logger) (*notify.Keeper, error) {
	means := &hubMeans{config: c, watch: watch}
	facts := func(ctx context.Context) (f notify.Facts, err error) {
		f.Newest, f.Own, f.Disks = h.Newest(), means.credentials(ctx), means.disks()
		if f.Hosts, err = h.Hosts(ctx); err != nil {
			return f, err
		}
		if f.Runs, err = h.Store.Runs(ctx, factRuns); err != nil {
			return f, err
		}
		if f.Drills, err = h.Store.Drills(ctx, hub.DrillsLooked); err != nil {
			return f, err
		}
		if f.Rollout = (&fleet.Rollout{}); watch != nil {
			f.Rollout = nil
			if v, err := watch.rings.View(ctx); err == nil && v.Release > 0 {
				f.Rollout = &v
			}
			contact := watch.follower.Contact()
			f.Follower = &contact
		}
		return f, nil
	}
	k, err := notify.New(notify.Options{Store: store, Facts: facts, Config: c.Notify, Publish: func(e fleet.Event) { h.Show(e) }, Log: log})
	if err != nil {
		return nil, err
	}
	h.Alerts = k
	told, noted := h.Told, h.Noted
	h.Told = func(s fleet.Status) {
		if told != nil {
			told(s)
		}
		k.Reported(s)
	}
	h.Noted = func(events []fleet.Event) {
		if noted != nil {
			noted(events)
		}
		k.Noted(events...)
	}
	return k, nil
}
