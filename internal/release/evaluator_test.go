package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// evaluated is what became of an evaluation.
type evaluated struct {
	evaluation *evaluation
	err        error
	told       map[string]error // each host's
	processes  int              // that evaluated hosts
	log        strings.Builder
}

// evaluate evaluates the hosts a … f of a new flake with one job: the first by itself, then all others together. special are those
// whose system is no common derivation, as attributes in the Nix language.
func evaluate(t *testing.T, n *nix.Nix, special string, change func(*evaluator, *evaluated) context.Context) *evaluated {
	t.Helper()
	dir := t.TempDir()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	git := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...).Output()
		try(err)
		return strings.TrimSpace(string(out))
	}
	git("init", "--quiet", "--initial-branch=main")
	try(os.WriteFile(filepath.Join(dir, "flake.nix"), []byte(`{ outputs = { self }: { nixosConfigurations = builtins.mapAttrs (name: top: { config = {
		age.secrets.own.file = ./. + "/${name}.age";
		services.garrison.hostKeys = "key of ${name}";
		system.build.toplevel = builtins.trace "looking at ${name}" top;
	}; }) (let
		top = name: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; };
		all = builtins.listToAttrs (map (name: { inherit name; value = top name; }) [ "a" "b" "c" "d" "e" "f" ]);
	in all // { `+special+` }); }; }`), 0o644))
	git("add", ".")
	git("commit", "--quiet", "-m", "Hosts")

	real, err := exec.LookPath("nix")
	try(err)
	log := filepath.Join(dir, "log")
	try(os.WriteFile(filepath.Join(dir, "nix"), []byte("#!/bin/sh\necho \"$*\" | grep -qF 'Configurations.${' && echo >>"+log+"\nexec "+real+" \"$@\"\n"), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	v := newEvaluator(n, plainSource(), 1, 0)
	v.aim, v.limit = time.Hour, time.Hour
	e := &evaluated{told: map[string]error{}}
	v.nix.Log = &e.log
	v.each = func(h nix.Host, err error) {
		if _, twice := e.told[h.Name]; twice {
			t.Errorf("%s was told twice", h.Name)
		}
		e.told[h.Name] = err
	}
	ctx := t.Context()
	if change != nil {
		ctx = change(v, e)
	}
	e.evaluation, e.err = v.all(ctx, []nix.Flake{{GitDir: filepath.Join(dir, ".git"), Ref: "refs/heads/main", Commit: git("rev-parse", "HEAD")}})
	lines, err := os.ReadFile(log)
	try(err)
	e.processes = len(lines)
	return e
}

// wantHosts is for an evaluation of which all of a … f are to be known but those in but.
func (e *evaluated) wantHosts(t *testing.T, but ...string) {
	t.Helper()
	if len(e.told) != 6 {
		t.Errorf("told of %v", e.told)
	}
	for _, h := range e.evaluation.hosts {
		failed := slices.Contains(but, h.Name)
		if (e.told[h.Name] != nil) != failed {
			t.Errorf("%s: %v", h.Name, e.told[h.Name])
		}
		if !failed && (!strings.HasSuffix(h.OutPath, "-"+h.Name) || !strings.HasSuffix(h.DrvPath, "-"+h.Name+".drv") || h.System != "x86_64-linux" ||
			len(h.Secrets) != 1 || !strings.HasSuffix(h.Secrets[0].File, "/"+h.Name+".age") || !slices.Equal(h.HostKeys, []string{"key of " + h.Name}) ||
			h.Kind != nix.NixOS || h.Flake != e.evaluation.flakes[0] || h.Took <= 0) {
			t.Errorf("%+v", h)
		}
	}
}

func TestHostsAreEvaluatedTogether(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		e := evaluate(t, n, "", nil)
		e.wantHosts(t)
		if e.err != nil || e.processes != 2 {
			t.Errorf("%d processes: %v", e.processes, e.err)
		}
		for _, name := range []string{"a", "b", "f"} {
			if strings.Count(e.log.String(), "looking at "+name) != 1 {
				t.Errorf("what Nix says of %s: %s", name, &e.log)
			}
		}
	})
}

