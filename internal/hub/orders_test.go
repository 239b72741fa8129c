package hub_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/metrics/metricstest"
)

// roller is a roll-out that does nothing but remember what was ordered.
type roller struct {
	ordered []string
	fails   error
	view    fleet.Rollout
}

func (r *roller) View(context.Context) (fleet.Rollout, error) {
	r.view.Schema, r.view.State = 1, cmp.Or(r.view.State, fleet.RolloutDone)
	return r.view, r.fails
}

func (r *roller) Order(ctx context.Context, by string, c fleet.RolloutCommand) (fleet.Rollout, error) {
	r.ordered = append(r.ordered, fmt.Sprintf("%s %s %s %d: %s", by, c.Act, c.Ring, c.Release, c.Reason))
	return r.View(ctx)
}

// TestRingsMeasured: how the rings stand is on the page of metrics, and nothing of them where there are none.
func TestRingsMeasured(t *testing.T) {
	w := newWorld(t)
	if page := w.page(); strings.Contains(page, "garrison_hub_ring") || strings.Contains(page, "garrison_hub_rollout_state") {
		t.Error("a fleet without rings has some")
	}
	soaks, stale := time.Unix(1_700_000_000, 0), time.Unix(1_600_000_000, 0)
	w.roller.view = fleet.Rollout{Release: 7, State: fleet.RolloutStopped, LateSince: &time.Time{}, Rings: []fleet.RolloutRing{
		{Ring: fleet.Ring{Name: "first"}, State: fleet.RolloutSoaking, Release: 7, SoakUntil: &soaks}, {SoakUntil: &stale, Ring: fleet.Ring{Name: "canary"}, State: fleet.RolloutStopped, Release: 6,
			Failed: fleet.Named{Count: 2}}}}
	metricstest.Check(t, w.page())
	wantLines(t, w.page(), `garrison_hub_rollout_state{state="paused"} 1`, `garrison_hub_ring_state{ring="canary",state="paused"} 1`, `garrison_hub_ring_state{ring="canary",state="done"} 0`,
		`garrison_hub_ring_release{ring="canary"} 6`, `garrison_hub_ring_hosts{ring="canary",how="failed"} 2`, `garrison_hub_rollout_late 1`, `garrison_hub_rollout_able 1`,
		`garrison_hub_ring_soak_end_timestamp_seconds{ring="first"} 1.7e+09`, `garrison_hub_ring_soak_end_timestamp_seconds{ring="canary"} 0`)
}

func TestOrders(t *testing.T) {
	w := newWorld(t)
	ask := func(body string) (int, string) { return w.ask("POST", "/api/v1/rollout/orders", "rollout", body) }
	soon := time.Now().Add(time.Hour)
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	for body, want := range map[string]string{
		`{"act":"promote","ring":"web","release":7,"reason":"checked by hand"}`: "",
		`{"act":"freeze","until":"` + at(soon) + `","reason":"holidays"}`:       "",
		`{"act":"abort","to":5,"atOnce":true}`:                                  "",
		`{"act":"resume","reason":"mended"}`:                                    "",
		`{"act":"unfreeze"}`:                                                    "",
		`{}`:                                                                    "act is promote, pause",
		`{"act":"reboot"}`:                                                      "act is promote, pause",
		`{"act":"promote","reason":"x"}`:                                        "needs the ring",
		`{"act":"promote","ring":"../x","reason":"x"}`:                          "needs the ring",
		`{"act":"promote","ring":"web","release":-1,"reason":"x"}`:              "no number",
		`{"act":"pause","ring":"web"}`:                                          "for promote",
		`{"act":"resume","force":true}`:                                         "for promote",
		`{"act":"pause","until":"` + at(soon) + `"}`:                            "for freeze",
		`{"act":"pause","to":3}`:                                                "for abort",
		`{"act":"abort","to":-3}`:                                               "no number",
		`act=pause`:                                                             "in JSON",
	} {
		wantCode := 400
		if want == "" {
			wantCode = 200
		}
		if code, said := ask(body); code != wantCode || !strings.Contains(said, want) {
			t.Errorf("%s: %d %s, want %q", body, code, said, want)
		}
	}
	slices.Sort(w.roller.ordered)
	if got := strings.Join(w.roller.ordered, "; "); got != "token rollout abort  0: ; token rollout freeze  0: holidays; token rollout promote web 7: checked by hand; token rollout resume  0: mended; token rollout unfreeze  0: " {
		t.Errorf("ordered: %s", got)
	}
	for code, want := range map[fleet.Code]int{fleet.CodeNotFound: 404, fleet.CodeNotNow: 409, fleet.CodeRace: 409, fleet.CodeInvalid: 409, fleet.CodeUnauthorized: 409, fleet.CodeRemote: 503, fleet.CodeUsage: 400} {
		w.roller.fails = fleet.Errorf(fleet.Local, code, "no").WithHint("do that").WithCause(errors.New("s3cret"))
		if got, said := ask(`{"act":"pause"}`); got != want || said != "no: do that\n" {
			t.Errorf("%s: %d %q", code, got, said)
		}
	}
	w.roller.fails = errors.New("s3cret")
	if got, said := w.ask("GET", "/api/v1/rollout", "read", ""); got != 503 || strings.Contains(said, "s3cret") {
		t.Errorf("%d %q", got, said)
	}
}
