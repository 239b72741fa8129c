package release_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
)

// TestBuildsWhatTheCacheLacks releases from a machine whose store is empty.
func TestBuildsWhatTheCacheLacks(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	w.push("Touches no host")
	w.nix, w.repo = nixtest.Elsewhere(t, w.nix), w.newRepo("other.git")
	run := func() release.Outcome { // not w.release, which looks into the store
		t.Helper()
		out, err := release.Run(t.Context(), w.options())
		w.must(err)
		return out
	}
	out := run()
	if out.Pushed.Paths != 0 {
		t.Errorf("%+v was pushed", out.Pushed)
	}
	for h, e := range out.Manifest.Hosts {
		was := first.Manifest.Hosts[h]
		if !e.Built || e.ClosurePaths != was.ClosurePaths || e.ClosureBytes != was.ClosureBytes {
			t.Errorf("%s: %+v, was %+v", h, e, was)
		}
		if built, err := w.nix.Valid(t.Context(), e.OutPath); built || err != nil {
			t.Errorf("%s was built again: %v", h, err)
		}
	}

	// What an older release had is there, too, and only what one host needs is built.
	w.write("hosts/joker/activate.sh", "true\n")
	w.push("Changes joker")
	run()
	w.do("git", "revert", "--no-edit", "HEAD")
	w.do("git", "push", "--quiet", "origin", "HEAD")
	back := run()
	if back.Pushed.Paths != 0 || back.Manifest.Hosts["joker"].ClosurePaths != first.Manifest.Hosts["joker"].ClosurePaths {
		t.Errorf("%+v, %+v", back.Pushed, back.Manifest.Hosts["joker"])
	}
}

func TestForeignSystemIsLeftToItsHost(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.write("hosts/joker/default.nix", "{ nixpkgs.hostPlatform = \"riscv64-linux\"; age.secrets.punchline.file = ../../secrets/punchline.age; }\n")
	w.push("Joker moves")
	out, err := release.Run(t.Context(), w.options())
	w.must(err)
	if e := out.Manifest.Hosts["joker"]; e.Built || e.System != "riscv64-linux" || e.ClosurePaths != 0 {
		t.Errorf("joker: %+v", e)
	}
	if e := out.Manifest.Hosts["ursula"]; !e.Built || e.ClosurePaths == 0 {
		t.Errorf("ursula: %+v", e)
	}
}

func TestPartialRelease(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	first := w.release()
	w.write("gitops-test", "new\n")
	w.write("hosts/joker/build.sh", "echo 'joker: cannot compile frobnicator' >&2; exit 3\n")
	w.push("Break joker's build")
	goOn := func(o *release.Options) { o.KeepGoing = true }
	w.refuse(fleet.Bad, fleet.CodeBuild, []string{"joker does not build", "cannot compile frobnicator"})
	w.refuse(fleet.Bad, fleet.CodeBuild, []string{"joker does not build", "joker is not among hosts.partial"}, goOn)

	w.write("garrison.toml", "[hosts]\nmanual = ['drhorrible']\npartial = ['joker']\n")
	w.push("Joker may stay behind")
	w.refuse(fleet.Bad, fleet.CodeBuild, []string{"joker does not build"})
	out, err := release.Run(t.Context(), w.with(goOn))
	w.must(err)
	was := first.Manifest.Hosts["joker"]
	if e := out.Manifest.Hosts["joker"]; e.OutPath != was.OutPath || e.Changed || !e.Built || e.ClosurePaths != was.ClosurePaths || !strings.Contains(e.Error, "frobnicator") {
		t.Errorf("joker: %+v, was %+v", e, was)
	}
	if e := out.Manifest.Hosts["ursula"]; !e.Changed || len(out.Failed) != 1 || out.Failed[0] != "joker" {
		t.Errorf("ursula: %+v, failed: %v", e, out.Failed)
	}
}
