package agent

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// mostRequests is how many are answered at a time; more than watchers, so that these leave room for others.
const mostRequests = 2 * mostWatchers

// serve answers on the local socket, mode 0660, group garrison where there is one:
// GET /v1/status, GET /v1/history?n=N and GET /v1/acts?n=N (newest last), POST /v1/look, POST /v1/acts (an order), GET /v1/watch,
// GET /v1/logs?deployment=N&follow=1, GET /v1/diff, GET /metrics.
func (a *Agent) serve() (stop func(), err error) {
	path := a.Config.Socket
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, socketError(path, err)
	}
	// Made beside it and renamed: nobody meets it without its permissions, and it takes the place of an agent's before us.
	made := path + ".new"
	if err := os.Remove(made); err != nil && !os.IsNotExist(err) {
		return nil, socketError(path, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, socketError(path, err)
	}
	l.SetUnlinkOnClose(false)
	err = restrict(made)
	if err == nil {
		err = os.Rename(made, path)
	}
	if err != nil {
		l.Close()
		return nil, socketError(path, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, a.Status()) })
	mux.HandleFunc("GET /v1/history", a.serveHistory)
	mux.HandleFunc("GET /v1/acts", a.serveActs)
	mux.HandleFunc("POST /v1/acts", a.serveOrder)
	mux.HandleFunc("POST /v1/look", func(w http.ResponseWriter, r *http.Request) {
		a.Wake()
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("GET /v1/watch", a.serveWatch)
	mux.HandleFunc("GET /v1/logs", a.serveLogs)
	mux.HandleFunc("GET /v1/diff", a.serveDiff)
	mux.HandleFunc("GET /metrics", a.serveMetrics)
	srv := &http.Server{Handler: limited(mostRequests, mux), ConnContext: withPeer, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	a.tasks.Go(func() { _ = srv.Serve(l) })
	return func() {
		srv.Close()
		_ = os.Remove(path)
	}, nil
}

func socketError(path string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeConfig, "cannot answer on the socket %s", path).WithHint("choose another one by socket in the agent's configuration").WithCause(err)
}

func restrict(socket string) error {
	if g, err := user.LookupGroup("garrison"); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil {
			if err := os.Chown(socket, 0, gid); err != nil {
				return err
			}
		}
	}
	return os.Chmod(socket, 0o660)
}

func (a *Agent) serveHistory(w http.ResponseWriter, r *http.Request) {
	serveJournal[fleet.Deployment](a, w, r, a.historyFile())
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the client went away
}
