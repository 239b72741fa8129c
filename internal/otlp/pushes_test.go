package otlp

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var zero = time.Date(2026, 11, 23, 6, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return zero.Add(time.Duration(seconds * float64(time.Second))) }

func event(t testing.TB, kind string, data any) fleet.Event {
	t.Helper()
	e, err := fleet.NewEvent(kind, "/test", "1", "", zero, data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func source(n int) fleet.Source {
	pushed := at(float64(100 * n))
	return fleet.Source{Commit: fmt.Sprintf("%040x", n), Branch: "main", Subject: "Change " + fmt.Sprint(n), PushedAt: &pushed}
}

func ref(n int) fleet.ReleaseRef {
	return fleet.ReleaseRef{Number: n, Source: source(n), Trace: fleet.NewTrace(source(n).Commit, "").String()}
}

// The seconds of push n count from 100 n.
func run(n int, end float64, change func(*fleet.Run)) fleet.Run {
	from := float64(100 * n)
	ended, release := at(from+end), ref(n)
	r := fleet.Run{ID: 7, Source: source(n), State: fleet.RunReleased, StartedAt: at(from + 1), EndedAt: &ended, Release: &release, Trace: ref(n).Trace,
		Stages: []fleet.StageTime{{Stage: fleet.Evaluate, StartedAt: at(from + 1), Seconds: 1}, {Stage: fleet.Evaluate, StartedAt: at(from + 2), Seconds: 1.5, ToolSeconds: 1}}}
	if change != nil {
		change(&r)
	}
	return r
}

func failedRun(class fleet.Class, code fleet.Code) func(*fleet.Run) {
	return func(r *fleet.Run) {
		r.State, r.Release, r.Failure = fleet.RunFailed, nil, &fleet.Failure{Class: class, Code: code, Stage: fleet.Evaluate, Message: "it is wrong"}
	}
}

func published(n int, changed ...string) fleet.Published {
	return fleet.Published{Release: ref(n), CreatedAt: at(float64(100*n) + 10), Hosts: 3, Changed: changed}
}

func deployment(n int, host string, end float64, change func(*fleet.Deployment)) fleet.Deployment {
	from := float64(100 * n)
	d := fleet.Deployment{Host: host, Release: ref(n), Result: fleet.Committed, EndedAt: at(from + end),
		Stages: []fleet.StageTime{{Stage: fleet.Fetch, StartedAt: at(from + 11), Seconds: 0.5}, {Stage: fleet.Check, StartedAt: at(from + 12), Seconds: end - 12}}}
	d.OutPath = "/nix/store/x"
	if change != nil {
		change(&d)
	}
	return d
}

func failure(class fleet.Class) func(*fleet.Deployment) {
	return func(d *fleet.Deployment) {
		d.Result, d.Failure = fleet.RolledBack, &fleet.Failure{Class: class, Code: fleet.CodeCheck, Stage: fleet.Check, Message: "web does not answer"}
	}
}

// told are the events that a hub would be told, by their data.
func told(t testing.TB, all ...any) (list []fleet.Event) {
	for _, d := range all {
		kind := fleet.EventPhase
		switch d.(type) {
		case fleet.Run:
			kind = fleet.EventRun
		case fleet.Published:
			kind = fleet.EventReleased
		case fleet.Deployment:
			kind = fleet.EventDeployment
		}
		list = append(list, event(t, kind, d))
	}
	return list
}

// word is a span in a line: what, of which push, from and to in its seconds, where, and how it ended.
func word(t testing.TB, s Span) string {
	t.Helper()
	n, test := 0, ""
	for i := 1; i < 100; i++ {
		if s.Trace == fleet.NewTrace(source(i).Commit, "").ID {
			n = i
		} else if s.Trace == fleet.NewTrace(source(i).Commit, "web1-test").ID {
			n, test = i, "test "
		}
	}
	w := fmt.Sprintf("%s%s %d %g-%g", test, s.Name, n, s.Start.Sub(at(float64(100*n))).Seconds(), s.End.Sub(at(float64(100*n))).Seconds())
	for _, a := range s.Attributes {
		if a.Name == attrEnd || a.Name == attrHost && s.Name == "deployment" {
			w += fmt.Sprint(" ", a.Value)
		}
	}
	if s.Error != "" {
		w += " (" + s.Error + ")"
	}
	return w
}

func TestPushes(t *testing.T) {
	running := func(r *fleet.Run) { r.State, r.EndedAt, r.Release, r.Stages = fleet.RunRunning, nil, nil, nil }
	onTest := func(d *fleet.Deployment) {
		d.Result = fleet.Tested
		d.Release = fleet.ReleaseRef{Test: "release-web1-test-1", Source: source(1)}
		d.Release.Source.Branch = "web1-test"
	}
	ci := "release 1 1-4, evaluate 1 1-2, evaluate 1 2-3.5"
	for _, c := range []struct {
		name string
		told []any
		want string
	}{
		{"the usual way", []any{run(1, 4, running), run(1, 4, nil), published(1, "web1", "web2"), deployment(1, "web1", 20, nil), deployment(1, "web2", 30, nil)},
			ci + ", deployment 1 11-20 web1, fetch 1 11-11.5, check 1 12-20, deployment 1 11-30 web2, fetch 1 11-11.5, check 1 12-30, push 1 0-30 done"},
		{"hosts are quicker than the look at git", []any{deployment(1, "web1", 20, nil), published(1, "web1")},
			"deployment 1 11-20 web1, fetch 1 11-11.5, check 1 12-20, push 1 0-20 done"},
		{"no host changes", []any{run(1, 4, nil), published(1)}, ci + ", push 1 0-10 done"},
		{"told twice", []any{published(1), published(1)}, "push 1 0-10 done"},
		{"one host fails, for good", []any{published(1, "web1", "web2"), deployment(1, "web1", 20, failure(fleet.Bad)), deployment(1, "web2", 19, nil)},
			"deployment 1 11-20 web1 (web does not answer), fetch 1 11-11.5, check 1 12-20 (web does not answer), deployment 1 11-19 web2, fetch 1 11-11.5, check 1 12-19, push 1 0-20 failed (web1: web does not answer)"},
		{"and is well again", []any{published(1, "web1"), deployment(1, "web1", 20, failure(fleet.Local)), deployment(1, "web1", 40, nil)},
			"deployment 1 11-20 web1 (web does not answer), fetch 1 11-11.5, check 1 12-20 (web does not answer), deployment 1 11-40 web1, fetch 1 11-11.5, check 1 12-40, push 1 0-40 done"},
		{"a host that comes late", []any{published(1), deployment(1, "web1", 20, nil)}, "push 1 0-10 done, deployment 1 11-20 web1, fetch 1 11-11.5, check 1 12-20"},
		{"an operator's choice", []any{published(1, "web1"), deployment(1, "web1", 20, func(d *fleet.Deployment) { d.Choice = &fleet.Choice{} })}, ""},
		{"a newer release", []any{published(1, "web1"), published(2, "web1")}, "push 1 0-10 superseded"},
		{"CI fails", []any{run(1, 4, failedRun(fleet.Bad, fleet.CodeEvaluate)), run(2, 4, nil)},
			"release 1 1-4 (it is wrong), evaluate 1 1-2, evaluate 1 2-3.5 (it is wrong), push 1 0-4 failed (evaluate: it is wrong), release 2 1-4, evaluate 2 1-2, evaluate 2 2-3.5"},
		{"CI tries again", []any{run(1, 3, failedRun(fleet.Transient, fleet.CodeRemote)), run(1, 4, nil), published(1)},
			"release 1 1-3 (it is wrong), evaluate 1 1-2, evaluate 1 2-3.5 (it is wrong), " + ci + ", push 1 0-10 done"},
		{"something newer is pushed", []any{run(1, 4, failedRun(fleet.Transient, fleet.CodeSuperseded))}, ci + ", push 1 0-4 superseded"},
		{"it was released before", []any{run(1, 4, func(r *fleet.Run) { r.State = fleet.RunUnchanged })}, ci + ", push 1 0-4 unchanged"},
		{"a test release", []any{deployment(1, "web1", 20, onTest)}, "test deployment 1 11-20 web1, test fetch 1 11-11.5, test check 1 12-20, test push 1 0-20 done"},
		{"what no trace is of", []any{fleet.PhaseChange{}}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var kept Pushes
			var words []string
			for _, e := range told(t, c.told...) {
				doc, err := json.Marshal(kept) // a hub may be restarted at any time
				kept = Pushes{}
				if err == nil {
					err = json.Unmarshal(doc, &kept)
				}
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range kept.Event(e, zero) {
					words = append(words, word(t, s))
				}
			}
			if got := strings.Join(words, ", "); got != c.want {
				t.Errorf("\n%s, not\n%s", got, c.want)
			}
		})
	}
}

func TestParentsAndAttributes(t *testing.T) {
	var p Pushes
	var spans []Span
	for _, e := range told(t, run(1, 4, nil), published(1, "web1"), deployment(1, "web1", 20, failure(fleet.Bad))) {
		spans = append(spans, p.Event(e, zero)...)
	}
	ids := map[string]string{"": ""}
	for _, s := range spans {
		if ids[s.ID] != "" || s.Trace != ref(1).Push().ID || len(s.ID) != 16 {
			t.Errorf("%+v", s)
		}
		ids[s.ID] = s.Name + " " + s.Service
	}
	for i, want := range []string{"push garrison", "release garrison-ci", "release garrison-ci", "push garrison", "deployment garrison-agent", "deployment garrison-agent", ""} {
		if got := ids[spans[i].Parent]; got != want || spans[i].Parent != "" && got == "" {
			t.Errorf("%s is below %q, not %q", spans[i].Name, got, want)
		}
	}
	for i, want := range map[int]string{
		0: "cicd.pipeline.name=release cicd.pipeline.run.id=7 cicd.pipeline.result=success vcs.ref.head.revision=" + source(1).Commit + " vcs.ref.head.name=main vcs.ref.head.type=branch garrison.release=release-1",
		2: "garrison.stage=evaluate garrison.tool_seconds=1",
		3: "garrison.host=web1 garrison.release=release-1 garrison.result=rolled-back deployment.status=failed garrison.store_path=/nix/store/x vcs.ref.head.revision=" + source(1).Commit +
			" vcs.ref.head.name=main vcs.ref.head.type=branch error.type=check-failed garrison.error.class=release",
		5: "garrison.stage=check garrison.host=web1 garrison.tool_seconds=0 error.type=check-failed garrison.error.class=release",
		6: "vcs.ref.head.revision=" + source(1).Commit + " vcs.ref.head.name=main vcs.ref.head.type=branch garrison.subject=Change 1 garrison.release=release-1 garrison.end=failed",
	} {
		var got []string
		for _, a := range spans[i].Attributes {
			got = append(got, fmt.Sprintf("%s=%v", a.Name, a.Value))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s has\n%s, not\n%s", spans[i].Name, strings.Join(got, " "), want)
		}
	}
}

// TestTraceOfAnother: where CI is itself a part of a trace, the push is below what caused it.
func TestTraceOfAnother(t *testing.T) {
	const given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var p Pushes
	r := published(1)
	r.Release.Trace = given
	spans := p.Event(told(t, r)[0], zero)
	if len(spans) != 1 || spans[0].Trace != "0af7651916cd43dd8448eb211c80319c" || spans[0].Parent != "b7ad6b7169203331" {
		t.Errorf("%+v", spans)
	}
	d := deployment(1, "web1", 20, nil)
	d.Release.Trace = given
	if late := p.Event(told(t, d)[0], zero); late[0].Parent != spans[0].ID {
		t.Errorf("%+v", late)
	}
}

// TestBounds: what is heard of no more is ended, and so is the oldest of too many.
func TestBounds(t *testing.T) {
	var p Pushes
	p.Event(told(t, published(1, "web1"))[0], zero)
	if early := p.Expire(zero.Add(mostQuiet)); early != nil {
		t.Errorf("%+v", early)
	}
	late := p.Expire(zero.Add(mostQuiet + 1))
	if len(late) != 1 || word(t, late[0]) != "push 1 0-10 quiet" || len(p.Open) != 0 {
		t.Errorf("%+v", late)
	}
	for n := range 3 * mostClosed {
		p.Event(told(t, run(n+2, 4, failedRun(fleet.Transient, fleet.CodeRemote)))[0], zero)
		p.Expire(zero)
	}
	if len(p.Open) != mostOpen || len(p.Closed) != mostClosed || p.Open[0].Source.Subject != fmt.Sprint("Change ", 3*mostClosed+2-mostOpen) {
		t.Errorf("%d are open, from %q on, %d closed", len(p.Open), p.Open[0].Source.Subject, len(p.Closed))
	}
}

// TestDamagedEvent: what cannot be read is passed over.
func TestDamagedEvent(t *testing.T) {
	var p Pushes
	for _, kind := range Types() {
		for _, data := range []string{`"x"`, `[]`, `{`} {
			if spans := p.Event(fleet.Event{Type: kind, Data: json.RawMessage(data)}, zero); spans != nil {
				t.Errorf("%s %s: %+v", kind, data, spans)
			}
		}
	}
	if !slices.Equal(p.Closed, nil) || p.Open != nil {
		t.Errorf("%+v", p)
	}
}

// TestRunAlone: where no hub tells the end of a push, CI does.
func TestRunAlone(t *testing.T) {
	for want, change := range map[string]func(*fleet.Run){
		"push 1 0-4 released":                       nil,
		"push 1 0-4 unchanged":                      func(r *fleet.Run) { r.State, r.Release = fleet.RunUnchanged, nil },
		"push 1 0-4 failed (evaluate: it is wrong)": failedRun(fleet.Bad, fleet.CodeEvaluate),
		"push 1 0-4 failed (it is wrong)":           failedRun(fleet.Transient, fleet.CodeRemote),
		"push 1 0-4 superseded":                     failedRun(fleet.Transient, fleet.CodeSuperseded),
	} {
		spans := RunAlone(run(1, 4, change))
		if got := word(t, spans[len(spans)-1]); len(spans) != 4 || got != want {
			t.Errorf("%d spans, at the end %s, not %s", len(spans), got, want)
		}
	}
}
