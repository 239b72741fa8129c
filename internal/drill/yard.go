package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// yard is a fleet made to be drilled: the demo's, with a systemd on hosts where this machine can, and a host that builds its system itself.
type yard struct {
	*world
	base string
	last string // commit that was put last
	bad  bool   // its marker breaks something
	ears *listener
}

const (
	drilled     = "ratched"
	selfBuilder = "ursula" // of a system that CI cannot build for
	otherSystem = "riscv64-linux"
	ears        = "192.0.2.1:8899" // where the hub tells of alerts
)

// makeYard starts the machines and makes the first release.
func (s *session) makeYard(ctx context.Context, y *yard) (err error) {
	s.out.title("A fleet to drill: forge, developer, and %d hosts", len(followed)+1)
	stop := s.out.waiting("starting them")
	defer stop()
	if y.world, err = newWorld(ctx, s.Options); err != nil {
		return err
	}
	y.agentExtra = "poll = \"5s\"\ncheckTime = \"15s\"\nreboot.when = \"ring\"\n"
	y.apart, y.cacheURL = true, apartURL+"/fleet"
	y.hubExtra = fmt.Sprintf("cache = %q\ncacheTokenFile = \"/etc/garrison/push-token\"\n[follow]\nsilent = \"20s\"\n[notify.limits]\nfetch = \"10s\"\n[[notify.senders]]\nname = \"person\"\ntype = \"webhook\"\nurl = \"http://%s/\"\n", y.cacheURL, ears)
	y.nixExtra = map[string]string{selfBuilder: "system = " + otherSystem + "\n"}
	if y.base != "" {
		y.bases = map[string]string{drilled: y.base, "joker": y.base}
	}
	if err := y.startForge(ctx); err != nil {
		return err
	}
	l, err := y.world.hosts["forge"].Listen("tcp", ears)
	if err != nil {
		return err
	}
	y.ears = newListener(l)
	if err := y.startDeveloper(ctx); err != nil {
		return err
	}
	for _, h := range append([]string{manual}, followed...) {
		if err := y.startHost(ctx, h); err != nil {
			return err
		}
	}
	// The manual host has a text that somebody put there by hand, and that must stay.
	if err := os.WriteFile(y.world.hosts[manual].Path("/etc/gitops-test"), []byte(byHand), 0o644); err != nil {
		return err
	}
	module := fmt.Sprintf("{\n  nixpkgs.hostPlatform = %q;\n  age.secrets.lair-wifi.file = ../../secrets/lair-wifi.age;\n}\n", otherSystem)
	if err := y.write("hosts/"+selfBuilder+"/default.nix", []byte(module)); err != nil {
		return err
	}
	p, err := y.put(ctx, newMarker(), "The fleet")
	if err != nil {
		return err
	}
	if err := y.converged(ctx, p.commit); err != nil {
		return fleet.Errorf("", fleet.CodeDrillFailed, "the first release did not arrive: %v", err).WithHint("see the logs below %s", shown(filepath.Join(s.Dir, "hosts")))
	}
	for _, h := range y.hosts() {
		kind := "its init is a small one: no systemd"
		if y.bases[h] != "" {
			kind = "with a systemd of its own"
		}
		if h == selfBuilder {
			kind += "; CI cannot build for it, so it builds its system itself"
		}
		s.out.line("  %-10s  %s", h, s.out.paint(grey, kind))
	}
	return nil
}

func (y *yard) where() string { return "sandbox" }

func (y *yard) hosts() []string {
	return append([]string{drilled}, slices.DeleteFunc(slices.Clone(followed), func(h string) bool { return h == drilled })...)
}

func (y *yard) ready(ctx context.Context) error { return y.converged(ctx, y.last) }

func (y *yard) put(ctx context.Context, m marker, subject string) (p pushed, err error) {
	if err := y.write(markerFile, m.bytes()); err != nil {
		return p, err
	}
	if p.commit, err = y.commit(ctx, subject); err != nil {
		return p, err
	}
	p.at = time.Now()
	_, err = y.git(ctx, "push", "--quiet", "origin", "main")
	y.last, y.bad = p.commit, len(m.Break) > 0
	return p, err
}

func (y *yard) ci(ctx context.Context, commit string) (verdict, error) {
	return hubVerdict(ctx, y.world, commit)
}

func (y *yard) refs(ctx context.Context) (string, error) {
	return y.run(ctx, "forge", "git", "-C", "/srv/git/fleet.git", "for-each-ref", "refs/heads/release*", "refs/tags")
}

func (y *yard) host(name string) observed { return inYard{y, name} }

// mend makes the fleet well again: what is broken in the repository is mended, and everybody runs it.
func (y *yard) mend(ctx context.Context) error {
	for _, h := range append([]string{"forge"}, y.hosts()...) {
		if err := y.world.hosts[h].RestoreLink(ctx); err != nil {
			return err
		}
	}
	if !y.bad && y.converged(ctx, y.last) == nil {
		return nil
	}
	p, err := y.put(ctx, newMarker(), "Mend what was drilled")
	if err != nil {
		return err
	}
	return y.converged(ctx, p.commit)
}

// converged waits until CI has released the commit and every host runs it; it does not wait for what does not come by itself.
func (y *yard) converged(ctx context.Context, commit string) error {
	return y.convergedOn(ctx, commit, y.hosts())
}

// convergedOn does so for some hosts.
func (y *yard) convergedOn(ctx context.Context, commit string, hosts []string) error {
	return until(ctx, patience, lookAgain, func() error {
		v, err := y.ci(ctx, commit)
		switch {
		case err != nil:
			return err
		case v.state == ciFailed:
			return final{fmt.Errorf("CI failed: %s", v.why)}
		case v.state != ciReleased:
			return errors.New("CI has not ended")
		}
		var errs []error
		for _, h := range hosts {
			s, err := y.status(ctx, h)
			if err == nil && (s.Newest == nil || s.Newest.Source.Commit != commit || !s.Converged() || s.Drift) {
				err = fmt.Errorf("%s: %s", h, s.Summary())
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func (y *yard) close() error {
	if y.world == nil || y.lan == nil {
		return nil
	}
	lan := y.lan
	y.lan = nil
	var err error
	if y.ears != nil {
		err = y.ears.close()
	}
	return errors.Join(err, lan.Close())
}

// inYard is a host of the yard.
type inYard struct {
	*yard
	name string
}

func (h inYard) system(context.Context) (string, error) {
	return h.world.hosts[h.name].Readlink("/run/current-system")
}

func (h inYard) marker(context.Context) (string, error) {
	b, err := h.world.hosts[h.name].ReadFile("/etc/gitops-test")
	return string(b), err
}

func (h inYard) log(ctx context.Context) (string, error) {
	return h.run(ctx, h.name, "garrison", "logs")
}

func (h inYard) status(ctx context.Context) (*fleet.Status, error) {
	s, err := h.world.status(ctx, h.name)
	return &s, err
}

func (h inYard) deployment(ctx context.Context, commit string) (*fleet.Deployment, error) {
	s, err := h.status(ctx)
	if err != nil || s.Last == nil || !strings.EqualFold(s.Last.Release.Source.Commit, commit) {
		return nil, err
	}
	return s.Last, nil
}
