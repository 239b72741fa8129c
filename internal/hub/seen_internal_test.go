package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestSee: who is silent, gone, or was never heard of, from what is known at a moment.
func TestSee(t *testing.T) {
	start := time.Date(2026, 11, 28, 6, 0, 0, 0, time.UTC)
	at := func(minutes float64) time.Time { return start.Add(time.Duration(minutes * float64(time.Minute))) }
	// said is a status of a host whose clock is five minutes behind, taken in at that minute, with the next look after so many.
	said := func(host string, minute, poll float64) fleet.Status {
		return fleet.Status{Schema: 1, Host: host, At: at(minute - 5), NextPoll: at(minute - 5 + poll), Phase: fleet.PhaseIdle, Seen: &fleet.Seen{At: at(minute)}}
	}
	release := func(minute float64, hosts ...string) *fleet.Manifest {
		m := &fleet.Manifest{Schema: 1, Number: 1, CreatedAt: at(minute), Hosts: map[string]fleet.Entry{}}
		for _, h := range hosts {
			if name, manual := strings.CutSuffix(h, " by hand"); manual {
				m.Manual = append(m.Manual, name)
			} else {
				m.Hosts[h] = fleet.Entry{}
			}
		}
		return m
	}
	for _, c := range []struct {
		name            string
		said            []fleet.Status
		releases        []*fleet.Manifest
		started, before float64 // minutes; before is zero for a hub that had no other before it
		now             float64
		want            string // each host with what is seen
	}{
		{"heard of lately", []fleet.Status{said("joker", 60, 1)}, nil, 0, 0, 75, "joker heard at 60"},
		{"not for long", []fleet.Status{said("joker", 60, 1)}, nil, 0, 0, 76.1, "joker heard at 60, silent since 60"},
		{"that looks seldom", []fleet.Status{said("joker", 60, 300)}, nil, 0, 0, 374, "joker heard at 60"},
		{"and is over that", []fleet.Status{said("joker", 60, 300)}, nil, 0, 0, 376, "joker heard at 60, silent since 60"},
		{"that says to look in a year", []fleet.Status{said("joker", 60, 525600)}, nil, 0, 0, 60 + 1440 + 15.1, "joker heard at 60, silent since 60"},
		{"whose next look was in the past", []fleet.Status{said("joker", 60, -500)}, nil, 0, 0, 74, "joker heard at 60"},
		{"the hub was away", []fleet.Status{said("joker", 60, 1)}, nil, 600, 60, 614, "joker heard at 60"},
		{"and does not hear of it again", []fleet.Status{said("joker", 60, 1)}, nil, 600, 60, 615.1, "joker heard at 60, silent since 60"},
		{"silent when the hub went", []fleet.Status{said("joker", 60, 1), said("ursula", 599, 1)}, nil, 600, 599, 601, "joker heard at 60, silent since 60; ursula heard at 599"},
		{"not named", []fleet.Status{said("joker", 60, 1)}, []*fleet.Manifest{release(0, "ursula by hand")}, 0, 0, 10, "joker heard at 60, gone; ursula by hand"},
		{"not named and not heard of", []fleet.Status{said("joker", 60, 1)}, []*fleet.Manifest{release(0)}, 0, 0, 600, "joker heard at 60, gone"},
		{"left to be deployed by hand", []fleet.Status{said("joker", 60, 1)}, []*fleet.Manifest{release(0, "joker by hand")}, 0, 0, 600, "joker heard at 60, silent since 60"},
		{"never heard of", nil, []*fleet.Manifest{release(60, "joker", "abe")}, 0, 0, 70, "abe unheard; joker unheard"},
		{"for long", nil, []*fleet.Manifest{release(60, "joker")}, 0, 0, 75.1, "joker unheard, silent since 60"},
		{"deployed by hand, and without an agent", nil, []*fleet.Manifest{release(60, "joker by hand")}, 0, 0, 6000, "joker by hand"},
		{"a newer release names it, too", nil, []*fleet.Manifest{release(60, "joker"), release(600, "joker", "abe")}, 0, 0, 601, "abe unheard; joker unheard, silent since 60"},
		{"named before the hub began", nil, []*fleet.Manifest{release(60, "joker")}, 600, 0, 614, "joker unheard"},
		{"and by the hub before", nil, []*fleet.Manifest{release(60, "joker")}, 600, 599, 601, "joker unheard, silent since 60"},
		{"a release of the future", nil, []*fleet.Manifest{release(6000, "joker")}, 0, 0, 600, "joker unheard"},
	} {
		e := eye{now: at(c.now), started: at(c.started), silent: 15 * time.Minute}
		if c.before > 0 {
			e.before = at(c.before)
		}
		for _, m := range c.releases {
			e.newest = e.newest.after(m, at(c.now))
		}
		var got []string
		for _, s := range e.all(c.said) {
			minute := func(t time.Time) string { return fmt.Sprint(t.Sub(start).Minutes()) }
			text := s.Host + " heard at " + minute(s.Seen.At)
			if s.Phase == fleet.PhaseManual {
				text = s.Host + " by hand"
			}
			if s.Phase == fleet.PhaseUnheard {
				text = s.Host + " unheard"
				if !s.Seen.At.IsZero() {
					text += " at " + minute(s.Seen.At)
				}
			}
			if s.Seen.Silent != nil {
				text += ", silent since " + minute(*s.Seen.Silent)
			}
			if s.Seen.Gone {
				text += ", gone"
			}
			got = append(got, text)
		}
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}
