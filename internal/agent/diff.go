package agent

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	diffTime    = time.Minute
	maxPathInfo = 32 << 20 // bytes of what nix says of one closure: tens of thousands of paths
)

// diffs remembers the last comparison, and has one made at a time. The zero value is ready.
type diffs struct {
	mu   sync.Mutex
	last fleet.HostDiff
}

// question is what a diff is asked about: what runs and what is wanted, or where that is the same, what the
// last deployment changed.
func (a *Agent) question() fleet.HostDiff {
	s := a.Status()
	d := fleet.HostDiff{Schema: fleet.StatusSchema, Host: s.Host, At: s.At, Before: s.Systems.Current, After: s.Systems.Current}
	wanted := s.Target
	if wanted == nil {
		wanted = s.Active
	}
	switch {
	case wanted != nil && wanted.OutPath != s.Systems.Current:
		d.Pending, d.Release, d.After = true, &wanted.Release, wanted.OutPath
	case s.Last != nil && s.Last.Result == fleet.Committed:
		d.Release, d.Before, d.After = &s.Last.Release, s.Last.Previous, s.Last.OutPath
	case wanted != nil:
		d.Release = &wanted.Release
	}
	return d
}

func sameQuestion(a, b fleet.HostDiff) bool {
	return a.Schema == b.Schema && a.Pending == b.Pending && a.Before == b.Before && a.After == b.After
}

// compare answers a question; caches says whether they are asked about what is not in the store here.
func (a *Agent) compare(ctx context.Context, d fleet.HostDiff, caches bool) fleet.HostDiff {
	a.diffs.mu.Lock()
	defer a.diffs.mu.Unlock()
	if last := a.diffs.last; sameQuestion(last, d) && last.Unknown == "" {
		last.At, last.Release = d.At, d.Release
		return last
	}
	ctx, cancel := context.WithTimeout(ctx, diffTime)
	defer cancel()
	before, err := a.closure(ctx, d.Before, caches)
	after := before
	if err == nil && d.After != d.Before {
		after, err = a.closure(ctx, d.After, caches)
	}
	if err == nil {
		d.Diff, err = json.Marshal(closure.Compare(before, after))
	}
	if err != nil {
		d.Unknown = err.Error()
	}
	if ctx.Err() == nil || d.Unknown == "" {
		a.diffs.last = d
	}
	return d
}

// closure is of a system that is in the store here or, where caches are asked, whole in one of them. "" has none.
func (a *Agent) closure(ctx context.Context, system string, caches bool) ([]closure.Path, error) {
	if system == "" {
		return nil, nil
	}
	n := *a.nix
	n.MaxStdout = maxPathInfo
	here, err := n.Valid(ctx, system)
	if err != nil {
		return nil, err
	}
	if !here {
		err = fleet.Errorf(fleet.Transient, fleet.CodeNotFound, "%s is not in the store here", filepath.Base(system))
	}
	stores := []string{n.Store}
	if !here {
		stores = nil
		for _, c := range a.Config.Caches {
			if caches {
				stores = append(stores, c.URL)
			}
		}
	}
	for _, store := range stores {
		n.Store = store
		infos, askErr := n.Closure(ctx, []string{system})
		if askErr != nil {
			err = askErr
			continue
		}
		paths := make([]closure.Path, 0, len(infos))
		for _, i := range infos {
			paths = append(paths, closure.Path{StorePath: i.StorePath, NarSize: i.NarSize})
		}
		return paths, nil
	}
	return nil, err
}

func (a *Agent) serveDiff(w http.ResponseWriter, r *http.Request) {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{})                   // else its end would end the request
	_ = c.SetWriteDeadline(time.Now().Add(2 * diffTime)) // another one's may come first
	writeJSON(w, a.compare(r.Context(), a.question(), true))
}
