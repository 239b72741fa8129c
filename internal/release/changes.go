package release

import (
	"fmt"
	"io"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

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
	for _, line := range append(c.ringLines(), c.secretLines()...) {
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
	if lines := append(c.ringLines(), c.secretLines()...); len(lines) > 0 && !c.Empty() {
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
	return manual + ", " + h.Diff.Summary()
}

// lines are a closure's changes, one package a line.
func (h HostChange) lines() []string {
	if h.Why != "" {
		return strings.Split(h.Why, "\n")
	}
	if h.Diff == nil {
		return nil
	}
	return h.Diff.Lines()
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
