package sqlite

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/tables"
)

// The year: 200 hosts, 10 releases a day, each of which changes 160 of them. A host is in five phases on the way, has 4 KiB of log of each
// deployment, and 30 acts a year; a release takes CI seven stages; 5 alerts a day are opened, resolved, and delivered.
const (
	yearHosts    = 200
	yearChanged  = 160
	yearReleases = 10
	yearAlerts   = 5
)

// BenchmarkYear keeps a year of a fleet as a hub does, removing what is too old each day as it does by default, and measures the database and what
// is asked of it most. Events and logs of which nothing would be left are left out: of the days before the last 45.
func BenchmarkYear(b *testing.B) {
	for b.Loop() {
		file := filepath.Join(b.TempDir(), "hub.db")
		s, err := Open(b.Context(), file)
		if err != nil {
			b.Fatal(err)
		}
		y := &year{b: b, s: s, keep: hub.Keep{Events: 720 * time.Hour, History: 9600 * time.Hour, Logs: 10}}
		end := time.Now().UTC()
		began := time.Now()
		for day := range 365 {
			y.told = day >= 320
			y.day(end.AddDate(0, 0, day-365))
		}
		b.ReportMetric(time.Since(began).Seconds(), "s/writing")
		for what, ask := range map[string]func(ctx context.Context) (int, error){
			"statuses":   func(ctx context.Context) (int, error) { return count(s.Statuses(ctx)) },
			"history":    func(ctx context.Context) (int, error) { return count(s.Deployments(ctx, "h7", 100)) },
			"release":    func(ctx context.Context) (int, error) { return count(s.DeploymentsOf(ctx, y.number)) },
			"100-events": func(ctx context.Context) (int, error) { return count(s.Events(ctx, nil, -1, 100)) },
			"100-alerts": func(ctx context.Context) (int, error) { return count(s.Alerts(ctx, 100)) },
			"30-days": func(ctx context.Context) (int, error) {
				return count(s.Outcomes(ctx, end.AddDate(0, 0, -30), 0, y.number))
			},
			"known-of-host": func(ctx context.Context) (int, error) {
				k, err := s.Known(ctx, "h7")
				return len(k.Deployment.Stages), err
			},
		} {
			at := time.Now()
			n, err := ask(b.Context())
			if err != nil || n == 0 {
				b.Fatal(what, n, err)
			}
			b.ReportMetric(float64(time.Since(at).Microseconds())/1e3, "ms/"+what)
		}
		at := time.Now()
		if _, err := s.Prune(b.Context(), y.keep, end); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(at).Microseconds())/1e3, "ms/prune")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(info.Size())/1e6, "MB")
		b.ReportMetric(0, "ns/op")
	}
}

func count[T any](list []T, err error) (int, error) { return len(list), err }

type year struct {
	b      *testing.B
	s      *tables.Store
	keep   hub.Keep
	number int
	told   bool // also what does not last
}

func (y *year) must(err error) {
	if err != nil {
		y.b.Fatal(err)
	}
}

func (y *year) events(list ...fleet.Event) {
	if y.told {
		_, err := y.s.PutEvents(y.b.Context(), list)
		y.must(err)
	}
}

func (y *year) event(kind, source, id, subject string, at time.Time, data any) fleet.Event {
	e, err := fleet.NewEvent(kind, source, id, subject, at, data)
	y.must(err)
	return e
}

func (y *year) day(at time.Time) {
	ctx := y.b.Context()
	for r := range yearReleases {
		y.release(at.Add(time.Duration(8*60+r*50) * time.Minute))
	}
	for range yearAlerts {
		y.alert(at.Add(12 * time.Hour))
	}
	for h := range yearHosts {
		if (h+at.YearDay())%12 == 0 {
			a := fleet.Act{Schema: 1, Host: fmt.Sprint("h", h), Act: "retry", By: &fleet.Actor{UID: 1000, User: "somebody"}, Reason: "the disk was full, now it is not", At: at}
			y.must(y.s.PutAct(ctx, a))
			y.events(y.event(fleet.EventAct, "/hosts/"+a.Host, fmt.Sprint("retry-", at.UnixNano()), a.Host, at, a))
		}
	}
	seq, _, err := y.s.Cursor(ctx)
	y.must(err)
	if last, err := y.s.Events(ctx, nil, -1, 1); err == nil && len(last) > 0 {
		seq = last[0].Seq
	}
	y.must(y.s.Queue(ctx, seq, nil))
	for more := true; more; {
		more, err = y.s.Prune(ctx, y.keep, at.Add(24*time.Hour))
		y.must(err)
	}
}

// text is as many hex digits as a hash of what it is of has, which nothing packs.
func text(of string, digits int) string {
	sum := sha256.Sum256([]byte(of))
	return hex.EncodeToString(sum[:])[:digits]
}

func (y *year) stages(at time.Time, names ...fleet.Stage) (all []fleet.StageTime) {
	for i, name := range names {
		at = at.Add(time.Duration(i*731+y.number%997) * 1_234_567)
		all = append(all, fleet.StageTime{Stage: name, StartedAt: at, Seconds: float64(at.Nanosecond()) / 1e9, ToolSeconds: float64(at.Nanosecond()/3) / 1e9})
	}
	return all
}

