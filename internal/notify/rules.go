package notify

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rules say which senders are to tell of an event.
type rules struct {
	list []RuleConfig
	all  []*sender // in the configuration's order
}

// of are the senders for an event, each once.
func (r rules) of(e fleet.Event) (to []*sender) {
	list := r.list
	if len(list) == 0 {
		list = []RuleConfig{{}}
	}
	f := facetsOf(e)
	for _, s := range r.all {
		if s.manner == alertsOnly && f.alert == nil || f.alert != nil && f.alert.Key == key(fleet.AlertDelivery, s.name) { // who does not take anything is not to be told of that
			continue
		}
		if slices.ContainsFunc(list, func(c RuleConfig) bool {
			return c.holds(e, f) && (len(c.Senders) == 0 || slices.Contains(c.Senders, s.name))
		}) {
			to = append(to, s)
		}
	}
	return to
}

// facets are what of an event rules ask about.
type facets struct {
	alert         *fleet.Alert
	host, release string
}

func facetsOf(e fleet.Event) (f facets) {
	if host, ok := strings.CutPrefix(e.Source, "/hosts/"); ok {
		f.host = host
	}
	var data struct {
		fleet.Alert
		Release json.RawMessage `json:"release"` // a tag, in alerts, or a ReleaseRef
	}
	if json.Unmarshal(e.Data, &data) != nil {
		return f
	}
	if json.Unmarshal(data.Release, &f.release) != nil {
		var ref fleet.ReleaseRef
		if json.Unmarshal(data.Release, &ref) == nil && (ref.Number > 0 || ref.Test != "") {
			f.release = ref.Name()
		}
	}
	if e.Type == fleet.EventAlert || e.Type == fleet.EventResolved {
		a := data.Alert
		a.Release = f.release
		f.alert, f.host = &a, a.Host
	}
	return f
}

func (c RuleConfig) holds(e fleet.Event, f facets) bool {
	types := c.Types
	if len(types) == 0 {
		types = []string{fleet.EventAlert, fleet.EventResolved}
	}
	if !matches(types, e.Type) || len(c.Hosts) > 0 && !matches(c.Hosts, f.host) || len(c.Releases) > 0 && !matches(c.Releases, f.release) {
		return false
	}
	if f.alert == nil {
		return len(c.Kinds) == 0 && c.Severity == ""
	}
	return (len(c.Kinds) == 0 || slices.Contains(c.Kinds, string(f.alert.Kind))) && (c.Severity != string(fleet.Critical) || f.alert.Severity == fleet.Critical)
}

func matches(patterns []string, what string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, what) // patterns were checked
		return ok
	})
}
