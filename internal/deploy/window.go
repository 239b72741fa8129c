package deploy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is a part of each week in which activations may start: from Start to End on each of Days, both in
// minutes after midnight by the wall clock of the host's time zone. One that ends before it starts ends on the next day.
type Window struct {
	Days       [7]bool // by time.Weekday; the day on which it starts
	Start, End int
}

// UnmarshalText reads a window as it stands in agent.toml: "Sat 02:00-05:00", "Mon-Fri 22:00-06:00",
// "Sat,Sun 00:00-24:00"; without days it is every day's. An en dash does as well as a hyphen.
func (w *Window) UnmarshalText(text []byte) error {
	parsed, err := parseWindow(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a window like \"Sat 02:00-05:00\" or \"Mon-Fri 22:00-06:00\": %w", text, err)
	}
	*w = parsed
	return nil
}

func parseWindow(text string) (w Window, err error) {
	words := strings.Fields(strings.ReplaceAll(text, "–", "-"))
	switch len(words) {
	case 1:
		words = append([]string{"Mon-Sun"}, words...)
	case 2:
	default:
		return w, fmt.Errorf("it has %d words", len(words))
	}
	for part := range strings.SplitSeq(words[0], ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, errFrom := weekday(first)
		to, errTo := weekday(last)
		if err := firstOf(errFrom, errTo); err != nil {
			return w, err
		}
		for d := from; ; d = (d + 1) % 7 {
			w.Days[d] = true
			if d == to {
				break
			}
		}
	}
	start, end, _ := strings.Cut(words[1], "-")
	var errStart, errEnd error
	w.Start, errStart = clock(start)
	w.End, errEnd = clock(end)
	switch err := firstOf(errStart, errEnd); {
	case err != nil:
		return w, err
	case w.Start == w.End || w.Start == dayMinutes:
		return w, errors.New("it has no length; for a whole day say 00:00-24:00")
	}
	return w, nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

const dayMinutes = 24 * 60

func weekday(s string) (int, error) {
	for d := range 7 {
		if name := time.Weekday(d).String(); strings.EqualFold(s, name) || strings.EqualFold(s, name[:3]) {
			return d, nil
		}
	}
	return 0, fmt.Errorf("%q is no day (Mon Tue Wed Thu Fri Sat Sun)", s)
}

// clock reads HH:MM, up to 24:00.
func clock(s string) (int, error) {
	t, err := time.Parse("15:04", s)
	switch {
	case s == "24:00":
		return dayMinutes, nil
	case err != nil:
		return 0, fmt.Errorf("%q is no time of day like 02:00", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// MarshalText is the form that UnmarshalText reads.
func (w Window) MarshalText() ([]byte, error) {
	var days []string
	for i := range 7 {
		if d := (i + 1) % 7; w.Days[d] {
			days = append(days, time.Weekday(d).String()[:3])
		}
	}
	return fmt.Appendf(nil, "%s %02d:%02d-%02d:%02d", strings.Join(days, ","), w.Start/60, w.Start%60, w.End/60, w.End%60), nil
}

// span is when w is open on the given day: empty when it does not start on it.
func (w Window) span(y int, m time.Month, d int, zone *time.Location) (from, to time.Time) {
	if !w.Days[time.Date(y, m, d, 12, 0, 0, 0, time.UTC).Weekday()] {
		return from, to
	}
	end := w.End
	if end < w.Start {
		end += dayMinutes
	}
	from, to = wallClock(y, m, d, w.Start, zone), wallClock(y, m, d, end, zone)
	if !from.Before(to) { // the clocks went forward over it
		to = from.Add(time.Duration(end-w.Start) * time.Minute)
	}
	return from, to
}

// wallClock is the instant at which the clocks of zone show so many minutes after the midnight that begins a day. Of two (the
// clocks went back) it is the first; a time that is left out (they went forward) is as long after the change as it would have been after
// the hour that was left out began, so that a window within it does not fall out.
func wallClock(y int, m time.Month, d, minutes int, zone *time.Location) time.Time {
	asUTC := time.Date(y, m, d, 0, minutes, 0, 0, time.UTC)
	_, before := asUTC.Add(-24 * time.Hour).In(zone).Zone()
	_, after := asUTC.Add(24 * time.Hour).In(zone).Zone()
	first := asUTC.Add(-time.Duration(before) * time.Second)
	second := asUTC.Add(-time.Duration(after) * time.Second)
	if _, offset := first.In(zone).Zone(); offset == before {
		return first
	}
	if _, offset := second.In(zone).Zone(); offset == after {
		return second
	}
	return first
}

// Windows are open when one of them is; none at all are always open.
type Windows []Window

// Open says whether one is open at that moment.
func (ws Windows) Open(at time.Time, zone *time.Location) bool {
	return len(ws) == 0 || slices.ContainsFunc(ws.spans(at, zone), func(s [2]time.Time) bool { return !at.Before(s[0]) && at.Before(s[1]) })
}

// Next is when the next one opens, after that moment.
func (ws Windows) Next(at time.Time, zone *time.Location) time.Time {
	var next time.Time
	for _, s := range ws.spans(at, zone) {
		if s[0].After(at) && (next.IsZero() || s[0].Before(next)) {
			next = s[0]
		}
	}
	return next
}

// spans are those from yesterday on, until every window has begun once more.
func (ws Windows) spans(at time.Time, zone *time.Location) [][2]time.Time {
	var all [][2]time.Time
	y, m, d := at.In(zone).Date()
	for day := d - 1; day <= d+8; day++ {
		for _, w := range ws {
			y, m, d := time.Date(y, m, day, 12, 0, 0, 0, time.UTC).Date()
			if from, to := w.span(y, m, d, zone); from.Before(to) {
				all = append(all, [2]time.Time{from, to})
			}
		}
	}
	return all
}