// release is one that CI makes, and that hosts deploy.
func (y *year) release(at time.Time) {
	ctx := y.b.Context()
	y.number++
	id := fmt.Sprint(y.number)
	ref := fleet.ReleaseRef{Number: y.number, Commit: text("commit"+id, 40), Tag: text("tag"+id, 40), Trace: "00-" + text("trace"+id, 32) + "-" + text("span"+id, 16) + "-01",
		Source: fleet.Source{Commit: text("source"+id, 40), Branch: "main", Subject: "nginx: allow larger uploads " + id, Author: "Somebody", PushedAt: &at}}
	run := fleet.Run{Schema: 1, Source: ref.Source, State: fleet.RunRunning, StartedAt: at, Stages: []fleet.StageTime{}}
	var err error
	run.ID, err = y.s.PutRun(ctx, run)
	y.must(err)
	all := y.stages(at, fleet.Fetch, fleet.Evaluate, fleet.Rekey, fleet.Build, fleet.Push, fleet.Publish)
	for i, s := range all {
		run.Stage, run.Stages = s.Stage, all[:i+1]
		_, err := y.s.PutRun(ctx, run)
		y.must(err)
		y.events(y.event(fleet.EventRun, "/ci", fmt.Sprintf("%d-%d-%s", run.ID, at.UnixNano(), s.Stage), ref.Source.Commit, s.StartedAt, run))
	}
	run.State, run.EndedAt, run.Release = fleet.RunReleased, &at, &ref
	_, err = y.s.PutRun(ctx, run)
	y.must(err)
	p := fleet.Published{Schema: 1, Release: ref, CreatedAt: at, SeenAt: at, Hosts: yearHosts}
	for h := range yearHosts {
		if (h+y.number)%yearHosts < yearChanged {
			p.Changed = append(p.Changed, fmt.Sprint("h", h))
		}
	}
	y.must(y.s.PutRelease(ctx, p))
	y.events(y.event(fleet.EventReleased, "/release", "release-"+id+"-"+ref.Tag, "release-"+id, at, p))
	var hosts sync.WaitGroup
	for _, host := range p.Changed {
		hosts.Go(func() { y.deploy(host, ref, at) })
	}
	hosts.Wait()
}

func (y *year) deploy(host string, ref fleet.ReleaseRef, at time.Time) {
	ctx := y.b.Context()
	id := fmt.Sprint(host, " ", ref.Number)
	system := fleet.Toplevel{OutPath: "/nix/store/" + text(id, 32) + "-nixos-system-" + host + "-26.11.20261123.abcdef0", Built: true}
	at = at.Add(time.Duration(len(id)*7919+int(text(id, 1)[0])) * 1_000_003)
	d := fleet.Deployment{Schema: 1, Host: host, Release: ref, Toplevel: system, Previous: "/nix/store/" + text("before"+id, 32) + "-nixos-system-" + host + "-26.11.20261122.abcdef0",
		Result: fleet.Committed, Stages: y.stages(at, fleet.Fetch, fleet.Verify, fleet.Staging, fleet.Gate, fleet.Activate, fleet.Check, fleet.Commit), EndedAt: at.Add(20 * time.Second)}
	var list []fleet.Event
	was := fleet.PhaseIdle
	for i, is := range []fleet.Phase{fleet.PhaseStaging, fleet.PhaseWaiting, fleet.PhaseActivating, fleet.PhaseIdle} {
		when := at.Add(time.Duration(i) * 5_123_456_789)
		list = append(list, y.event(fleet.EventPhase, "/hosts/"+host, fmt.Sprintf("%s-%d", is, when.UnixNano()), host, when, fleet.PhaseChange{Schema: 1, Host: host, At: when, Was: was, Phase: is, Release: &ref}))
		was = is
	}
	list = append(list, y.event(fleet.EventDeployment, "/hosts/"+host, fmt.Sprintf("release-%d-%d", ref.Number, d.EndedAt.UnixNano()), fmt.Sprint("release-", ref.Number), d.EndedAt, d))
	var err error
	var log strings.Builder
	if y.told {
		_, err = y.s.PutEvents(ctx, list)
		for log.Len() < 4<<10 {
			fmt.Fprintf(&log, "starting the following units: %s.service\n", strings.ToLower(rand.Text()))
		}
	}
	if err == nil {
		err = y.s.PutDeployment(ctx, fleet.DeploymentReport{Schema: 1, Deployment: d, Log: log.String()})
	}
	if err == nil {
		err = y.s.PutStatus(ctx, fleet.Status{Schema: 1, Host: host, At: d.EndedAt, Phase: fleet.PhaseIdle, Newest: &ref, Last: &d, Active: &fleet.Target{Release: ref, Toplevel: system, At: d.EndedAt}})
	}
	if err != nil {
		y.b.Error(err)
	}
}

func (y *year) alert(at time.Time) {
	ctx := y.b.Context()
	a := fleet.Alert{Schema: 1, Key: "host-silent " + rand.Text(), Kind: fleet.AlertSilent, Severity: fleet.Critical, Host: "h7", What: "h7 has not reported for 15 minutes",
		Commands: []string{"garrison explain --host h7"}, Since: at, OpenedAt: at}
	said := func(a fleet.Alert) (*fleet.Event, error) {
		kind := fleet.EventAlert
		if a.ResolvedAt != nil {
			kind = fleet.EventResolved
		}
		e, err := fleet.NewEvent(kind, "/alerts", fmt.Sprint(a.ID, kind), a.Key, at, a)
		return &e, err
	}
	a, opened, err := y.s.PutAlert(ctx, a, said)
	y.must(err)
	over := at.Add(time.Hour)
	a.ResolvedAt = &over
	_, resolved, err := y.s.PutAlert(ctx, a, said)
	y.must(err)
	y.must(y.s.Queue(ctx, resolved.Seq, []fleet.Delivery{
		{Sender: "chat", Event: *opened, At: at, NextAt: at, DoneAt: &at, Attempts: 1}, {Sender: "chat", Event: *resolved, At: over, NextAt: over, DoneAt: &over, Attempts: 1}}))
}
