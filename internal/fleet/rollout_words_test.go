package fleet

import (
	"slices"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

func later(d time.Duration) *time.Time { t := noon.Add(d); return &t }

// soaking is a roll-out of release 42 that soaks in the first of three rings.
func soaking() Rollout {
	return Rollout{Schema: 1, At: noon, Release: 42, State: RolloutSoaking, Reason: "ring canary: soaks", Rings: []RolloutRing{
		{Ring: Ring{Name: "canary", Batches: 1, SoakSeconds: 7200}, State: RolloutSoaking, Reason: "soaks release-42 until 13:12 UTC (1 h 12 min left)", Offered: 42, Release: 42, Batch: 1, Hosts: 1, Done: Named{1, []string{"ratched"}}, SoakUntil: later(72 * time.Minute)},
		{Ring: Ring{Name: "web", Batches: 2}, State: RolloutWaiting, Reason: "has release-41; waits for ring canary", Offered: 41, Release: 41, Batch: 2, Hosts: 5, Done: Named{5, []string{"a", "b", "c", "d", "e"}}},
		{Ring: Ring{Name: "rest", Batches: 1, Manual: true}, State: RolloutWaiting, Reason: "has release-41; waits for ring web", Offered: 41, Release: 41, Batch: 1, Hosts: 20},
	}}
}

func TestLeft(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0 s", 0: "0 s", time.Millisecond: "1 s", 59 * time.Second: "59 s", time.Minute: "1 min 0 s", 72*time.Minute + 500*time.Millisecond: "1 h 12 min", 50 * time.Hour: "2 days 2 h"} {
		if got := Left(d); got != want {
			t.Errorf("%v: %q, not %q", d, got, want)
		}
	}
}

func TestRolloutWords(t *testing.T) {
	v := soaking()
	for got, want := range map[string]string{
		v.Title():                                "release-42 soaks: ring 1 of 3, canary",
		v.Rings[0].Said(noon):                    v.Rings[0].Lasting() + ": 1 h 12 min left",
		v.Rings[0].Said(noon.Add(2 * time.Hour)): v.Rings[0].Lasting() + ": over, decided in a moment",
		v.Rings[1].Said(noon):                    "has release-41; waits for ring canary",
		v.Rings[1].Share() + v.Rings[2].Share():  "5 of 520",
		strings.Join(v.Commands(), "|"):          "",
		v.Awaits("canary", 1, 42):                "",
		v.Awaits("nowhere", 1, 42):               "",
		v.Awaits("rest", 1, 42):                  "Its ring, rest, is given release-42 after ring canary, which comes first: " + v.Rings[0].Lasting() + ".",
	} {
		if got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if strings.Contains(v.Rings[0].Lasting(), "left") {
		t.Error("what lasts has a countdown")
	}

	v.Rings[0].State, v.Rings[0].SoakUntil = RolloutDone, nil
	v.Rings[1] = RolloutRing{Ring: v.Rings[1].Ring, State: RolloutStopped, Reason: "paused: b was rolled back from release-42", Offered: 42, Release: 41, Batch: 1, Hosts: 5,
		Done: Named{1, []string{"a"}}, Failed: Named{1, []string{"b"}}, Away: Named{1, []string{"c"}}}
	v.State = RolloutStopped
	if got, want := v.Commands(), []string{"garrison explain b", "garrison rollout resume --reason WHY (to go on in spite of that)", "garrison rollout abort --reason WHY (to go back)"}; !slices.Equal(got, want) {
		t.Errorf("a ring that stopped: %q", got)
	}
	if got := v.Awaits("web", 2, 42); !strings.HasPrefix(got, "Batches of ring web get release-42 one after the other, and this host's, 2 of 2, is not there yet: paused: b was") {
		t.Errorf("the second batch: %q", got)
	}
	var groups []string
	for _, g := range v.Rings[1].Groups() {
		groups = append(groups, g.Standing+" "+g.Some(3))
	}
	if !slices.Equal(groups, []string{"failed b", "away c"}) {
		t.Errorf("groups: %q", groups)
	}
	v.Paused = &RolloutOrder{By: "Ann <ann@example.org>", At: noon, Reason: "looking at it\nmore"}
	v.Freeze = &RolloutOrder{By: "Bo", At: noon, Reason: "holidays", Until: later(240 * time.Hour)}
	v.Trouble = &Failure{Code: CodeUnauthorized, Message: "the remote refuses the push", Hint: "a deploy key that may write"}
	notes := strings.Join(v.Notes(), "|")
	for _, want := range []string{"by Ann <ann@example.org>: looking at it|", "frozen until ", "by Bo: holidays|", "no ring is given a release: the remote refuses the push (a deploy key that may write)"} {
		if !strings.Contains(notes, want) {
			t.Errorf("notes %q lack %q", notes, want)
		}
	}
	v = soaking()
	v.Rings[0].State, v.State = RolloutDone, RolloutWaiting
	v.Rings[1].State, v.Rings[1].Approve, v.Rings[1].Candidate, v.Rings[1].Reason = RolloutWaiting, true, 42, "has release-41; release-42 waits for somebody to say so"
	if got := v.Commands(); !slices.Equal(got, []string{"garrison promote --to web release-42 --reason WHY"}) {
		t.Errorf("a ring that waits for a person: %q", got)
	}
	if got := v.Awaits("web", 1, 42); got != "Its ring, web, is not given release-42 yet: has release-41; release-42 waits for somebody to say so." {
		t.Errorf("its host: %q", got)
	}
}

func TestNamedSome(t *testing.T) {
	for _, c := range []struct {
		n    Named
		want string
	}{{Named{}, ""}, {Named{2, []string{"a", "b"}}, "a, b"}, {Named{30, []string{"a", "b", "c"}}, "a, b and 28 more"}, {Named{3, nil}, "3 hosts"}} {
		if got := c.n.Some(2); got != c.want {
			t.Errorf("%v: %q", c.n, got)
		}
	}
}

// TestAheadWords: a host whose ring is not given a release yet says so, and is not taken for one that has all there is.
func TestAheadWords(t *testing.T) {
	s := Status{Host: "joker", Phase: PhaseIdle, Newest: &ReleaseRef{Number: 41}, Active: &Target{Release: ReleaseRef{Number: 41}}, Ring: "web", Batch: 2, Ahead: &Ahead{Release: ReleaseRef{Number: 42}, StagedAt: later(0)}}
	if got := s.Meaning(); got != "runs what its ring has; release-42 is staged, and waits for ring web" {
		t.Errorf("%q", got)
	}
	if s.Standing(42) != Waiting || s.Standing(0) != Waiting {
		t.Errorf("it is %s", s.Standing(42))
	}
	why := Explain(s).Why
	if len(why) != 2 || why[1].About != "ring" || !strings.HasPrefix(why[1].Said, "release-42 is published, and this host's batch, 2 of ring web, has not been given it yet. Its system is here since ") {
		t.Errorf("%+v", why)
	}
	s.Batch, s.Ahead.StagedAt, s.Ahead.Failure = 1, nil, &Failure{Message: "the cache is away"}
	if got := Explain(s).Why[1].Said; !strings.Contains(got, "host's ring, web, has not") || !strings.HasSuffix(got, "stops nothing: the cache is away.") {
		t.Errorf("%q", got)
	}
}
