// Package drill runs the whole way from outside: it starts hosts, pushes a change,
// and verifies by looking at what came of it. It calls the built binary as a
// person would and imports nothing of Garrison but the nouns and the sandbox, so it
// cannot cheat; signatures in the cache are checked with another implementation. Start at Demo.
package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Options of a demo.
type Options struct {
	Self     string // the garrison binary
	Version  string // of it
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
	*session
	world *world
	toEnd bool // it came to its end
}

// madeHere says that a folder was made by the demo and may be emptied by it; who is at work there holds it as a lock.
const madeHere = ".garrison-demo"

// Demo runs the demo and writes Dir/report.json. Its error has CodeDrillFailed when a check
// failed, and is context.Canceled when ctx ended before the demo did.
func Demo(ctx context.Context, o Options) error {
	d := newDemo(o)
	mine, err := freshDir(o.Dir)
	if err != nil {
		return err
	}
	defer func() { _ = mine.Close() }()
	err = d.play(ctx)
	if ctx.Err() != nil && !d.toEnd {
		err = context.Canceled // whatever it was that was interrupted
	}
	err = errors.Join(err, d.end())
	d.judge(err)
	file := filepath.Join(o.Dir, demoReport)
	err = errors.Join(err, save(file, d.report))
	if err == nil && !d.report.Passed {
		err = fleet.Errorf("", fleet.CodeDrillFailed, "the demo failed").
			WithHint("see %s, and the logs in %s and, on each, in var/log", shown(file), shown(filepath.Join(o.Dir, "hosts")))
	}
	return err
}

// demoReport is the file's name in the demo's folder.
const demoReport = "report.json"

func newDemo(o Options) *demo {
	s := newSession(DrillOptions{Options: o})
	s.report.Where = "demo"
	return &demo{session: s}
}

// save writes a report, as json.
func save(file string, r fleet.DrillReport) error {
	var b bytes.Buffer
	if err := Write(&b, r, "json"); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}

