package nix_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// What a host declares as checks comes with its evaluation, without building what their commands name.
func TestHostChecks(t *testing.T) {
	const tool = `derivation { name = "tool"; system = "x86_64-linux"; builder = "/bin/false"; }`
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		flake := exampleFleet(t, map[string]string{
			"hosts/joker/default.nix": `{ nixpkgs.hostPlatform = "x86_64-linux"; services.garrison.checks = {
				web = { http = { url = "http://127.0.0.1/"; status = null; }; command = null; timeout = 2; };
				own.command = [ "${` + tool + `}/bin/tool" "--all" (` + tool + `) ];
			}; }`,
			"hosts/ursula/default.nix": `{ nixpkgs.hostPlatform = "x86_64-linux"; services.garrison.checks.web.htpp.url = "http://127.0.0.1/"; }`,
		})
		h, err := n.Host(t.Context(), flake, nix.NixOS, "joker")
		must(t, err)
		if len(h.Checks) != 2 || h.Checks[1].HTTP.URL != "http://127.0.0.1/" || h.Checks[1].TimeoutSeconds != 2 || h.Checks[1].Retries != 3 {
			t.Errorf("%+v", h.Checks)
		}
		if c := h.Checks[0].Command; len(c) != 3 || !fleet.ValidStorePath(strings.TrimSuffix(c[0], "/bin/tool")) || !fleet.ValidStorePath(c[2]) {
			t.Errorf("%q", c)
		}
		_, err = n.Host(t.Context(), flake, nix.NixOS, "ursula")
		if fleet.ClassOf(err) != fleet.Bad || !strings.Contains(err.Error(), `host ursula: services.garrison.checks: check "web": unknown field "htpp"`) {
			t.Errorf("a malformed check: %v", err)
		}
	})
}
