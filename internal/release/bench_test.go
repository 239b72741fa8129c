package release_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/proc"
	"github.com/garrison-nix/garrison/internal/release"
)

// benchFlake has hosts that all declare the same secrets, by the names of the files.
const benchFlake = `{
  outputs = { self }:
    let
      names = map (builtins.replaceStrings [ ".age" ] [ "" ]) (builtins.attrNames (builtins.readDir ./secrets));
      host = name: { config = {
        age.secrets = builtins.listToAttrs (map (n: { name = n; value.file = ./secrets + "/${n}.age"; }) names);
        services.garrison.hostKeys = builtins.readFile (./hosts + "/${name}.pub");
        system.build.toplevel = derivation {
          name = "nixos-system-${name}"; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" "mkdir $out" ];
        };
      }; };
    in {
      nixosConfigurations = builtins.mapAttrs (n: _: host (builtins.replaceStrings [ ".pub" ] [ "" ] n)) (builtins.listToAttrs
        (map (n: { name = builtins.replaceStrings [ ".pub" ] [ "" ] n; value = null; }) (builtins.attrNames (builtins.readDir ./hosts))));
    };
}
`

// benchWorld has so many secrets, each for so many hosts with SSH keys.
func benchWorld(b *testing.B, secrets, hosts int) *world {
	b.Helper()
	w := newWorld(b, nixtest.System(b))
	w.do("git", "rm", "-rq", ".")
	w.write("flake.nix", benchFlake)
	for h := range hosts {
		w.write(fmt.Sprintf("hosts/host%d.pub", h), w.keygen(fmt.Sprintf("host%d", h)))
	}
	for s := range secrets {
		w.writeSecret(fmt.Sprintf("s%d", s), fmt.Sprintf("value %d", s))
	}
	w.push("Many secrets")
	return w
}

// timeNix puts a nix before the real one that notes when evaluations begin and end, and returns what they took
// altogether since it was asked last, in seconds. What it takes itself counts as Garrison's.
func timeNix(b *testing.B, w *world) func() float64 {
	b.Helper()
	real, err := exec.LookPath("nix")
	w.must(err)
	dir := b.TempDir()
	log := filepath.Join(dir, "log")
	script := "#!/bin/sh\ncase \" $* \" in *\" eval \"*) ;; *) exec " + real + " \"$@\";; esac\n" +
		"date '+%s%N 1' >> " + log + "\n" + real + " \"$@\"\nc=$?\ndate '+%s%N -1' >> " + log + "\nexit $c\n"
	w.must(os.WriteFile(filepath.Join(dir, "nix"), []byte(script), 0o755))
	b.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return func() float64 {
		data, err := os.ReadFile(log)
		w.must(err)
		w.must(os.Remove(log))
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		slices.Sort(lines)
		var total, since int64
		running := 0
		for _, line := range lines {
			var at int64
			var change int
			_, err := fmt.Sscan(line, &at, &change)
			w.must(err)
			if running == 0 {
				since = at
			}
			if running += change; running == 0 {
				total += at - since
			}
		}
		return time.Duration(total).Seconds()
	}
}

// timed makes a release that re-keys so many secrets, and returns how long it took and how long its re-keying did, in seconds.
func (w *world) timed(rekeyed int) (all, rekey float64) {
	w.t.Helper()
	t := &proc.Timeline{}
	began := time.Now()
	out, err := release.Run(proc.WithTimeline(w.t.Context(), t), w.options())
	all = time.Since(began).Seconds()
	w.must(err)
	if len(out.Rekeyed) != rekeyed {
		w.t.Fatalf("%d secrets were re-keyed, not %d", len(out.Rekeyed), rekeyed)
	}
	for _, s := range t.Stages() {
		if s.Stage == fleet.Rekey {
			rekey += s.Seconds
		}
	}
	return all, rekey
}

// BenchmarkRekey100x20 is the re-keying of 100 secrets for 20 hosts in a release, from git's objects to git's objects.
func BenchmarkRekey100x20(b *testing.B) {
	w := benchWorld(b, 100, 20)
	var took []float64
	for b.Loop() {
		for s := range 100 {
			w.writeSecret(fmt.Sprintf("s%d", s), time.Now().String())
		}
		w.push("All edited")
		_, rekey := w.timed(100)
		took = append(took, rekey)
	}
	report(b, took, "re-key")
}

// BenchmarkOneOf2000 is a release in which one of 2,000 secrets, each for 20 hosts, was edited: all of it but evaluation.
func BenchmarkOneOf2000(b *testing.B) {
	w := benchWorld(b, 2000, 20)
	w.timed(2000)
	evaluations := timeNix(b, w)
	var took []float64
	for b.Loop() {
		w.writeSecret("s7", time.Now().String())
		w.push("One edited")
		before := w.do("git", "--git-dir", w.origin, "rev-parse", "release")
		all, _ := w.timed(1)
		took = append(took, all-evaluations())
		changed := w.do("git", "--git-dir", w.origin, "diff", "--name-only", before, "release", "--", "secrets")
		if changed != "secrets/s7.age" {
			b.Fatalf("it changed %s", changed)
		}
	}
	report(b, took, "beyond-evaluation")
}

// report tells the median and the longest.
func report(b *testing.B, seconds []float64, what string) {
	slices.Sort(seconds)
	b.ReportMetric(seconds[len(seconds)/2], "s/"+what)
	b.ReportMetric(seconds[len(seconds)-1], "s/"+what+"-longest")
}
