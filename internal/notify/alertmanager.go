package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// alertmanager tells Prometheus' Alertmanager, which wants to hear of an alert again and again while it is firing: what it does not hear of for a while it takes for over.
type alertmanager struct {
	*poster
	place
	hub string // URL, may be ""
	now func() time.Time
}

// resendEvery is how often an alert that is open is told again; it ends for Alertmanager when that failed resendLasts/resendEvery times in a row.
const (
	resendEvery = time.Minute
	resendLasts = 4 * time.Minute
)

type postableAlert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// Send posts all alerts among the events; the rest does not concern an Alertmanager.
func (s *alertmanager) Send(ctx context.Context, m Message) error {
	var list []fleet.Alert
	for _, e := range m.Events {
		switch e.Type {
		case fleet.EventAlert, fleet.EventResolved:
			var a fleet.Alert
			if err := json.Unmarshal(e.Data, &a); err != nil {
				return &SendError{Text: "the event " + e.ID + " has no alert in it", Never: true}
			}
			list = append(list, a)
		case EventTest:
			list = append(list, fleet.Alert{Key: "test", Kind: "test", Severity: fleet.Warning, What: m.Title, Since: e.Time, ResolvedAt: &e.Time})
		}
	}
	return s.Repeat(ctx, list)
}

// Repeat tells how alerts stand now.
func (s *alertmanager) Repeat(ctx context.Context, list []fleet.Alert) error {
	if len(list) == 0 {
		return nil
	}
	to, token, secrets, err := s.open()
	if err != nil {
		return err
	}
	// Of several states of one alert, the last one counts; and what began before has not begun anew.
	last, order := map[string]postableAlert{}, []string{}
	for _, a := range list {
		if _, known := last[a.Key]; !known {
			order = append(order, a.Key)
		}
		last[a.Key] = s.postable(a)
	}
	post := make([]postableAlert, 0, len(order))
	for _, k := range order {
		post = append(post, last[k])
	}
	_, err = s.do(ctx, http.MethodPost, to+"/api/v2/alerts", bearerHeader(token), post, secrets...)
	return err
}

func (s *alertmanager) postable(a fleet.Alert) postableAlert {
	// Labels are what Alertmanager knows an alert by: nothing may be in them that changes while it is open.
	p := postableAlert{Labels: map[string]string{"alertname": string(a.Kind), "job": "garrison", "key": a.Key}, Annotations: map[string]string{"summary": a.What}, StartsAt: a.Since}
	p.Labels["severity"] = string(a.Severity)
	if a.Host != "" {
		p.Labels["host"] = a.Host
	}
	if a.Detail != "" {
		p.Annotations["description"] = a.Detail
	}
	if len(a.Commands) > 0 {
		p.Annotations["commands"] = strings.Join(a.Commands, "\n")
	}
	if a.Release != "" {
		p.Annotations["release"] = a.Release
	}
	if s.hub != "" {
		p.GeneratorURL = s.hub
	}
	p.EndsAt = s.now().Add(resendLasts)
	if a.ResolvedAt != nil {
		p.EndsAt = *a.ResolvedAt
	}
	if p.StartsAt.After(p.EndsAt) || p.StartsAt.IsZero() { // a host's clock
		p.StartsAt = cmp.Or(a.OpenedAt, p.EndsAt)
	}
	return p
}
