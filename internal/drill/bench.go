package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// FiguresSchema is the schema of Figures.
const FiguresSchema = 2

// Figures are what Bench measured; docs/DRILL.md describes them.
type Figures struct {
	Schema int `json:"schema"`
	// Timing is of pushes of a change whose systems the builder had built before, while no host had them.
	Timing *fleet.DrillTiming `json:"timing"`
	Agent  AgentFigures       `json:"agent"`
	// BinaryBytes is the size of the garrison binary.
	BinaryBytes int64 `json:"binaryBytes"`
}

// AgentFigures are an agent's that has nothing to do but to wait for a wake-up and to poll.
type AgentFigures struct {
	IdleSeconds   float64 `json:"idleSeconds"` // how long it was watched
	ResidentBytes int64   `json:"residentBytes"`
	CPUSeconds    float64 `json:"cpuSeconds"` // of the agent itself, git excluded
}

// BenchOptions say how much is measured.
type BenchOptions struct {
	Changes int           // how many pushes
	Idle    time.Duration // how long an idle agent is watched
}

// Bench starts the demo's machines and measures on them.
func Bench(ctx context.Context, o Options, b BenchOptions) (Figures, error) {
	d := newDemo(o)
	mine, err := freshDir(o.Dir)
	if err != nil {
		return Figures{}, err
	}
	defer func() { _ = mine.Close() }()
	f, err := d.bench(ctx, b)
	if ctx.Err() != nil {
		err = context.Canceled
	}
	return f, errors.Join(err, d.end())
}

func (d *demo) bench(ctx context.Context, b BenchOptions) (Figures, error) {
	f := Figures{Schema: FiguresSchema}
	info, err := os.Stat(d.Self)
	if err != nil {
		return f, err
	}
	f.BinaryBytes = info.Size()
	if err := d.build(ctx); err != nil {
		return f, err
	}
	if err := d.firstRelease(ctx); err != nil {
		return f, err
	}
	d.out.title("%d changes, built before they are pushed", b.Changes)
	var all []journey
	for i := range b.Changes {
		j, err := d.prebuiltChange(ctx, i)
		if err != nil {
			return f, err
		}
		all = append(all, j)
		d.out.line("  %2d  push → healthy %.3f s", i+1, j.Seconds)
	}
	f.Timing = timing(all, 0)
	d.out.title("An idle agent, for %s", b.Idle)
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(afterwards):
	}
	f.Agent, err = d.world.watchAgent(ctx, followed[0], b.Idle)
	return f, err
}

// afterwards is how long an agent may have something to tell of the last change.
const afterwards = 5 * time.Second

const prebuilt = "prebuilt"

// prebuiltChange has the builder build a change from a branch, then pushes it to main and times it.
func (d *demo) prebuiltChange(ctx context.Context, n int) (journey, error) {
	w := d.world
	text := fmt.Sprintf("change %d\n", n)
	if err := w.prebuild(ctx, text); err != nil {
		return journey{}, err
	}
	out := d.out
	d.out = &printer{w: io.Discard}
	c, err := d.send(ctx, text, fmt.Sprintf("Change %d", n), false)
	d.out = out
	if err != nil {
		return journey{}, err
	}
	if _, err := w.allCommitted(c); err != nil {
		return journey{}, err
	}
	if _, err := w.seeText(text); err != nil {
		return journey{}, err
	}
	return c.journey(), nil
}

// prebuild builds on the forge what the next release will hold: the last release with another text.
func (w *world) prebuild(ctx context.Context, text string) error {
	for _, args := range [][]string{
		{"fetch", "--quiet", "origin", "release"},
		{"checkout", "--quiet", "-B", prebuilt, "FETCH_HEAD"},
	} {
		if _, err := w.git(ctx, args...); err != nil {
			return err
		}
	}
	if err := w.write("gitops-test", []byte(text)); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"commit", "--quiet", "--all", "--message", "Build this"},
		{"push", "--quiet", "--force", "origin", prebuilt},
	} {
		if _, err := w.git(ctx, args...); err != nil {
			return err
		}
	}
	commit, err := w.git(ctx, "rev-parse", "HEAD")
	if err != nil {
		return err
	}
	if _, err := w.git(ctx, "checkout", "--quiet", "main"); err != nil {
		return err
	}
	args := []string{"--extra-experimental-features", "nix-command flakes", "build", "--no-link"}
	for _, h := range followed {
		args = append(args, "git+file:///srv/git/fleet.git?ref="+prebuilt+"&rev="+commit+"#nixosConfigurations."+h+".config.system.build.toplevel")
	}
	_, err = w.run(ctx, "forge", "nix", args...)
	return err
}

// watchAgent reads what the kernel says of a host's agent, before and after a time.
func (w *world) watchAgent(ctx context.Context, host string, idle time.Duration) (AgentFigures, error) {
	var f AgentFigures
	pid, err := w.hosts[host].ServicePID(ctx, "agent")
	if err != nil {
		return f, err
	}
	before, err := w.cpuSeconds(ctx, host, pid)
	if err != nil {
		return f, err
	}
	began := time.Now()
	select {
	case <-ctx.Done():
		return f, ctx.Err()
	case <-time.After(idle):
	}
	after, err := w.cpuSeconds(ctx, host, pid)
	if err != nil {
		return f, err
	}
	f.IdleSeconds, f.CPUSeconds = time.Since(began).Seconds(), after-before
	status, err := w.run(ctx, host, "cat", fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return f, err
	}
	for line := range strings.Lines(status) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			f.ResidentBytes = n << 10
			return f, err
		}
	}
	return f, fmt.Errorf("there is no VmRSS in %q", status)
}

const ticksPerSecond = 100 // USER_HZ, on every Linux that Go runs on

// cpuSeconds is what a process has used so far, its children excluded.
func (w *world) cpuSeconds(ctx context.Context, host string, pid int) (float64, error) {
	stat, err := w.run(ctx, host, "cat", fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, stat)
	}
	user, err := strconv.ParseFloat(fields[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(fields[12], 64)
	return (user + system) / ticksPerSecond, err
}

// Tell prints the figures as a table.
func (f Figures) Tell(o Options) {
	out := &printer{w: o.Out, terminal: o.Terminal, colour: o.Colour}
	out.title("%d pre-built changes, woken, in seconds", f.Timing.Repeat)
	out.timing(f.Timing)
	out.line("\nagent, idle    %7.1f MB resident, %.2f s of CPU in %.0f s", float64(f.Agent.ResidentBytes)/1e6, f.Agent.CPUSeconds, f.Agent.IdleSeconds)
	out.line("binary         %7.1f MB  %s", float64(f.BinaryBytes)/1e6, out.paint(grey, filepath.Base(o.Self)))
}
