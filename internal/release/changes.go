package release

import (
	"fmt"
	"io"
	"strings"

	"github.com/garrison-nix/garrison/internal/closure"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// mostPackages bounds how many packages of each kind are listed for a host; JSON has them all.
const mostPackages = 40

func (o ChangesOf) String() string {
	switch {
	case o.Release != 0:
		return fmt.Sprintf("%s (%.12s %s)", fleet.TagName(o.Release), o.Commit, o.Subject)
	case o.Commit != "":
		return fmt.Sprintf("%.12s %s", o.Commit, o.Subject)
	}
	return "nothing (no release yet)"
}

// WriteText writes the changes for a terminal; nothing if there are none.
func (c *Changes) WriteText(w io.Writer) error {
	if c.Empty() {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "from %s\nto   %s\n", c.Base, c.Source)
	for _, h := range c.Hosts {
		if h.Change == HostUnchanged {
			continue
		}
		fmt.Fprintf(&b, "\n%s: %s%s\n", h.Name, h.Change, h.summary())
		for _, line := range h.lines() {
			fmt.Fprintf(&b, "  %s\n", line)
		}
	}
	if n := c.count(HostUnchanged); n > 0 {
		fmt.Fprintf(&b, "\n%s unchanged\n", plural(n, "host"))
	}
	for _, line := range c.secretLines() {
		fmt.Fprintln(&b, line)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the changes for a pull request.
func (c *Changes) WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "### Garrison plan\n\n")
	if c.Empty() {
		fmt.Fprintf(&b, "Nothing changes for any host.\n")
	} else {
		fmt.Fprintf(&b, "From %s to %s.\n\n| host | | closure |\n|---|---|---|\n", cell(c.Base.String()), cell(c.Source.String()))
		for _, h := range c.Hosts {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", cell(h.Name), h.Change, cell(strings.TrimPrefix(h.summary(), ", ")))
		}
		for _, h := range c.Hosts {
			if lines := h.lines(); h.Change == HostChanged && len(lines) > 0 {
				fmt.Fprintf(&b, "\n<details><summary>%s</summary>\n\n%s\n</details>\n", html(h.Name), fence(strings.Join(lines, "\n")))
			}
		}
	}
	if lines := c.secretLines(); len(lines) > 0 {
		fmt.Fprintf(&b, "\n%s", fence(strings.TrimSpace(strings.Join(lines, "\n"))))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (c *Changes) count(change string) int {
	n := 0
	for _, h := range c.Hosts {
		if h.Change == change {
			n++
		}
	}
	return n
}

func (c *Changes) secretLines() []string {
	var lines []string
	for _, s := range c.Secrets {
		lines = append(lines, fmt.Sprintf("secret %s is re-keyed for %s (%s)", s.Path, strings.Join(s.Hosts, ", "), s.Why))
	}
	for _, path := range c.Gone {
		lines = append(lines, fmt.Sprintf("secret %s is wanted by no host any more", path))
	}
	for _, r := range c.Rotate {
		lines = append(lines, "ROTATE "+r)
	}
	if len(lines) > 0 {
		lines = append([]string{""}, lines...)
	}
	return lines
}

// summary is a closure's change in one line.
func (h HostChange) summary() string {
	manual := ""
	if h.Manual {
		manual = ", deployed by hand"
	}
	if h.Diff == nil {
		return manual
	}
	d := h.Diff
	return fmt.Sprintf("%s, %d → %d paths, %s → %s (%s)", manual, d.PathsBefore, d.PathsAfter, size(d.BytesBefore), size(d.BytesAfter), growth(d.BytesAfter-d.BytesBefore))
}

// lines are a closure's changes, one package a line.
func (h HostChange) lines() []string {
	if h.Why != "" {
		return strings.Split(h.Why, "\n")
	}
	if h.Diff == nil {
		return nil
	}
	var lines []string
	d := h.Diff
	rebuilt := 0
	changed := lister{lines: &lines}
	for _, c := range d.Changes {
		if c.Kind == closure.Rebuilt {
			rebuilt++
			continue
		}
		changed.add("%s %s: %s → %s, %s", map[closure.Kind]string{closure.Upgraded: "↑", closure.Downgraded: "↓"}[c.Kind]+" ", c.Name, versions(c.Before), versions(c.After), growth(c.Bytes))
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
	if rebuilt > 0 {
		lines = append(lines, fmt.Sprintf("   %s rebuilt with the same version", plural(rebuilt, "package")))
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

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
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
