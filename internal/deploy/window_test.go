package deploy

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func windows(t *testing.T, texts ...string) Windows {
	t.Helper()
	var ws Windows
	for _, text := range texts {
		var w Window
		if err := w.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
		ws = append(ws, w)
	}
	return ws
}

// TestWindows has moments as the clock on the wall shows them, with the offset where that is not clear. In Berlin the clocks go from
// 02:00 to 03:00 on 29 March 2026, and from 03:00 back to 02:00 on 25 October 2026; both are Sundays.
func TestWindows(t *testing.T) {
	for _, c := range []struct {
		window, zone, at string
		open             bool
		next             string
	}{
		{"Sat 02:00-05:00", "Europe/Berlin", "2026-11-28T01:59:59+01:00", false, "2026-11-28T02:00:00+01:00"},
		{"Sat 02:00–05:00", "Europe/Berlin", "2026-11-28T02:00:00+01:00", true, "2026-12-05T02:00:00+01:00"},
		{"Sat 02:00-05:00", "Europe/Berlin", "2026-11-28T04:59:59+01:00", true, "2026-12-05T02:00:00+01:00"},
		{"Sat 02:00-05:00", "Europe/Berlin", "2026-11-28T05:00:00+01:00", false, "2026-12-05T02:00:00+01:00"},
		{"Mon-Fri 22:00-06:00", "Europe/Berlin", "2026-11-27T23:00:00+01:00", true, "2026-11-30T22:00:00+01:00"}, // Friday
		{"Mon–Fri 22:00–06:00", "Europe/Berlin", "2026-11-28T05:00:00+01:00", true, "2026-11-30T22:00:00+01:00"}, // Friday's, on Saturday
		{"Mon-Fri 22:00-06:00", "Europe/Berlin", "2026-11-28T22:30:00+01:00", false, "2026-11-30T22:00:00+01:00"},
		{"Mon-Fri 22:00-06:00", "Europe/Berlin", "2026-11-30T05:00:00+01:00", false, "2026-11-30T22:00:00+01:00"}, // Sunday has none
		{"Fri-Mon 10:00-11:00", "UTC", "2026-11-29T10:30:00Z", true, "2026-11-30T10:00:00Z"},
		{"sat,Wednesday 00:00-24:00", "UTC", "2026-11-25T23:59:59Z", true, "2026-11-28T00:00:00Z"},
		{"03:00-04:00", "UTC", "2026-11-25T12:00:00Z", false, "2026-11-26T03:00:00Z"},
		// An hour that is left out: the window comes as late as the clocks went forward.
		{"Sun 02:00-02:30", "Europe/Berlin", "2026-03-29T01:59:59+01:00", false, "2026-03-29T03:00:00+02:00"},
		{"Sun 02:00-02:30", "Europe/Berlin", "2026-03-29T03:29:59+02:00", true, "2026-04-05T02:00:00+02:00"},
		{"Sun 02:00-02:30", "Europe/Berlin", "2026-03-29T03:30:00+02:00", false, "2026-04-05T02:00:00+02:00"},
		{"Sun 02:00-05:00", "Europe/Berlin", "2026-03-29T03:00:00+02:00", true, "2026-04-05T02:00:00+02:00"},
		{"Sat 22:00-06:00", "Europe/Berlin", "2026-03-29T05:59:59+02:00", true, "2026-04-04T22:00:00+02:00"},
		{"Sat 22:00-06:00", "Europe/Berlin", "2026-03-29T06:00:00+02:00", false, "2026-04-04T22:00:00+02:00"},
		// An hour that comes twice: it opens the first time, once.
		{"Sun 02:00-02:30", "Europe/Berlin", "2026-10-25T02:10:00+02:00", true, "2026-11-01T02:00:00+01:00"},
		{"Sun 02:00-02:30", "Europe/Berlin", "2026-10-25T02:10:00+01:00", false, "2026-11-01T02:00:00+01:00"},
		{"Sun 02:00-05:00", "Europe/Berlin", "2026-10-25T04:59:59+01:00", true, "2026-11-01T02:00:00+01:00"},
		// Midnight itself is left out in Beirut on 29 March 2026.
		{"Sun 00:00-00:30", "Asia/Beirut", "2026-03-29T01:10:00+03:00", true, "2026-04-05T00:00:00+03:00"},
		{"Sun 02:00-02:30", "Australia/Lord_Howe", "2026-10-04T02:45:00+11:00", true, "2026-10-11T02:00:00+11:00"}, // by half an hour
	} {
		at, err := time.Parse(time.RFC3339, c.at)
		if err != nil {
			t.Fatal(err)
		}
		ws, z := windows(t, c.window), zone(t, c.zone)
		if got := ws.Open(at, z); got != c.open {
			t.Errorf("%s at %s: open %v", c.window, c.at, got)
		}
		if got := ws.Next(at, z).Format(time.RFC3339); got != c.next && ws.Next(at, z).In(z).Format(time.RFC3339) != c.next {
			t.Errorf("%s after %s: next %s, want %s", c.window, c.at, ws.Next(at, z).In(z), c.next)
		}
	}
	if !(Windows{}).Open(t0, time.UTC) {
		t.Error("without windows it is always open")
	}
}

// Over two years, hour by hour: closed leads to the opening that Next names, and no week is without one.
func TestWindowsNeverFallOut(t *testing.T) {
	z := zone(t, "Europe/Berlin")
	for _, text := range []string{"Sun 02:00-02:30", "Sun 02:30-03:00", "Sat 23:30-02:30", "Mon-Fri 22:00-06:00", "00:00-24:00"} {
		ws := windows(t, text)
		for at := t0; at.Before(t0.AddDate(2, 0, 0)); at = at.Add(time.Hour) {
			next := ws.Next(at, z)
			if next.IsZero() || !ws.Open(next, z) || next.Sub(at) > 8*24*time.Hour || ws.Open(next.Add(-time.Second), z) && !ws.Open(at, z) {
				t.Fatalf("%s after %s: %s", text, at.In(z), next.In(z))
			}
		}
	}
}

func TestBadWindows(t *testing.T) {
	for _, text := range []string{"", "Sat", "Sat 02:00", "Sat 2-5", "Sat 05:00-05:00", "Sat 24:00-05:00", "Sat 02:00-25:00", "Sam 02:00-05:00", "Sat- 02:00-05:00", "Sat Sun 02:00-05:00", "Sat,,Sun 02:00-05:00", "02:00-05:00-06:00"} {
		var w Window
		if err := w.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken as %+v", text, w)
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add("Sat 02:00-05:00")
	f.Add("Mon–Fri,Sun 22:00–06:00")
	f.Fuzz(func(t *testing.T, text string) {
		var w, again Window
		if w.UnmarshalText([]byte(text)) != nil {
			return
		}
		written, _ := w.MarshalText()
		if err := again.UnmarshalText(written); err != nil || again != w {
			t.Errorf("%q is written %q, and read as %+v, %v", text, written, again, err)
		}
		if (Windows{w}).Next(t0, time.UTC).IsZero() {
			t.Errorf("%q never opens", text)
		}
	})
}
