package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

// The module that init writes is one that Garrison's NixOS modules take, and the agent takes what they make of it.
func TestInitModule(t *testing.T) {
	config, err := release.ParseConfig(release.ConfigPath, []byte("[branches]\nrelease = \"stable\""))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"https://user:token@forge.example.org/lair/fleet.git": "https://forge.example.org/lair/fleet.git",
		"git@forge.example.org:lair/fleet.git":                "git@forge.example.org:lair/fleet.git",
		"/srv/it's ${a}.git":                                  "/srv/it's ${a}.git",
	} {
		i := &fleetInit{address: address, said: &release.Declared{Config: config}, cache: foundCache{url: "attic+https://cache.example.org/fleet", key: "fleet:AAAA"}}
		text := i.module("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF2PjE51L+jbCeBiv+cVEDmY6vp53IQx4/Zw6FiGnrKp garrison release")
		if strings.Contains(text, "token@") {
			t.Errorf("it has credentials in it:\n%s", text)
		}
		host, err := modulestest.Eval(t.Context(), []string{"NIX_CONFIG=build-users-group =", "NIX_REMOTE=local?root=" + t.TempDir()},
			`{ imports = [ (`+text+`) ]; networking.hostName = "joker"; services.garrison.package = "/nix/store/garrison"; }`)
		if err != nil || len(host.Failed) > 0 {
			t.Fatalf("%s: %v, %q\n%s", address, err, host.Failed, text)
		}
		file := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(file, []byte(host.Etc["garrison/agent.toml"]), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := agent.ReadConfig(file)
		if err != nil || len(c.GitRemotes()) != 1 || c.GitRemotes()[0].URL != want || c.Branch != "stable" || len(c.Caches) != 1 || c.Caches[0].URL != "https://cache.example.org/fleet" {
			t.Errorf("%s: %+v, %v", address, c, err)
		}
		if !strings.Contains(host.Etc["garrison/allowed-signers"], "AAAAC3NzaC1lZDI1NTE5AAAAIF2PjE51L") {
			t.Errorf("the signers are %q", host.Etc["garrison/allowed-signers"])
		}
	}
}
