package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/garrison-nix/garrison/internal/drill"
	"github.com/garrison-nix/garrison/internal/durable"
	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	maxDrillReport = 16 << 20 // bytes
	drillsKept     = 400      // more than a year of nights
	drillsShown    = 20
)

// drillsDir is where drills are kept; dir, if it is set.
func drillsDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "garrison", "drills"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fleet.Errorf(fleet.Local, fleet.CodeState, "there is no place to keep drills").WithCause(err).WithHint("set XDG_STATE_HOME, or --kept DIR")
	}
	return filepath.Join(home, ".local", "state", "garrison", "drills"), nil
}

// ours is how the files of kept drills are named: what else lies in their folder is never removed.
var ours = regexp.MustCompile(`^\d{8}T\d{6}Z-[0-9A-Z]{8}\.json$`)

// keepDrill keeps a report, and of all only the newest. Two drills may end at once.
func keepDrill(dir string, r fleet.DrillReport) (err error) {
	if dir, err = drillsDir(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return notKept(dir, err)
	}
	lock, err := durable.Lock(filepath.Join(dir, ".lock"))
	if err != nil {
		return notKept(dir, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	_ = durable.Sweep(dir) // what a save that was killed has left; if that stays, the next one gets it
	name := r.StartedAt.UTC().Format("20060102T150405Z") + "-" + r.ID[:8] + ".json"
	if err := writeReport(filepath.Join(dir, name), "json", r); err != nil {
		return err
	}
	files, err := os.ReadDir(dir) // by name, which is by time
	if err != nil {
		return notKept(dir, err)
	}
	files = slices.DeleteFunc(files, func(f fs.DirEntry) bool { return !ours.MatchString(f.Name()) || !f.Type().IsRegular() })
	var errs []error
	for _, f := range files[:max(0, len(files)-drillsKept)] {
		errs = append(errs, os.Remove(filepath.Join(dir, f.Name())))
	}
	return errors.Join(errs...)
}

func notKept(dir string, err error) error {
	return fleet.Errorf(fleet.Local, fleet.CodeState, "the drill cannot be kept in %s", dir).WithCause(err)
}

// keptDrills are all that can be read; the others are named.
func keptDrills(dir string) (all []fleet.DrillReport, unread []drill.Unread, err error) {
	files, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, nil, fleet.Errorf(fleet.Local, fleet.CodeState, "the kept drills in %s cannot be read", dir).WithCause(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), ".") {
			continue
		}
		file := filepath.Join(dir, f.Name())
		r, err := readDrill(file)
		if err != nil {
			unread = append(unread, drill.Unread{File: file, Reason: err.Error()})
			continue
		}
		all = append(all, r)
	}
	return all, unread, nil
}

func readDrill(file string) (r fleet.DrillReport, err error) {
	info, err := os.Lstat(file)
	if err != nil {
		return r, err
	}
	if !info.Mode().IsRegular() { // a pipe would never end
		return r, errors.New("it is no file")
	}
	if _, err := durable.ReadJSON(file, maxDrillReport, &r); err != nil {
		return r, err
	}
	switch {
	case r.Schema > fleet.DrillSchema:
		return r, fmt.Errorf("it has schema %d, and this garrison knows %d", r.Schema, fleet.DrillSchema)
	case r.Schema != fleet.DrillSchema || r.ID == "" || r.StartedAt.IsZero() || r.EndedAt.Before(r.StartedAt):
		return r, errors.New("it is no report of a drill")
	}
	return r, nil
}

func (a *app) drillHistory() *cobra.Command {
	var kept string
	var n int
	cmd := &cobra.Command{
		Use:   "history",
		Short: "Show how the drills went that were kept by --save: figures, trends, which scenario failed when",
		Args:  exactly(),
	}
	format := output(cmd)
	cmd.Flags().IntVarP(&n, "number", "n", drillsShown, "how many drills of a host to list, the newest first (trends are of all)")
	cmd.Flags().StringVar(&kept, "kept", "", "folder with the kept drills (default: $XDG_STATE_HOME/garrison/drills)")
	cmd.RunE = func(*cobra.Command, []string) error {
		if n < 1 {
			return usage(cmd, fmt.Errorf("-n takes a number from 1 on, not %d", n))
		}
		dir, err := drillsDir(kept)
		if err != nil {
			return err
		}
		all, unread, err := keptDrills(dir)
		if err != nil {
			return err
		}
		h := drill.HistoryOf(all, unread)
		if *format == "json" {
			return a.json(h)
		}
		a.tellDrills(h, dir, n)
		return nil
	}
	return cmd
}

func (a *app) tellDrills(h drill.History, dir string, n int) {
	s := a.console()
	if len(h.Fleets) == 0 {
		s.line(plain, "no drill was kept in %s yet: garrison drill --save", dir)
	}
	for i, c := range h.Fleets {
		if i > 0 {
			s.line(plain, "")
		}
		failed := 0
		for _, d := range c.Drills {
			if !d.Passed {
				failed++
			}
		}
		s.line(strong, "%s, %s: %d drills, %d failed; push → healthy, oldest first: %s", c.Where, c.Host, len(c.Drills), failed, c.Line(n))
		rows := [][]cell{header("WHEN", "RESULT", "PUSH→HEALTHY", "OWN", "CI", "WAKE, POLL", "STAGING", "ACTIVATION", "FAILED")}
		for _, d := range c.Drills[:min(n, len(c.Drills))] {
			rows = append(rows, drillRow(d))
		}
		s.table(rows)
		s.line(faint, "seconds: median/p95; ↑ ↓ = longer, shorter, about the same (10 %% or 20 ms) as the median of all drills before")
		s.line(plain, "")
		rows = [][]cell{header("SCENARIO", "PASSED", "FAILED", "SKIPPED", "LAST FAILED")}
		for _, p := range c.Scenarios {
			when, is := "", plain
			if p.LastFailed != nil {
				when = p.LastFailed.Local().Format(time.DateTime)
			}
			if p.Failed > 0 {
				is = yellow
			}
			rows = append(rows, []cell{{p.Name, plain}, {fmt.Sprint(p.Passed), plain}, {fmt.Sprint(p.Failed), is}, {fmt.Sprint(p.Skipped), plain}, {when, plain}})
		}
		s.table(rows)
	}
	for _, u := range h.Unread {
		s.line(yellow, "not read: %s: %s", u.File, u.Reason)
	}
}

// drillRow is a drill in the table.
func drillRow(d drill.Past) []cell {
	result, is := "passed", green
	if !d.Passed {
		result, is = "FAILED", red
	}
	row := []cell{{d.StartedAt.Local().Format(time.DateTime), plain}, {fmt.Sprintf("%s %d/%d", result, d.ScenariosPassed, d.ScenariosPassed+len(d.Failed)), is}}
	for i := range drill.Trends {
		var c cell
		if d.Figures != nil {
			f := d.Figures[i]
			c.text = fmt.Sprintf("%.2f/%.2f", f.Median, f.P95)
			if f.Before != nil {
				c.text += map[int]string{1: " ↑", 0: " =", -1: " ↓"}[f.Direction()]
				c.ink = map[int]ink{1: yellow, 0: plain, -1: green}[f.Direction()]
			}
		}
		row = append(row, c)
	}
	return append(row, cell{strings.Join(d.Failed, " "), red})
}
