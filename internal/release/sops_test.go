package release_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

// sopsFleet declares secrets as sops-nix and agenix-rekey do.
const sopsFleet = `{
  outputs = { self }: {
    nixosConfigurations.joker.config = {
      sops = {
        defaultSopsFile = ./secrets/all.yaml;
        secrets."wifi/psk" = { sopsFile = ./secrets/all.yaml; key = "wifi/psk"; format = "yaml"; };
        secrets.tls = { sopsFile = ./secrets/all.yaml; key = "tls"; format = "yaml"; };
      };
      age.secrets.riddle.rekeyFile = ./secrets/riddle.age;
      age.rekey.hostPubkey = ./joker.pub;
      system.build.toplevel = derivation {
        name = "nixos-system-joker"; system = "x86_64-linux"; builder = "/bin/sh";
        args = [ "-c" "mkdir $out; cat ${./secrets/all.yaml} > $out/secrets" ];
      };
    };
  };
}
`

// TestSopsAndRekeyFile re-keys what sops-nix and agenix-rekey declare, in one release.
func TestSopsAndRekeyFile(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, n *nix.Nix) {
		w := newWorld(t, n)
		w.do("git", "rm", "-rq", ".")
		w.write("flake.nix", sopsFleet)
		w.write("joker.pub", w.keygen("joker"))
		editors, err := secret.ParseEditors([]string{w.editor.Recipient().String()}, nil)
		w.must(err)
		const plain = "wifi:\n    psk: open sesame\ntls: certificate\n"
		sopsFile, err := secret.EncryptFor("secrets/all.yaml", secret.KindSops, []byte(plain), editors, time.Now())
		w.must(err)
		w.write("secrets/all.yaml", string(sopsFile))
		w.writeSecret("riddle", "plain riddle")
		w.push("With sops")
		out, err := release.Run(t.Context(), w.options())
		w.must(err)
		if !slices.Equal(out.Rekeyed, []string{"secrets/all.yaml", "secrets/riddle.age"}) {
			t.Errorf("%v", out.Rekeyed)
		}
		released := w.do("git", "--git-dir", w.origin, "show", out.Release.Commit+":secrets/all.yaml") + "\n"
		if strings.Contains(released, "sesame") || strings.Contains(released, w.editor.Recipient().String()) {
			t.Errorf("released is\n%s", released)
		}
		host, err := secret.LoadIdentities(filepath.Join(w.dir, "joker"))
		w.must(err)
		opened, err := secret.Open("secrets/all.yaml", []byte(released), host)
		w.must(err)
		if string(opened.Data) != plain {
			t.Errorf("the host reads %q", opened.Data)
		}
		if _, err := secret.Open("secrets/all.yaml", []byte(released), []age.Identity{w.editor}); err == nil {
			t.Error("the editor can read what was released")
		}

		w.push("Touches no secret")
		again, err := release.Run(t.Context(), w.options())
		w.must(err)
		if len(again.Rekeyed) != 0 || again.Manifest.Hosts["joker"].Changed {
			t.Errorf("%+v", again)
		}

		w.write("flake.nix", strings.Replace(sopsFleet, `key = "tls"`, `key = "tsl"`, 1))
		w.writeSecret("riddle", "another") // so that there is something to do
		w.push("A key that is not there")
		sopsFile, err = secret.EncryptFor("secrets/all.yaml", secret.KindSops, []byte(plain+"more: x\n"), editors, time.Now())
		w.must(err)
		w.write("secrets/all.yaml", string(sopsFile))
		w.push("And an edit")
		w.refuse(fleet.Bad, fleet.CodeSecret, []string{"secrets/all.yaml", "tsl", "joker"})
	})
}
