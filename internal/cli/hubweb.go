package cli

import (
	"log/slog"
	"path/filepath"

	"github.com/garrison-nix/garrison/internal/cache"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/web"
)

// openPage gives the hub its page, unless c says that there is none.
func openPage(c HubFile, h *hub.Hub, caches *cache.Server, log *slog.Logger) (err error) {
	if c.Web.On() {
		h.Page, err = web.New(web.Options{Hub: h, Table: c.Web, KeyFile: filepath.Join(c.DataDir, "web.key"), From: caches.Address, Log: log})
	}
	return err
}
