package web

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/hub"
)

// waterfall is what happened when, on one axis. All positions are percent of its width.
type waterfall struct {
	Ticks []tick
	Bars  []bar
	More  int // bars that are left out
}

type tick struct {
	X    float64
	Text string
}

// bar is a stage of CI, or a host with all its stages.
type bar struct {
	Name, Class string
	Link        string
	Standing    string // of a host
	Why         string
	Parts       []part
	Seconds     float64
	Tools       float64 // of Seconds, when git, nix or switch-to-configuration ran
	Began       float64 // seconds after the beginning of the axis
	Off         string  // why there are no parts: "under way", "3 h later"
	Deployment  *fleet.Deployment
}

// part is a stage. The first of it, as wide as the share of the tools, is drawn fuller; when exactly they ran is not known.
type part struct {
	Class, Title string
	X, W, Tools  float64
}

// end says after how many seconds the axis ends: with the last stage, but for what comes much later than most, which has no room beside them.
func end(ends []float64) float64 {
	if len(ends) == 0 {
		return 1
	}
	slices.Sort(ends)
	most := max(60, 4*ends[(len(ends)-1)/2])
	last := ends[0]
	for _, e := range ends {
		if e <= most {
			last = e
		}
	}
	return max(last, 0.1)
}

func (w *waterfall) axis(length float64) {
	step := math.Pow(10, math.Floor(math.Log10(length/4)))
	for _, n := range []float64{1, 2, 5, 10} {
		if length/(step*n) <= 5 {
			step *= n
			break
		}
	}
	for at := 0.0; at <= length; at += step {
		text := fmt.Sprintf("%g s", math.Round(at*100)/100)
		if at >= 600 {
			text = span(at)
		}
		w.Ticks = append(w.Ticks, tick{100 * at / length, text})
	}
}

// parts draws stages on an axis from zero, so many seconds long.
func parts(stages []fleet.StageTime, zero time.Time, length float64) (list []part) {
	for _, s := range stages {
		from := 100 * s.StartedAt.Sub(zero).Seconds() / length
		p := part{Class: slug(s.Stage), X: max(0, from), W: min(100, from+100*s.Seconds/length) - max(0, from)}
		if p.X >= 100 || p.W <= 0 {
			continue
		}
		p.Tools = p.W * min(1, s.ToolSeconds/max(s.Seconds, 1e-9))
		p.Title = fmt.Sprintf("%s %s, of it %s git, nix or switch-to-configuration", s.Stage, seconds(s.Seconds), seconds(s.ToolSeconds))
		list = append(list, p)
	}
	return list
}

func tools(stages []fleet.StageTime) (seconds float64) {
	for _, s := range stages {
		seconds += s.ToolSeconds
	}
	return seconds
}

func endsOf(stages []fleet.StageTime, zero time.Time) (ends []float64) {
	for _, s := range stages {
		ends = append(ends, s.EndedAt().Sub(zero).Seconds())
	}
	return ends
}

// ciBars are the stages of a run, one below the other.
func ciBars(stages []fleet.StageTime, zero time.Time, length float64) (list []bar) {
	for _, s := range stages {
		one := []fleet.StageTime{s}
		list = append(list, bar{Name: string(s.Stage), Class: "ci", Parts: parts(one, zero, length), Seconds: s.Seconds, Tools: s.ToolSeconds, Began: s.StartedAt.Sub(zero).Seconds()})
	}
	return list
}

func fallOfRun(r *fleet.Run) (w waterfall) {
	zero := r.StartedAt
	if r.Source.PushedAt != nil && r.Source.PushedAt.Before(zero) {
		zero = *r.Source.PushedAt
	}
	length := end(endsOf(r.Stages, zero))
	w.axis(length)
	w.Bars = ciBars(r.Stages, zero, length)
	return w
}

// mostBars bounds how many hosts are drawn where not all are asked for.
const mostBars = 60

// fallOf is the way of a release, from the push to its last host: what is not done comes first, then who was last.
func fallOf(v fleet.ReleaseView, all bool) (w waterfall) {
	zero := v.CreatedAt
	var ci []fleet.StageTime
	if v.Run != nil {
		ci = v.Run.Stages
		zero = earlier(zero, v.Run.StartedAt)
	}
	if p := v.Release.Source.PushedAt; p != nil {
		zero = earlier(zero, *p)
	}
	ends := endsOf(ci, zero)
	var hosts []fleet.HostProgress
	for _, p := range v.Progress {
		if p.Standing == "unchanged" {
			continue
		}
		hosts = append(hosts, p)
		if p.Deployment != nil {
			ends = append(ends, p.Deployment.EndedAt.Sub(zero).Seconds())
		}
	}
	length := end(ends)
	w.axis(length)
	w.Bars = ciBars(ci, zero, length)
	rank := map[string]int{"failed": 1, "silent": 2, "retrying": 3, "waits": 4, "under way": 5}
	place := func(p fleet.HostProgress) int { return (rank[p.Standing] + 5) % 6 } // what is not in it, last
	slices.SortStableFunc(hosts, func(a, b fleet.HostProgress) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), ended(b).Compare(ended(a)))
	})
	for i, p := range hosts {
		if !all && i == mostBars {
			w.More = len(hosts) - i
			break
		}
		w.Bars = append(w.Bars, hostBar(p, zero, length))
	}
	return w
}

func hostBar(p fleet.HostProgress, zero time.Time, length float64) bar {
	b := bar{Name: p.Host, Class: "host", Link: "/-/hosts/" + p.Host, Standing: p.Standing, Why: p.Why, Deployment: p.Deployment}
	if p.Deployment == nil {
		b.Off = p.Standing
		return b
	}
	stages := p.Deployment.Stages
	b.Seconds, b.Tools, b.Parts = total(stages), tools(stages), parts(stages, zero, length)
	if len(stages) > 0 {
		b.Began = stages[0].StartedAt.Sub(zero).Seconds()
	}
	if len(b.Parts) == 0 {
		b.Off = span(p.Deployment.EndedAt.Sub(zero).Seconds()) + " after the push"
	}
	return b
}

func ended(p fleet.HostProgress) time.Time {
	if p.Deployment == nil {
		return time.Time{}
	}
	return p.Deployment.EndedAt
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// runLogShown bounds what of a run's log stands on its page, in bytes.
const runLogShown = 256 << 10

// logEnd is the end of a run's log; own is false when there is none here.
func logEnd(dir string, id int64) (text string, cut, own bool, err error) {
	f, err := os.Open(hub.LogFile(dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, false, nil
	}
	if err != nil {
		return "", false, false, err
	}
	defer f.Close()
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", false, true, err
	}
	from := max(0, at-runLogShown)
	b, err := io.ReadAll(io.NewSectionReader(f, from, at-from))
	return string(b), from > 0, true, err
}
