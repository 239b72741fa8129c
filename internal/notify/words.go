package notify

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// detail is a failure as an alert shows it.
func detail(f *fleet.Failure) string {
	if f == nil {
		return ""
	}
	text := f.Message
	if f.Hint != "" {
		text += "\n→ " + f.Hint
	}
	return bounded(text)
}

// bounded is text with its end cut off where it is longer than a detail may be.
func bounded(text string) string { return cut(strings.ToValidUTF8(text, "�"), maxDetail) }

// oneLine is text without what would break or colour a line, and of at most so many characters.
func oneLine(text string, most int) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "�")))
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

const mostNamed = 5

// few names the first of a list.
func few(list []string) string {
	return fleet.Named{Count: len(list), Names: list}.Some(mostNamed)
}

func short(commit string) string { return commit[:min(len(commit), 12)] }

func at(s fleet.Stage) string {
	if s == "" {
		return ""
	}
	return " (" + string(s) + ")"
}

// Times are those of the hub's zone, which is named: who reads them may be elsewhere.
func clock(t time.Time) string { return t.Local().Format("Mon 2006-01-02 15:04 MST") }

func day(t time.Time) string { return t.Local().Format("2006-01-02") }

func sizeOf(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1<<10 && unit < len(units)-1 {
		value, unit = value/(1<<10), unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
