package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// hubView is somebody's hub, read with a token of scope read.
type hubView struct {
	url   string
	token func() (string, error) // nil: none
	http  *http.Client
}

// errAbsent says that the hub does not have what was asked for.
var errAbsent = errors.New("the hub does not have that")

func (h *hubView) getBytes(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(h.url, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	if h.token != nil {
		token, err := h.token()
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := h.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	case http.StatusNotFound:
		return nil, errAbsent
	}
	return nil, fmt.Errorf("the hub answers GET %s with %s", path, resp.Status)
}

func (h *hubView) get(ctx context.Context, path string, into any) error {
	b, err := h.getBytes(ctx, path)
	if err != nil {
		return err
	}
	return unmarshal(b, into)
}

// hubReader is a hub that can be asked.
type hubReader interface {
	get(ctx context.Context, path string, into any) error
	getBytes(ctx context.Context, path string) ([]byte, error)
}

// hubVerdict is what a hub says of CI's run of a commit.
func hubVerdict(ctx context.Context, h hubReader, commit string) (v verdict, err error) {
	var runs []fleet.Run
	if err := h.get(ctx, "/api/v1/runs?n=20", &runs); err != nil {
		return v, err
	}
	i := slices.IndexFunc(runs, func(r fleet.Run) bool { return r.Source.Commit == commit })
	if i < 0 {
		return v, nil
	}
	r := runs[i]
	v = verdict{state: ciRunning, run: &r}
	if r.EndedAt == nil {
		return v, nil
	}
	v.state = ciReleased
	if r.State == fleet.RunFailed {
		v.state, v.why = ciFailed, r.Failure.Message
	}
	log, err := h.getBytes(ctx, fmt.Sprintf("/api/v1/runs/%d/log", r.ID))
	v.log = string(log)
	return v, err
}

// fleetNow is what a hub says of a fleet.
type fleetNow struct {
	newest int // release; 0: none is known
	hosts  []fleet.Status
	alerts []fleet.Alert
}

func (h *hubView) now(ctx context.Context) (f fleetNow, err error) {
	var releases []fleet.ReleaseView
	err = errors.Join(h.get(ctx, "/api/v1/hosts", &f.hosts), h.get(ctx, "/api/v1/releases?n=1", &releases), h.get(ctx, "/api/v1/alerts", &f.alerts))
	if err != nil {
		return f, fmt.Errorf("the hub %s: %w", h.url, err)
	}
	if len(releases) > 0 {
		f.newest = releases[0].Release.Number
	}
	return f, nil
}

// wrong is everything that makes a fleet unfit to be drilled, but for hosts that nobody of ours tells of. An earlier drill's failure is no reason.
func (f fleetNow) wrong(probed func(host string) bool) error {
	var errs []error
	for _, s := range f.hosts {
		if s.Phase == fleet.PhaseUnheard && probed(s.Host) {
			continue
		}
		switch at := s.Standing(f.newest); at {
		case fleet.AllWell, fleet.Manual, fleet.Gone, fleet.Waiting:
		default:
			errs = append(errs, fmt.Errorf("%s is %s: %s", s.Host, at, s.Summary()))
		}
	}
	for _, a := range f.alerts {
		if a.Severity == fleet.Critical && a.Kind != fleet.AlertDrill && (a.Host == "" || !f.unheard(a.Host) || !probed(a.Host)) {
			errs = append(errs, fmt.Errorf("alert %s: %s", a.Kind, a.What))
		}
	}
	return errors.Join(errs...)
}

func (f fleetNow) unheard(host string) bool {
	return slices.ContainsFunc(f.hosts, func(s fleet.Status) bool { return s.Host == host && s.Phase == fleet.PhaseUnheard })
}