// TestHostsThatFailTogether are evaluated one by one: each failure is named with Nix's own words.
func TestHostsThatFailTogether(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		e := evaluate(t, n, `b = throw "no frobnicator"; d = "no derivation";`, nil)
		e.wantHosts(t, "b", "d")
		if e.processes != 2+5 || fleet.CodeOf(e.err) != fleet.CodeEvaluate || !strings.Contains(e.err.Error(), "2 hosts do not evaluate: b, d") {
			t.Errorf("%d processes: %v", e.processes, e.err)
		}
		if err := e.told["b"]; !strings.Contains(err.Error(), "host b does not evaluate:") || !strings.Contains(err.Error(), "no frobnicator") {
			t.Error(err)
		}
		if strings.Count(e.log.String(), "looking at a") != 1 || strings.Count(e.log.String(), "looking at c") != 1 {
			t.Errorf("what Nix says: %s", &e.log)
		}
	})
}

// TestHostsTogetherAreBounded: what several take is bounded, also where what one takes is not.
func TestHostsTogetherAreBounded(t *testing.T) {
	const hungry = `let s = builtins.foldl' (s: _: s + s) "12345678" (builtins.genList (x: x) 25); in builtins.seq s ({ inherit s; } // top "`
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		e := evaluate(t, n, `c = `+hungry+`c"); d = `+hungry+`d");`, nil)
		e.wantHosts(t)
		if e.err != nil || e.processes != 2+5 {
			t.Errorf("%d processes: %v", e.processes, e.err)
		}
	})
}

// TestEndlessHostHoldsUpNoOther that would be evaluated with it. Nix needs ten seconds to be killed, so this runs with one of them.
func TestEndlessHostHoldsUpNoOther(t *testing.T) {
	e := evaluate(t, nixtest.System(t), `d = let l = builtins.genList (x: x) 10000; each = g: builtins.foldl' (a: b: builtins.seq (g b) a) 0 l;
		in each (_: each (_: each (_: each (_: 0))));`, func(v *evaluator, _ *evaluated) context.Context {
		ctx, cancel := context.WithCancelCause(t.Context())
		v.limit, v.jobs = time.Second, 2
		v.told = func(done, of int) {
			if done == of-1 {
				cancel(errors.New("all others were told"))
			}
		}
		return ctx
	})
	if e.err == nil || !strings.Contains(e.err.Error(), "all others were told") {
		t.Error(e.err)
	}
	for _, name := range []string{"a", "b", "c", "e", "f"} {
		if err, told := e.told[name]; !told || err != nil {
			t.Errorf("%s: %v, %v", name, told, err)
		}
	}
}

func TestPace(t *testing.T) {
	p := &pace{of: 100, aim: time.Second, size: 1, most: 40}
	type step struct {
		took time.Duration
		err  error
		want int // hosts the next time
	}
	no := fmt.Errorf("no")
	for i, s := range []step{
		{4 * time.Second, nil, 1}, {time.Second / 4, nil, 4}, {time.Second / 2, nil, 8}, {8 * time.Millisecond, nil, 40},
		{time.Second, no, 20}, {20 * time.Second, nil, 1}, {time.Millisecond, no, 1}, {time.Millisecond, nil, 20},
	} {
		from, to := p.take()
		p.learn(to-from, s.took, s.err)
		if p.size != s.want {
			t.Errorf("step %d: after %d in %s the next are %d, want %d", i, to-from, s.took, p.size, s.want)
		}
	}
	if from, to := p.take(); from != 76 || to != 96 {
		t.Errorf("%d, %d", from, to)
	}
	if from, to := p.take(); from != 96 || to != 100 {
		t.Errorf("%d, %d", from, to)
	}
	if from, to := p.take(); from != to {
		t.Errorf("%d, %d", from, to)
	}
}

// plainSource is one that needs nothing besides the repository.
func plainSource() *source { return &source{Checkout: &git.Checkout{}} }