// scene plays a part of the demo. Its error is none of a check that failed.
func (d *demo) scene(ctx context.Context, name, title string, play func(r *run) error) error {
	d.out.title("%s", title)
	r := d.begin(name, title)
	err := play(r)
	r.end(unlessStopped(ctx, err))
	return err
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

// freshDir empties dir if an earlier demo made it, and refuses any other that is not empty. It is the caller's until what it returns is closed.
func freshDir(dir string) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	mark := filepath.Join(dir, madeHere)
	if _, err := os.Stat(mark); len(entries) > 0 && err != nil {
		return nil, fleet.Errorf("", fleet.CodeUsage, "%s is not empty, and no demo made it", dir).WithHint("choose another folder with --dir")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(mark, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { // its machines would lose their disks
		return nil, errors.Join(fleet.Errorf("", fleet.CodeUsage, "a demo, drill or bench runs in %s", dir).WithCause(err).WithHint("wait for its end, or choose another folder with --dir"), lock.Close())
	}
	for _, e := range entries {
		if e.Name() != madeHere {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("what an earlier demo left cannot be removed: %w", err), lock.Close())
	}
	return lock, nil
}

// play is the whole story.
func (d *demo) play(ctx context.Context) (err error) {
	if err := d.build(ctx); err != nil {
		return err
	}
	if err := d.firstRelease(ctx); err != nil {
		return err
	}
	if d.report.Scenarios[0].Result != fleet.DrillPass {
		return fleet.Errorf("", fleet.CodeDrillFailed, "the first release did not arrive").WithHint("see the logs below %s", filepath.Join(d.Dir, "hosts"))
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
	return d.scene(ctx, "first-release", "The first release: the developer pushes the fleet to main", func(r *run) error {
		text := "first release\n"
		c, err := d.send(ctx, text, "The fleet", false)
		if err != nil {
			return err
		}
		r.see("CI made release-1", func() (string, error) { return c.released(1) })
		r.see("every followed host runs it", func() (string, error) { return d.world.allCommitted(c) })
		r.see("gitops-test is on each host", func() (string, error) { return d.world.seeText(text) })
		return nil
	})
}

// send pushes another text and follows it.
func (d *demo) send(ctx context.Context, text, subject string, stages bool) (*change, error) {
	if err := d.world.write("gitops-test", []byte(text)); err != nil {
		return nil, err
	}
	commit, err := d.world.commit(ctx, subject)
	if err != nil {
		return nil, err
	}
	return d.push(ctx, commit, stages)
}

// visibleChange is the change that is timed and looked at from all sides.
func (d *demo) visibleChange(ctx context.Context) error {
	return d.scene(ctx, "visible-change", "A visible change: /etc/gitops-test gets another text (seconds since git push)", func(r *run) error {
		w := d.world
		text := "hello from the drill, " + w.token("text") + "\n"
		c, err := d.send(ctx, text, "Greet everybody", true)
		if err != nil {
			return err
		}
		last := c.slowest()
		d.report.Host, d.report.Timing = last.Host, timing([]journey{c.journey()}, 0)
		d.out.title("Looking at what came of it")
		r.see("CI made release-2", func() (string, error) { return c.released(2) })
		r.see("its tag is signed with the release key", func() (string, error) { return w.seeSignature(ctx, 2) })
		r.see("every followed host committed it", func() (string, error) { return w.allCommitted(c) })
		r.see("gitops-test is on each host", func() (string, error) { return w.seeText(text) })
		r.see("profile and boot entry are the released system's", func() (string, error) { return w.seeSystems(c) })
		r.see("each secret is decrypted on the hosts it is for", func() (string, error) { return w.seeSecrets() })
		r.see("and can be decrypted by no other host", func() (string, error) { return w.seeNoOtherSecrets(ctx) })
		r.see("every closure is in the cache, whole and signed", func() (string, error) { return w.seeCache(ctx, c) })
		r.see("the hosts fetched it from there and built nothing", func() (string, error) { return w.seeFetched(ctx, c) })
		r.see(manual+" is untouched", func() (string, error) { return w.seeManual(ctx, 2) })
		return nil
	})
}

// failures pushes two commits that must not arrive.
func (d *demo) failures(ctx context.Context) error {
	good, err := fs.ReadFile(d.Fleet, "hosts/joker/default.nix")
	if err != nil {
		return err
	}
	err = d.scene(ctx, "check-fails", "A commit that breaks evaluation", func(r *run) error {
		if err := d.world.write("hosts/joker/default.nix", []byte("throw \"joker: no such option: frobnicator\"\n")); err != nil {
			return err
		}
		return d.failing(ctx, r, "Break evaluation", "joker: no such option: frobnicator")
	})
	if err != nil {
		return err
	}
	return d.scene(ctx, "build-fails", "A commit that evaluates, but does not build", func(r *run) error {
		err := errors.Join(d.world.write("hosts/joker/default.nix", good),
			d.world.write("hosts/joker/build.sh", []byte("echo 'joker: cannot compile frobnicator' >&2; exit 3\n")))
		if err != nil {
			return err
		}
		return d.failing(ctx, r, "Break the build", "joker: cannot compile frobnicator")
	})
}

// failing pushes what is written and checks that nothing moved, and that the log says why.
func (d *demo) failing(ctx context.Context, r *run, message, complaint string) error {
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
	r.see(message+": CI failed, and names the host", func() (string, error) { return c.failed("joker") })
	r.see("its log shows the error", func() (string, error) { return w.seeLog(ctx, c, complaint) })
	r.see("release branch and tags are byte-identical, the hosts stay", func() (string, error) {
		after, err := w.snapshot(ctx)
		if err == nil && after != before {
			err = fmt.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		return fmt.Sprintf("%d lines compared", strings.Count(before, "\n")), err
	})
	return nil
}

// summary prints the table of stages, and the verdict.
func (d *demo) summary() {
	d.out.title("The visible change, stage by stage, in seconds")
	d.out.timing(d.report.Timing)
	passed, all := 0, 0
	for _, s := range d.report.Scenarios {
		for _, c := range s.Checks {
			if all++; c.Result == fleet.DrillPass {
				passed++
			}
		}
	}
	verdict := d.out.paint(green, "PASS")
	if passed < all {
		verdict = d.out.paint(red, "FAIL")
	}
	d.out.line("\n%s  %d of %d checks passed in %.1f s; report: %s", verdict, passed, all, time.Since(d.report.StartedAt).Seconds(), shown(filepath.Join(d.Dir, demoReport)))
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
