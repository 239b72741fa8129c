package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// live shows on standard error how far a command is. On a terminal a last line says it, and is redrawn; whatever else
// is written stands above it. Elsewhere there are plain lines: one for each stage and for each build, when it ends.
type live struct {
	to    io.Writer
	width func() int // of the terminal, in columns; nil when there is none

	mu   sync.Mutex
	line string // the last line as it stands on the terminal
}

// showProgress puts a live between the command and its standard output and error. end takes the last line away.
func (a *app) showProgress() (l *live, end func()) {
	l = &live{to: a.Err, width: terminal(a.Err)}
	a.Out, a.Err = &above{l, a.Out}, &above{l, a.Err}
	return l, func() { l.set("") }
}

// terminal tells the width of the terminal that w is; nil if it is none, or one that takes no control characters.
func terminal(w io.Writer) func() int {
	if term := os.Getenv("TERM"); term == "" || term == "dumb" || os.Getenv("NO_COLOR") != "" {
		return nil
	}
	return columnsOf(w)
}

// columnsOf tells the width of any terminal that w is; nil if it is none.
func columnsOf(w io.Writer) func() int {
	f, ok := w.(*os.File)
	if !ok {
		return nil
	}
	size := func() (*unix.Winsize, error) { return unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ) }
	if _, err := size(); err != nil {
		return nil
	}
	return func() int {
		if s, err := size(); err == nil && s.Col > 0 {
			return int(s.Col)
		}
		return 80
	}
}

// above writes whole lines above the last one.
type above struct {
	live *live
	to   io.Writer
}

func (w *above) Write(b []byte) (int, error) {
	w.live.mu.Lock()
	defer w.live.mu.Unlock()
	if w.live.line == "" {
		return w.to.Write(b)
	}
	w.live.draw("")
	n, err := w.to.Write(b)
	w.live.draw(w.live.line)
	return n, err
}

// set replaces the last line.
func (l *live) set(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line != l.line {
		l.line = line
		l.draw(line)
	}
}

// draw puts line where the last line stands: "return, erase to the end of the line", and as much of it as fits.
func (l *live) draw(line string) {
	if l.width == nil {
		return
	}
	text := []rune(visible(line))
	if most := l.width() - 1; len(text) > most {
		text = append(text[:max(0, most-1)], '…')
	}
	_, _ = fmt.Fprintf(l.to, "\r\x1b[K%s", string(text))
}

// plain writes a line where there is no terminal.
func (l *live) plain(format string, args ...any) {
	if l.width != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.to, format+"\n", args...)
}

func (l *live) stage(s fleet.StageTime, ended bool) {
	if !ended {
		l.set(string(s.Stage))
		return
	}
	l.set("")
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.to, "%-9s %6.2f s\n", s.Stage, s.Seconds)
}

func (l *live) evaluated(done, total int) {
	l.set(fmt.Sprintf("%-9s %d of %d hosts", fleet.Evaluate, done, total))
}

func (l *live) building(e nix.Event) {
	if e.Ended != "" {
		l.plain("%-9s %s ended", fleet.Build, e.Ended)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %d of %d built", fleet.Build, e.Builds.Done, e.Builds.Expected)
	if e.Builds.Failed > 0 {
		fmt.Fprintf(&b, ", %d failed", e.Builds.Failed)
	}
	if e.Fetches.Expected > 0 {
		fmt.Fprintf(&b, ", %d of %d fetched", e.Fetches.Done, e.Fetches.Expected)
	}
	if len(e.Building) > 0 {
		fmt.Fprintf(&b, ", %d running: %s", len(e.Building), strings.Join(e.Building, ", "))
	}
	l.set(b.String())
}

func (l *live) pushed(p client.Progress) {
	l.set(fmt.Sprintf("%-9s %d of %d paths, %.1f of %.1f MB", fleet.Push, p.Done, p.Total, float64(p.NarBytes)/1e6, float64(p.NarTotal)/1e6))
}

// pushedEach is pushed with, where there is no terminal, a line for each path.
func (l *live) pushedEach(p client.Progress) {
	l.pushed(p)
	if p.StorePath != "" {
		l.plain("%-9s %s (%d of %d)", fleet.Push, p.StorePath, p.Done, p.Total)
	}
}
