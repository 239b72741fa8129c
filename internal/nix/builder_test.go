package nix_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// foreign is a system that no machine of a test is of.
const foreign = "riscv64-linux"

// TestRemoteBuilder builds for another system on a builder of nix.conf: a Nix with a store of its own, which is spoken
// to as over ssh ("localhost" is the one host for which Nix starts no ssh).
func TestRemoteBuilder(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		dir, builder := t.TempDir(), nixtest.Elsewhere(t, n)
		daemon, err := exec.LookPath("nix-daemon")
		must(t, err)
		program := filepath.Join(dir, "nix-daemon")
		must(t, os.WriteFile(program, []byte(fmt.Sprintf(`#!/bin/sh
NIX_CONFIG="$NIX_CONFIG
extra-platforms = %s
builders =" NIX_REMOTE=%q exec %s "$@"
`, foreign, builder.Store, daemon)), 0o755))
		machines := filepath.Join(dir, "machines")
		must(t, os.WriteFile(machines, []byte("ssh-ng://localhost?remote-program="+program+" "+foreign+" - 1 1\n"), 0o644))
		config := os.Getenv("NIX_CONFIG")
		t.Setenv("NIX_CONFIG", config+"\nbuilders = @"+machines)

		systems, err := n.Systems(t.Context())
		must(t, err)
		if !slices.Contains(systems, foreign) {
			t.Fatalf("systems: %v", systems)
		}
		drv := instantiate(t, n, t.Name())
		var log strings.Builder
		n.Log = &log
		if err := n.Build(t.Context(), []string{drv}, t.TempDir()); err != nil {
			t.Fatalf("%v\n%s", err, &log)
		}
		if unbuilt, err := n.Unbuilt(t.Context(), []string{drv}); err != nil || len(unbuilt) != 0 {
			t.Errorf("%v, %v", unbuilt, err)
		}
		out := strings.TrimSpace(run(t, "nix-store", "--store", n.Store, "--query", "--outputs", drv))
		if ok, err := builder.Valid(t.Context(), out); err != nil || !ok {
			t.Errorf("the builder did not build it: %v, %v\n%s", ok, err, &log)
		}

		// A builder that cannot be reached is tried, and named.
		t.Setenv("NIX_CONFIG", config+"\nbuilders = ssh-ng://localhost?remote-program=/nowhere/nix-daemon "+foreign)
		log.Reset()
		err = n.Build(t.Context(), []string{instantiate(t, n, t.Name()+" again")}, t.TempDir())
		if fleet.CodeOf(err) != fleet.CodeBuild || fleet.ClassOf(err) != fleet.Transient || !strings.Contains(err.Error()+log.String(), "localhost") {
			t.Errorf("class %s: %v\n%s", fleet.ClassOf(err), err, &log)
		}
	})
}

// instantiate writes a derivation for the foreign system.
func instantiate(t *testing.T, n *nix.Nix, text string) string {
	t.Helper()
	return strings.TrimSpace(run(t, "nix-instantiate", "--store", n.Store, "--expr",
		`derivation { name = "foreign"; system = "`+foreign+`"; builder = "/bin/sh"; args = [ "-c" "echo ${builtins.toFile "text" "`+text+`"} > $out" ]; }`))
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return string(out)
}
