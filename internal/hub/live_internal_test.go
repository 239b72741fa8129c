package hub

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func part(activation string, offset int64, text string) fleet.LogPart {
	return fleet.LogPart{Schema: 1, Host: "joker", Activation: activation, Offset: offset, Text: text}
}

func reported(release int, log string) fleet.DeploymentReport {
	return fleet.DeploymentReport{Log: log, Deployment: fleet.Deployment{Host: "joker", Release: fleet.ReleaseRef{Number: release}, EndedAt: noon.Add(time.Duration(release))}}
}

// TestLive has hosts say things in every order, whole, twice, and with holes; a follower reads after each step.
func TestLive(t *testing.T) {
	long := strings.Repeat("x", fleet.MaxReportedLog)
	for name, c := range map[string]struct {
		steps []any
		want  string
	}{
		"as it is said":                    {[]any{part("1", 0, "a\n"), part("1", 2, "b\n"), part("1", 4, "c\n"), reported(1, "a\nb\nc\n")}, "a b c"},
		"told twice, by another agent":     {[]any{part("1", 0, "a\n"), part("1", 2, "b\n"), part("1", 0, "a\n"), part("1", 0, "a\nb\nc\n"), reported(1, "a\nb\nc\n")}, "a b c"},
		"the end is in the report":         {[]any{part("1", 0, "a\n"), reported(1, "a\nb\n"), reported(1, "a\nb\n")}, "a b"},
		"all is in the report":             {[]any{reported(1, "a\n"), part("2", 0, "b\n"), reported(2, "b\n"), reported(3, "c\n")}, "a b c"},
		"a report comes late":              {[]any{part("2", 0, "b\n"), reported(1, "a\n"), part("2", 2, "c\n"), reported(2, "b\nc\n")}, "b c"},
		"we began in the middle":           {[]any{part("1", 10, "a\n"), part("1", 12, "b\n")}, "… 10 bytes before are left out a b"},
		"a hole":                           {[]any{part("1", 0, "a\n"), part("1", 10, "b\n")}, "a … 8 bytes before are left out b"},
		"the next begins":                  {[]any{part("1", 0, "a\n"), part("2", 0, "b\n"), part("2", 2, "c\n")}, "a b c"},
		"the same again, by another agent": {[]any{part("1", 0, "a\n"), reported(1, "a\n"), part("1", 0, "a\n")}, "a"},
		"more than is kept":                {[]any{part("1", 0, "a\n"), part("1", 2, long), part("1", 2+int64(len(long)), "b\n"), reported(1, "…")}, "a " + long + "b"},
	} {
		t.Run(name, func(t *testing.T) {
			var l live
			var f follower
			got := ""
			for _, s := range c.steps {
				switch s := s.(type) {
				case fleet.LogPart:
					l.put(s, noon)
				case fleet.DeploymentReport:
					l.ended(s, noon)
				}
				text, _ := l.next("joker", &f)
				got += text
			}
			if got = strings.Join(strings.Fields(got), " "); got != c.want {
				t.Errorf("got %.200q\nwant %.200q", got, c.want)
			}
			sum := 0
			for _, g := range l.logs {
				sum += len(g.text)
			}
			if l.bytes != sum {
				t.Errorf("%d bytes are counted, of %d", l.bytes, sum)
			}
		})
	}
}

// TestLiveBounds: what all hosts say together is bounded; who was silent longest goes first.
func TestLiveBounds(t *testing.T) {
	var l live
	const hosts = mostLive/fleet.MaxReportedLog + 10
	for i := range hosts {
		p := part("1", 0, strings.Repeat("x", fleet.MaxReportedLog))
		p.Host = fmt.Sprint("host", i)
		l.put(p, noon.Add(time.Duration(i)))
	}
	if l.bytes > mostLive || len(l.logs) != hosts-10 || l.logs["host9"] != nil || l.logs["host10"] == nil {
		t.Errorf("%d bytes of %d hosts", l.bytes, len(l.logs))
	}
	var leaves []func()
	for range mostFollowers {
		leave, ok := l.join()
		if !ok {
			t.Fatal("too few may follow")
		}
		leaves = append(leaves, leave)
	}
	if _, ok := l.join(); ok {
		t.Error("too many may follow")
	}
	leaves[0]()
	if _, ok := l.join(); !ok {
		t.Error("nobody may follow in another's place")
	}
}
