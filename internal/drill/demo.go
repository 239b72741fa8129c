// Package drill runs the whole way from outside: it starts hosts, pushes a change,
// and verifies by looking at what came of it. It calls the built binary as a
// person would and imports nothing of Garrison but the nouns and the sandbox, so it
// cannot cheat; signatures in the cache are checked with another implementation. Start at Demo.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Options of a demo.
type Options struct {
	Self     string // the garrison binary
	Dir      string // everything is kept below it; what an earlier demo left there is removed
	Fleet    fs.FS  // the example fleet
	Keep     bool   // wait for ctx's end before everything is stopped
	Out      io.Writer
	Terminal bool // Out may be drawn over
	Colour   bool
	Log      *slog.Logger
}

// demo is one run.
type demo struct {
	Options
	out    *printer
	world  *world
	report Report
	began  time.Time
	toEnd  bool // it came to its end
}

// madeHere says that a folder was made by the demo and may be removed by it.
const madeHere = ".garrison-demo"

// Demo runs the demo and writes Dir/report.json. Its error has CodeDrillFailed when a check
// failed, and is context.Canceled when ctx ended before the demo did.
func Demo(ctx context.Context, o Options) error {
	d := newDemo(o)
	if err := freshDir(o.Dir); err != nil {
		return err
	}
	err := d.play(ctx)
	if ctx.Err() != nil && !d.toEnd {
		err = context.Canceled // whatever it was that was interrupted
	}
	err = errors.Join(err, d.end())
	if err != nil {
		d.report.Result = Fail
	}
	file := filepath.Join(o.Dir, "report.json")
	err = errors.Join(err, d.report.save(file))
	if err == nil && d.report.Result != Pass {
		err = fleet.Errorf("", fleet.CodeDrillFailed, "the demo failed").
			WithHint("see %s, and the logs in %s and, on each, in var/log", shown(file), shown(filepath.Join(o.Dir, "hosts")))
	}
	return err
}

func newDemo(o Options) *demo {
	return &demo{Options: o, began: time.Now(), out: &printer{w: o.Out, terminal: o.Terminal, colour: o.Colour},
		report: Report{Schema: ReportSchema, Result: Pass, Checks: []Check{}, Stages: map[string]float64{}}}
}

// end switches all machines off.
func (d *demo) end() error {
	if d.world == nil || d.world.lan == nil {
		return nil
	}
	return d.world.lan.Close()
}

