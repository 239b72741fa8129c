package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// rollout shows a roll-out ring by ring, as of now: for status, rollout status and watch. Short is one line where nothing is to be said of any ring.
func (s console) rollout(v fleet.Rollout, now time.Time, short bool) {
	title := s.wrap(visible("Roll-out: "+v.Title()), "  ")
	_, _ = io.WriteString(s.to, s.paint(strong+inkOfRollout(v.State), title[0])+"\n") // who reads it went away
	s.lines(plain, title[1:])
	for _, n := range v.Notes() {
		s.lines(yellow, s.wrap("  ! "+visible(n), "    "))
	}
	if len(v.Rings) == 0 || short && v.State == fleet.RolloutDone && len(v.Notes()) == 0 {
		return
	}
	rows := [][]string{{"RING", "STATE", "HAS", "HOSTS"}}
	for _, r := range v.Rings {
		has := "–"
		if r.Offered > 0 {
			has = strconv.Itoa(r.Offered)
			if r.Batch < r.Batches {
				has += fmt.Sprintf(" (%d/%d)", r.Batch, r.Batches)
			}
		}
		rows = append(rows, []string{r.Name, mark(r.State) + " " + string(r.State), has, r.Share()})
	}
	widths, at := make([]int, len(rows[0])), 2
	for i := range widths {
		for _, row := range rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(visible(row[i])))
		}
		at += widths[i] + 2
	}
	const leastWhy = 36 // columns for the reason; where there are fewer beside the rest, it stands below
	for i, row := range rows {
		var b strings.Builder
		b.WriteString("  ")
		for k, text := range row {
			text = visible(text)
			colour := plain
			switch {
			case i == 0:
				colour = faint
			case k == 1:
				colour = inkOfRollout(v.Rings[i-1].State)
			}
			b.WriteString(s.paint(colour, text))
			if k < len(row)-1 || i > 0 {
				b.WriteString(strings.Repeat(" ", widths[k]-utf8.RuneCountInString(text)+2))
			}
		}
		if i == 0 {
			s.lines(plain, []string{b.String()})
			continue
		}
		r := v.Rings[i-1]
		indent, why := at, visible(r.Said(now))
		if s.columns > 0 && s.columns-at < leastWhy {
			s.lines(plain, []string{strings.TrimRight(b.String(), " ")})
			s.lines(plain, s.wrap("      "+why, "      "))
			indent = 6
		} else {
			text := s.wrap(strings.Repeat(" ", at)+why, strings.Repeat(" ", at))
			b.WriteString(strings.TrimLeft(text[0], " "))
			s.lines(plain, append([]string{b.String()}, text[1:]...))
		}
		for _, g := range r.Groups() {
			colour := plain
			if g.Standing == "failed" || g.Standing == "silent" {
				colour = red
			}
			begin := strings.Repeat(" ", indent)
			s.lines(colour, s.wrap(begin+g.Standing+": "+visible(g.Some(8)), begin+"  "))
		}
	}
	for _, c := range v.Commands() {
		s.lines(plain, s.wrap("  → "+visible(c), "      "))
	}
}

func (s console) lines(c ink, lines []string) {
	for _, l := range lines {
		if c != plain { // the indent has no colour
			text := strings.TrimLeft(l, " ")
			l = l[:len(l)-len(text)] + s.paint(c, text)
		}
		_, _ = io.WriteString(s.to, l+"\n") // who reads it went away
	}
}

// wrap breaks a text between words where the screen ends; what follows the first line begins with indent.
func (s console) wrap(text, indent string) (lines []string) {
	begin := text[:len(text)-len(strings.TrimLeft(text, " "))]
	words := strings.Fields(text)
	if s.columns <= 0 || len(words) == 0 {
		return []string{text}
	}
	line, empty := begin, true
	for _, w := range words {
		switch {
		case empty:
			line += w
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) > s.columns:
			lines = append(lines, line)
			line = indent + w
		default:
			line += " " + w
		}
		empty = false
	}
	return append(lines, line)
}

// mark says a state without colour.
func mark(s fleet.RolloutState) string {
	switch s {
	case fleet.RolloutDone:
		return "✓"
	case fleet.RolloutRolling:
		return "→"
	case fleet.RolloutSoaking:
		return "◔"
	case fleet.RolloutStopped:
		return "✕"
	}
	return "‖"
}

func inkOfRollout(s fleet.RolloutState) ink {
	switch s {
	case fleet.RolloutDone:
		return green
	case fleet.RolloutStopped:
		return red
	case fleet.RolloutRolling, fleet.RolloutSoaking:
		return blue
	}
	return yellow
}
