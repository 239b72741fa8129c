package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
)

// screen is a terminal that knows "\r", "erase to the end of the line" and "\n", and fails at what else would move the cursor.
type screen struct {
	t      *testing.T
	width  int
	lines  []string // above the last
	last   []rune
	column int
	shown  []string // each last line that was seen
}

func (s *screen) Write(b []byte) (int, error) {
	text := []rune(string(b))
	for i := 0; i < len(text); i++ {
		switch r := text[i]; {
		case r == '\r':
			s.column = 0
		case r == '\n':
			s.lines, s.last, s.column = append(s.lines, string(s.last)), nil, 0
		case r == '\x1b' && strings.HasPrefix(string(text[i:]), "\x1b[K"):
			s.last, i = s.last[:s.column], i+2
		case r < ' ':
			s.t.Errorf("control character %q", r)
		default:
			if s.column++; s.column >= s.width {
				s.t.Errorf("the line wraps: %q", string(s.last))
			}
			s.last = append(s.last[:s.column-1], r)
		}
	}
	s.shown = append(s.shown, string(s.last))
	return len(b), nil
}

func tell(a *app, l *live) {
	l.stage(fleet.StageTime{Stage: fleet.Evaluate}, false)
	l.evaluated(0, 2)
	fmt.Fprintln(a.Err, "time=now level=WARN")
	l.evaluated(2, 2)
	l.stage(fleet.StageTime{Stage: fleet.Evaluate, Seconds: 1.5}, true)
	l.stage(fleet.StageTime{Stage: fleet.Build}, false)
	l.building(nix.Event{Builds: nix.Count{Expected: 3}, Building: []string{"linux-6.6", "systemd-256"}, Fetches: nix.Count{Done: 4, Expected: 9}})
	fmt.Fprintln(a.Out, "a finding")
	l.building(nix.Event{Builds: nix.Count{Done: 1, Expected: 3, Failed: 1}, Building: []string{"systemd-256"}, Ended: "linux-6.6"})
	l.building(nix.Event{Builds: nix.Count{Done: 1, Expected: 3, Failed: 1}, Building: []string{strings.Repeat("long", 40) + "\x1b[2J\n"}})
	l.pushed(client.Progress{Done: 3, Total: 12, NarBytes: 1_500_000, NarTotal: 9_000_000})
}

func TestLiveOnATerminal(t *testing.T) {
	s := &screen{t: t, width: 80}
	a := &app{Stdio: Stdio{Out: s, Err: s}}
	l, end := a.showProgress()
	l.width = func() int { return s.width }
	tell(a, l)
	seen := strings.Join(s.shown, "\n")
	for _, want := range []string{
		"evaluate  0 of 2 hosts", "evaluate  2 of 2 hosts", "build     0 of 3 built, 4 of 9 fetched, 2 running: linux-6.6, systemd-256",
		"build     1 of 3 built, 1 failed, 1 running: systemd-256", "running: longlong", "push      3 of 12 paths, 1.5 of 9.0 MB",
	} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q was not to be seen in\n%s", want, seen)
		}
	}
	end()
	a.complain(fleet.Errorf(fleet.Bad, fleet.CodeBuild, "joker does not build:\n  > cannot compile").WithCause(errors.New("x")))
	want := []string{"time=now level=WARN", "evaluate    1.50 s", "a finding", "garrison: joker does not build:", "  > cannot compile: x"}
	if strings.Join(s.lines, "\n") != strings.Join(want, "\n") || len(s.last) != 0 {
		t.Errorf("what stays:\n%s\nand in the last line %q", strings.Join(s.lines, "\n"), string(s.last))
	}
}

func TestLiveElsewhere(t *testing.T) {
	t.Setenv("TERM", "xterm")
	var out, err bytes.Buffer
	a := &app{Stdio: Stdio{Out: &out, Err: &err}}
	l, end := a.showProgress()
	tell(a, l)
	end()
	if want := "time=now level=WARN\nevaluate    1.50 s\nbuild     linux-6.6 ended\n"; err.String() != want || out.String() != "a finding\n" {
		t.Errorf("got %q and %q", err.String(), out.String())
	}
}
