package cli

import (
	"bytes"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestPrintable(t *testing.T) {
	var out bytes.Buffer
	const said = "a\tb\x1b[2Jü\r\n\x7f\x00end\n"
	if n, err := (printable{&out}).Write([]byte(said)); n != len(said) || err != nil || out.String() != "a\tb[2Jü\nend\n" {
		t.Errorf("%d, %v: %q", n, err, out.String())
	}
}

// TestWatchUntil: when it is enough, and when it never will be.
func TestWatchUntil(t *testing.T) {
	ref := func(n int) *fleet.ReleaseRef { return &fleet.ReleaseRef{Number: n} }
	active := &fleet.Target{Release: *ref(6), Toplevel: fleet.Toplevel{OutPath: "/a"}}
	on := func(p fleet.Phase, newest int) fleet.Status {
		return fleet.Status{Host: "joker", Phase: p, Newest: ref(newest), Active: active, Systems: fleet.Systems{Current: "/a"}}
	}
	held, drift, refused := on(fleet.PhaseHeld, 7), on(fleet.PhaseIdle, 7), on(fleet.PhaseIdle, 7)
	held.Failure, held.Target = &fleet.Failure{}, &fleet.Target{Release: *ref(7), Toplevel: fleet.Toplevel{OutPath: "/b"}}
	drift.Drift, drift.Systems.Current = true, "/c"
	refused.Refused = &fleet.Refusal{}
	for _, c := range []struct {
		until   string
		release int
		s       fleet.Status
		done    bool
		code    fleet.Code
	}{
		{"", 0, on(fleet.PhaseIdle, 7), false, ""},
		{"converged", 0, on(fleet.PhaseIdle, 7), true, ""},
		{"converged", 8, on(fleet.PhaseIdle, 7), false, ""},
		{"converged", 8, held, false, ""}, // a newer one may mend it
		{"converged", 7, on(fleet.PhaseStaging, 7), false, ""},
		{"converged", 7, on(fleet.PhaseRetrying, 7), false, ""},
		{"converged", 7, held, true, fleet.CodeNotConverged},
		{"converged", 7, drift, true, fleet.CodeNotConverged},
		{"converged", 7, refused, true, fleet.CodeNotConverged},
		{"converged", 1, fleet.Status{Phase: fleet.PhaseNew}, false, ""},
		{"healthy", 7, held, true, ""},
		{"healthy", 7, on(fleet.PhaseActivating, 7), false, ""},
		{"healthy", 7, drift, false, ""},
		{"healthy", 0, fleet.Status{Phase: fleet.PhaseManual, Failure: &fleet.Failure{}}, true, fleet.CodeNotConverged},
	} {
		w := watcher{app: &app{Stdio: Stdio{Out: &bytes.Buffer{}}}, until: c.until, release: c.release}
		if done, err := w.see(c.s); done != c.done || fleet.CodeOf(err) != c.code {
			t.Errorf("%s, release %d, %s: %v, %v", c.until, c.release, c.s.Summary(), done, err)
		}
	}
}
