package closure

import (
	"fmt"
	"strings"
)

// mostPackages bounds how many packages of each kind Lines lists.
const mostPackages = 40

// Summary is the difference in one line: paths and bytes.
func (d Diff) Summary() string {
	return fmt.Sprintf("%d → %d paths, %s → %s (%s)", d.PathsBefore, d.PathsAfter, size(d.BytesBefore), size(d.BytesAfter), growth(d.BytesAfter-d.BytesBefore))
}

// Lines are the changes for a person, one package a line.
func (d Diff) Lines() []string {
	var lines []string
	rebuilt := 0
	changed := lister{lines: &lines}
	for _, c := range d.Changes {
		if c.Kind == Rebuilt {
			rebuilt++
			continue
		}
		changed.add("%s %s: %s → %s, %s", map[Kind]string{Upgraded: "↑", Downgraded: "↓"}[c.Kind]+" ", c.Name, versions(c.Before), versions(c.After), growth(c.Bytes))
	}
	changed.end("changed")
	added := lister{lines: &lines}
	for _, p := range d.Added {
		added.add("+  %s: %s, %s", p.Name, versions(p.Versions), size(p.Bytes))
	}
	added.end("added")
	removed := lister{lines: &lines}
	for _, p := range d.Removed {
		removed.add("-  %s: %s, %s", p.Name, versions(p.Versions), size(p.Bytes))
	}
	removed.end("removed")
	switch {
	case rebuilt == 1:
		lines = append(lines, "   1 package rebuilt with the same version")
	case rebuilt > 1:
		lines = append(lines, fmt.Sprintf("   %d packages rebuilt with the same version", rebuilt))
	}
	return lines
}

// lister lists up to mostPackages lines, and how many more there are.
type lister struct {
	lines *[]string
	n     int
}

func (l *lister) add(format string, args ...any) {
	if l.n++; l.n <= mostPackages {
		*l.lines = append(*l.lines, fmt.Sprintf(format, args...))
	}
}

func (l *lister) end(what string) {
	if more := l.n - mostPackages; more > 0 {
		*l.lines = append(*l.lines, fmt.Sprintf("   … and %d more %s", more, what))
	}
}

func versions(v []string) string {
	var named []string
	for _, s := range v {
		if s != "" {
			named = append(named, s)
		}
	}
	if len(named) == 0 {
		return "(no version)"
	}
	return strings.Join(named, ", ")
}

// size is a number of bytes for people.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}

func growth(n int64) string {
	if n < 0 {
		return "−" + size(-n)
	}
	return "+" + size(n)
}
