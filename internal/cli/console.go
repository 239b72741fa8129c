package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// ink is a colour, as terminals take it. What it says is always said in words, too.
type ink string

const (
	plain  ink = ""
	red    ink = "\x1b[31m"
	yellow ink = "\x1b[33m"
	green  ink = "\x1b[32m"
	blue   ink = "\x1b[36m"
	faint  ink = "\x1b[2m"
	strong ink = "\x1b[1m"
)

// console is where text goes for people.
type console struct {
	to      io.Writer
	columns int  // how wide it is; 0 where that does not matter: a file, a pipe
	colours bool // whether it takes them, and they are wanted
}

func (a *app) console() console {
	s := console{to: a.Out, colours: terminal(a.Out) != nil}
	if columns := columnsOf(a.Out); columns != nil {
		s.columns = columns()
	}
	return s
}

// paint gives text a colour, where there are some.
func (s console) paint(c ink, text string) string {
	if !s.colours || c == plain || text == "" {
		return text
	}
	return string(c) + text + "\x1b[0m"
}

func (s console) line(c ink, format string, args ...any) {
	fmt.Fprintln(s.to, s.paint(c, visible(fmt.Sprintf(format, args...))))
}

// cell is a text in a table, in one line.
type cell struct {
	text string
	ink  ink
}

// leastLast is how many columns the last column of a table keeps, however narrow the screen is.
const leastLast = 10

// table writes rows whose columns are aligned. The last one is cut where the screen ends.
func (s console) table(rows [][]cell) {
	var widths []int
	for _, row := range rows {
		for i, c := range row[:max(0, len(row)-1)] {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(visible(c.text)))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		at := 0
		for i, c := range row {
			text := visible(c.text)
			if i == len(row)-1 {
				if s.columns > 0 {
					text = cut(text, max(leastLast, s.columns-at))
				}
				b.WriteString(s.paint(c.ink, text))
				break
			}
			n := utf8.RuneCountInString(text)
			b.WriteString(s.paint(c.ink, text) + strings.Repeat(" ", widths[i]-n+2))
			at += widths[i] + 2
		}
		b.WriteByte('\n')
	}
	_, _ = io.WriteString(s.to, b.String()) // who reads it went away
}

// cut is as much of text as fits into so many columns.
func cut(text string, columns int) string {
	r := []rune(text)
	if len(r) <= columns {
		return text
	}
	return string(r[:max(0, columns-1)]) + "…"
}

// visible is text as one line of a terminal.
func visible(text string) string { return fleet.Visible(text, "") }

func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, t := range texts {
		row[i].text = t
	}
	return row
}

// header is the first row of a table.
func header(names ...string) []cell {
	row := cells(names...)
	for i := range row {
		row[i].ink = faint
	}
	return row
}

func inkOf(s fleet.Standing) ink {
	switch s {
	case fleet.Failed, fleet.Silent:
		return red
	case fleet.Retrying, fleet.ByHand:
		return yellow
	case fleet.Waiting, fleet.UnderWay:
		return blue
	case fleet.AllWell:
		return green
	}
	return faint
}
