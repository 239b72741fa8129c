package sqlite

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/hub/tables"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// made is a database as a hub with that version of the schema left it, after statements.
func made(t *testing.T, version int64, statements ...string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "hub.db")
	db, err := connect(file, 1, busyTime, "journal_mode(WAL)")
	must(t, err)
	files, err := fs.Sub(migrations, "migrations")
	must(t, err)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithDisableGlobalRegistry(true))
	must(t, err)
	_, err = p.UpTo(t.Context(), version)
	must(t, err)
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatal(s, err)
		}
	}
	must(t, db.Close())
	return file
}

// What hubs of every version wrote: of the first, of the second, of the third.
var (
	first = []string{
		`INSERT INTO hosts VALUES ('joker', 5000, '{"schema":1,"host":"joker","at":"1970-01-01T00:00:05Z","phase":"idle","active":{"release":{"number":7}}}')`,
		`INSERT INTO hosts VALUES ('ratched', 5000, '{"schema":1,"host":"ratched","phase":"new"}')`,
		`INSERT INTO runs (run) VALUES ('{"schema":1,"id":1,"state":"released","startedAt":"1970-01-01T00:00:05.5Z"}'), ('{"schema":1,"id":2,"state":"running"}')`,
		`DELETE FROM runs WHERE id = 1`,
	}
	second = []string{
		`INSERT INTO deployments (host, release, ended_at, deployment, log) VALUES
			('joker', 6, 1000, '{"schema":1,"host":"joker","release":{"number":6},"endedAt":"1970-01-01T00:00:01Z"}', 'log of 6'),
			('ratched', 6, 1000, '{"schema":1,"host":"ratched","release":{"number":6},"endedAt":"1970-01-01T00:00:01Z"}', ''),
			('joker', 7, 2000, '{"schema":1,"host":"joker","release":{"number":7},"result":"rolled-back","failure":{"class":"release","code":"check-failed"},"endedAt":"1970-01-01T00:00:02Z"}', 'log of 7')`,
		`INSERT INTO diffs VALUES ('joker', '{"schema":1,"host":"joker","after":"/nix/store/a"}')`,
	}
	third = []string{
		`INSERT INTO acts (host, at, name, act) VALUES ('joker', 3000000001, 'retry', '{"schema":1,"host":"joker","act":"retry","at":"1970-01-01T00:00:03.000000001Z"}')`,
	}
)

// TestEarlierVersions: what hubs of earlier versions kept is there, and goes on as if it had been kept by this one.
func TestEarlierVersions(t *testing.T) {
	for version, statements := range map[int64][][]string{1: {first}, 2: {first, second}, 3: {first, second, third}} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			var all []string
			for _, s := range statements {
				all = append(all, s...)
			}
			s, err := Open(t.Context(), made(t, version, all...))
			must(t, err)
			t.Cleanup(func() { must(t, s.Close()) })
			fromFirst(t, s)
			if version >= 2 {
				fromSecond(t, s)
			}
			if version >= 3 {
				fromThird(t, s)
			}
		})
	}
}

func fromFirst(t *testing.T, s *tables.Store) {
	ctx := t.Context()
	list, err := s.Statuses(ctx)
	if err != nil || len(list) != 2 || list[0].Host != "joker" || list[0].Phase != fleet.PhaseIdle || list[1].Phase != fleet.PhaseNew {
		t.Errorf("%+v, %v", list, err)
	}
	must(t, s.PutStatus(ctx, fleet.Status{Host: "joker", At: time.UnixMilli(4999), Phase: fleet.PhaseHeld}))
	if st, _, err := s.Status(ctx, "joker"); err != nil || st.Phase != fleet.PhaseIdle {
		t.Errorf("an older word won: %+v, %v", st, err)
	}
	if runs, err := s.Runs(ctx, 10); err != nil || len(runs) != 1 || runs[0].ID != 2 || runs[0].State != fleet.RunRunning {
		t.Errorf("%+v, %v", runs, err)
	}
	if id, err := s.PutRun(ctx, fleet.Run{}); err != nil || id != 3 {
		t.Errorf("%d, %v", id, err)
	}
}

func fromSecond(t *testing.T, s *tables.Store) {
	ctx := t.Context()
	numbers := func() (all []int) {
		list, err := s.Deployments(ctx, "joker", 10)
		must(t, err)
		for _, d := range list {
			all = append(all, d.Release.Number)
		}
		return all
	}
	if got := numbers(); !reflect.DeepEqual(got, []int{7, 6}) {
		t.Errorf("%v", got)
	}
	for release, want := range map[int]string{0: "log of 7", 7: "log of 7", 6: "log of 6"} {
		if log, found, err := s.DeploymentLog(ctx, "joker", release); err != nil || !found || log != want {
			t.Errorf("log of %d: %q, %v, %v", release, log, found, err)
		}
	}
	if of, err := s.DeploymentsOf(ctx, 6); err != nil || len(of) != 2 || of[0].Host != "joker" {
		t.Errorf("%+v, %v", of, err)
	}
	want := hub.Outcome{Host: "joker", Release: 7, Result: fleet.RolledBack, Class: fleet.Bad, Code: fleet.CodeCheck, EndedAt: time.UnixMilli(2000).UTC()}
	if list, err := s.Outcomes(ctx, time.Time{}, 7, 7); err != nil || len(list) != 1 || list[0] != want {
		t.Errorf("%+v, %v", list, err)
	}
	again := fleet.DeploymentReport{Deployment: fleet.Deployment{Schema: 1, Host: "joker", Release: fleet.ReleaseRef{Number: 6}, EndedAt: time.UnixMilli(1000)}, Log: "again"}
	must(t, s.PutDeployment(ctx, again))
	if got := numbers(); !reflect.DeepEqual(got, []int{6, 7}) {
		t.Errorf("told again: %v", got)
	}
	if d, found, err := s.Diff(ctx, "joker"); err != nil || !found || d.After != "/nix/store/a" {
		t.Errorf("%+v, %v, %v", d, found, err)
	}
}

func fromThird(t *testing.T, s *tables.Store) {
	ctx := t.Context()
	acts, err := s.Acts(ctx, "joker", 10)
	if err != nil || len(acts) != 1 || acts[0].Act != "retry" {
		t.Fatalf("%+v, %v", acts, err)
	}
	must(t, s.PutAct(ctx, acts[0]))
	if acts, err := s.Acts(ctx, "joker", 10); err != nil || len(acts) != 1 {
		t.Errorf("told again: %+v, %v", acts, err)
	}
}

func TestNewerSchemaIsLeftAlone(t *testing.T) {
	file := made(t, 3, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, 1)`)
	if _, err := Open(t.Context(), file); fleet.CodeOf(err) != fleet.CodeState || !strings.Contains(err.Error(), "newer Garrison") || !strings.Contains(err.Error(), file) {
		t.Error(err)
	}
}
