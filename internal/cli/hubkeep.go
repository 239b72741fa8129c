package cli

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/garrison-nix/garrison/internal/hub"
	hubpostgres "github.com/garrison-nix/garrison/internal/hub/postgres"
	hubsqlite "github.com/garrison-nix/garrison/internal/hub/sqlite"
	"github.com/garrison-nix/garrison/internal/hub/tables"
	"github.com/garrison-nix/garrison/internal/postgres"
)

// openHubStore opens what the hub knows. While another hub has the database this one stands by, which for systemd is to be started.
func openHubStore(ctx context.Context, c HubFile, log *slog.Logger) (*tables.Store, error) {
	if c.Database == (postgres.Config{}) {
		return hubsqlite.Open(ctx, filepath.Join(c.DataDir, "hub.db"))
	}
	stoodBy := false
	store, err := hubpostgres.Open(ctx, c.Database, func() {
		stoodBy = true
		log.Info("another hub has the database: this one stands by, and takes over when that one has ended")
		tellSystemd("STATUS=stands by: another hub has the database\n" + daemon.SdNotifyReady)
	})
	if err == nil && stoodBy {
		log.Info("the other hub has ended: this one takes over")
		tellSystemd("STATUS=")
	}
	return store, err
}

const (
	firstPrune = time.Minute // after the start, when there is more to do
	pruneEvery = time.Hour
	prunePause = 100 * time.Millisecond // for others, while there is much to remove
)

// pruneHub removes what k does not keep, until ctx ends.
func pruneHub(ctx context.Context, k hub.Keep, store hub.Past, logDir string, log *slog.Logger) {
	for wait := firstPrune; ; {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		more, err := store.Prune(ctx, k, time.Now())
		if err == nil && !more {
			err = hub.PruneLogs(logDir, time.Now().Add(-k.History))
		}
		if err != nil && ctx.Err() == nil {
			log.Error("what is too old cannot be removed", "err", err)
		}
		if wait = pruneEvery; more {
			wait = prunePause
		}
	}
}
