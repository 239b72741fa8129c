package drill

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// printer writes plain lines, with colour and a line that is updated in place on a terminal.
type printer struct {
	w        io.Writer
	terminal bool // may be drawn over
	colour   bool

	mu   sync.Mutex
	live bool   // a live line stands there
	what string // it says this
}

const (
	green = "32"
	red   = "31"
	bold  = "1"
	grey  = "90"
)

func (p *printer) paint(colour, s string) string {
	if !p.colour {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *printer) clear() {
	if p.live {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.live = false
	}
}

func (p *printer) title(format string, args ...any) {
	p.line("\n%s", p.paint(bold, fmt.Sprintf(format, args...)))
}

func (p *printer) check(c fleet.DrillCheck) {
	mark := p.paint(green, "ok  ")
	if c.Result == fleet.DrillFail {
		mark = p.paint(red, "FAIL")
	}
	p.line("  %s %s%s", mark, c.Name, p.paint(grey, suffix(strings.ReplaceAll(c.Detail, "\n", "\n       "))))
}

func suffix(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

// event is one thing that happened on the way of a change, seconds after the push.
func (p *printer) event(after time.Duration, who, what string, seconds float64) {
	line := fmt.Sprintf("  +%6.2f s  %-10s  %-20s", after.Seconds(), who, what)
	if seconds >= 0 {
		line += p.paint(grey, fmt.Sprintf("%6.2f s", seconds))
	}
	p.line("%s", strings.TrimRight(line, " "))
}

// waiting shows, on a terminal only, what is waited for and how long already, until the returned func is called.
func (p *printer) waiting(what string) (stop func()) {
	if !p.terminal {
		return func() {}
	}
	began, done := time.Now(), make(chan struct{})
	p.waitFor(what)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				p.mu.Lock()
				p.clear()
				p.mu.Unlock()
				return
			case <-tick.C:
				p.mu.Lock()
				fmt.Fprintf(p.w, "\r\x1b[K   %6.1f s   %s …", time.Since(began).Seconds(), p.what)
				p.live = true
				p.mu.Unlock()
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// waitFor changes what waiting shows.
func (p *printer) waitFor(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.what = what
}