// shown is a path as people like to read it.
func shown(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(wd, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}

// freshDir empties dir if an earlier demo made it, and refuses any other that is not empty.
func freshDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, madeHere)); len(entries) > 0 && err != nil {
		return fleet.Errorf("", fleet.CodeUsage, "%s is not empty, and no demo made it", dir).WithHint("choose another folder with --dir")
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("what an earlier demo left cannot be removed; is one running? %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, madeHere), nil, 0o644)
}

// play is the whole story.
func (d *demo) play(ctx context.Context) (err error) {
	if err := d.build(ctx); err != nil {
		return err
	}
	if err := d.firstRelease(ctx); err != nil {
		return err
	}
	if err := d.visibleChange(ctx); err != nil {
		return err
	}
	if err := d.failures(ctx); err != nil {
		return err
	}
	d.toEnd = true
	d.summary()
	if d.Keep {
		d.lookAround()
		<-ctx.Done()
	} else {
		d.out.line("%s", d.out.paint(grey, "to look around in it: garrison demo --keep"))
	}
	return nil
}

// build starts all machines.
func (d *demo) build(ctx context.Context) (err error) {
	d.out.title("Six machines, each with a /nix, an /etc and a network of its own")
	stop := d.out.waiting("starting them")
	defer stop()
	if d.world, err = newWorld(ctx, d.Options); err != nil {
		return err
	}
	w := d.world
	if err := w.startForge(ctx); err != nil {
		return err
	}
	if err := w.startDeveloper(ctx); err != nil {
		return err
	}
	for _, h := range append([]string{manual}, followed...) {
		if err := w.startHost(ctx, h); err != nil {
			return err
		}
	}
	// The manual host has a text that somebody put there by hand, and that must stay.
	if err := os.WriteFile(w.hosts[manual].Path("/etc/gitops-test"), []byte(byHand), 0o644); err != nil {
		return err
	}
	for _, h := range w.lan.Hosts() {
		role := "host: garrison agent follows the release branch"
		switch h.Name() {
		case "forge":
			role = "git repository, and garrison hub: cache, CI, wake-up"
		case "developer":
			role = "pushes to main"
		case manual:
			role = "host deployed by hand: its agent looks, and leaves it alone"
		}
		d.out.line("  %-10s  %-11s  %s", h.Name(), h.Addr(), d.out.paint(grey, role))
	}
	return nil
}

const byHand = "put here by hand\n"

// firstRelease brings the fleet from nothing to release-1.
func (d *demo) firstRelease(ctx context.Context) error {
	d.out.title("The first release: the developer pushes the fleet to main")
	text := "first release\n"
	if err := d.world.write("gitops-test", []byte(text)); err != nil {
		return err
	}
	commit, err := d.world.commit(ctx, "The fleet")
	if err != nil {
		return err
	}
	c, err := d.push(ctx, commit, false)
	if err != nil {
		return err
	}
	d.check("CI made release-1", func() (string, error) { return c.released(1) })
	d.check("every followed host runs it", func() (string, error) { return d.world.allCommitted(c) })
	d.check("gitops-test is on each host", func() (string, error) { return d.world.seeText(text) })
	if d.report.Result == Fail {
		return fleet.Errorf("", fleet.CodeDrillFailed, "the first release did not arrive").WithHint("see the logs below %s", filepath.Join(d.Dir, "hosts"))
	}
	return nil
}

// visibleChange is the change that is timed and looked at from all sides.
func (d *demo) visibleChange(ctx context.Context) error {
	d.out.title("A visible change: /etc/gitops-test gets another text (seconds since git push)")
	text := "hello from the drill, " + d.world.token("text") + "\n"
	if err := d.world.write("gitops-test", []byte(text)); err != nil {
		return err
	}
	commit, err := d.world.commit(ctx, "Greet everybody")
	if err != nil {
		return err
	}
	c, err := d.push(ctx, commit, true)
	if err != nil {
		return err
	}
	c.measure(&d.report)
	w := d.world
	d.out.title("Looking at what came of it")
	d.check("CI made release-2", func() (string, error) { return c.released(2) })
	d.check("its tag is signed with the release key", func() (string, error) { return w.seeSignature(ctx, 2) })
	d.check("every followed host committed it", func() (string, error) { return w.allCommitted(c) })
	d.check("gitops-test is on each host", func() (string, error) { return w.seeText(text) })
	d.check("profile and boot entry are the released system's", func() (string, error) { return w.seeSystems(c) })
	d.check("each secret is decrypted on the hosts it is for", func() (string, error) { return w.seeSecrets() })
	d.check("and can be decrypted by no other host", func() (string, error) { return w.seeNoOtherSecrets(ctx) })
	d.check("every closure is in the cache, whole and signed", func() (string, error) { return w.seeCache(ctx, c) })
	d.check("the hosts fetched it from there and built nothing", func() (string, error) { return w.seeFetched(ctx, c) })
	d.check(manual+" is untouched", func() (string, error) { return w.seeManual(ctx, 2) })
	return nil
}

// failures pushes two commits that must not arrive.
func (d *demo) failures(ctx context.Context) error {
	d.out.title("A commit that breaks evaluation")
	good, err := fs.ReadFile(d.Fleet, "hosts/joker/default.nix")
	if err != nil {
		return err
	}
	if err := d.world.write("hosts/joker/default.nix", []byte("throw \"joker: no such option: frobnicator\"\n")); err != nil {
		return err
	}
	if err := d.failing(ctx, "Break evaluation", "joker: no such option: frobnicator"); err != nil {
		return err
	}
	d.out.title("A commit that evaluates, but does not build")
	if err := d.world.write("hosts/joker/default.nix", good); err != nil {
		return err
	}
	if err := d.world.write("hosts/joker/build.sh", []byte("echo 'joker: cannot compile frobnicator' >&2; exit 3\n")); err != nil {
		return err
	}
	return d.failing(ctx, "Break the build", "joker: cannot compile frobnicator")
}

// failing pushes what is written and checks that nothing moved, and that the log says why.
func (d *demo) failing(ctx context.Context, message, complaint string) error {
	w := d.world
	before, err := w.snapshot(ctx)
	if err != nil {
		return err
	}
	commit, err := w.commit(ctx, message)
	if err != nil {
		return err
	}
	c, err := d.push(ctx, commit, false)
	if err != nil {
		return err
	}
	d.check(message+": CI failed, and names the host", func() (string, error) { return c.failed("joker") })
	d.check("its log shows the error", func() (string, error) { return w.seeLog(ctx, c, complaint) })
	d.check("release branch and tags are byte-identical, the hosts stay", func() (string, error) {
		after, err := w.snapshot(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return fmt.Sprintf("%d lines compared", strings.Count(before, "\n")), err
	})
	return nil
}

// stages in the order of the table, and what is done in them.
var stages = []struct{ name, what string }{
	{"ci-fetch", "CI fetches main and the last release"},
	{"evaluate", "every host, once"},
	{"re-key", "secrets, from the editors' keys to the hosts'"},
	{"build", "the hosts' systems"},
	{"push", "closures to the cache"},
	{"publish", "release branch and signed tag, both or none"},
	{"fetch", "the host that was last looks at the release branch, woken"},
	{"verify", "signature, fast-forward, number"},
	{"stage", "closure from the cache, signatures checked"},
	{"gate", "nothing to wait for"},
	{"activate", "switch-to-configuration test"},
	{"check", "does the new system run, did units fail?"},
	{"commit", "profile and boot entry"},
}

// summary prints the table of stages, and the verdict.
func (d *demo) summary() {
	d.out.title("The visible change, stage by stage")
	for _, s := range stages {
		if seconds, ran := d.report.Stages[s.name]; ran {
			d.out.line("  %-14s %7.3f s  %s", s.name, seconds, d.out.paint(grey, s.what))
		}
	}
	d.out.line("  %-14s %7.3f s  %s", "push → active", d.report.PushToActiveSeconds, d.out.paint(grey, fmt.Sprintf("%.3f s of it neither git, nix nor switch-to-configuration", d.report.OwnSeconds)))
	passed := 0
	for _, c := range d.report.Checks {
		if c.Result == Pass {
			passed++
		}
	}
	verdict := d.out.paint(green, "PASS")
	if d.report.Result == Fail {
		verdict = d.out.paint(red, "FAIL")
	}
	d.out.line("\n%s  %d of %d checks passed in %.1f s; report: %s", verdict, passed, len(d.report.Checks), time.Since(d.began).Seconds(), shown(filepath.Join(d.Dir, "report.json")))
}

// lookAround tells how to look at what runs.
func (d *demo) lookAround() {
	d.out.title("Everything goes on running until Ctrl-C. A shell on a machine:")
	for _, h := range d.world.lan.Hosts() {
		d.out.line("  %-10s  %s", h.Name(), h.ShellCommand())
	}
	d.out.line("\nOn a host       garrison status; garrison history; cat /etc/gitops-test; cat /var/log/agent.log")
	d.out.line("As developer    cd %s; git log --all --graph; change gitops-test, commit, git push origin main", clone)
	d.out.line("On the forge    garrison cache info fleet --url %s; cat /var/log/hub.log", hubURL)
}
