package release_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

// hostKey is the private key in a file of the world, said to be that host's.
func (w *world) hostKey(host, file string) release.HostKey {
	w.t.Helper()
	ids, err := secret.LoadIdentities(filepath.Join(w.dir, file))
	w.must(err)
	return release.HostKey{Host: host, File: file, Identities: ids}
}

// TestVerifyWith: hosts' private keys are tried on what is about to be published, and decide.
func TestVerifyWith(t *testing.T) {
	w := newWorld(t, nixtest.System(t))
	w.keygen("stranger")
	both := w.hostKey("joker", "joker")
	both.Identities = slices.Concat(both.Identities, w.hostKey("", "ratched").Identities)
	for _, c := range []struct {
		name  string
		keys  []release.HostKey
		class fleet.Class
		code  fleet.Code
		says  []string
	}{
		{"another host's key", []release.HostKey{w.hostKey("joker", "ursula")}, fleet.Bad, fleet.CodeSecret,
			[]string{"secrets/punchline.age in the release cannot be decrypted by joker", "lair-wifi.age in the release can be decrypted by joker, which does not declare it", "scan-host"}},
		{"one that can read others'", []release.HostKey{both}, fleet.Bad, fleet.CodeSecret, []string{"ward-key.age in the release can be decrypted by joker"}},
		{"nobody's key", []release.HostKey{w.hostKey("", "stranger")}, fleet.Local, fleet.CodeKey, []string{"stranger is the private key of none of the hosts"}},
		{"no such host", []release.HostKey{w.hostKey("jocker", "joker")}, fleet.Local, fleet.CodeNoSuchHost, []string{"jocker", "joker, ratched"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *w
			sub.t = t
			sub.refuse(c.class, c.code, c.says, func(o *release.Options) { o.VerifyWith = c.keys })
		})
	}
	w.release(func(o *release.Options) {
		o.VerifyWith = []release.HostKey{w.hostKey("", "joker"), w.hostKey("ratched", "ratched"), w.hostKey("", "drhorrible")}
	})

	// The flake has a key that is not the host's: without the private key nobody could tell.
	w.write("hosts/joker/host.pub", w.keygen("new"))
	w.write("garrison.toml", "[hosts]\nmanual = ['drhorrible']\n[secrets]\nallowRemoval = ['"+w.publicOf("joker")+"']\n")
	w.push("A wrong key")
	w.refuse(fleet.Bad, fleet.CodeSecret, []string{"punchline.age in the release cannot be decrypted by joker"},
		func(o *release.Options) { o.VerifyWith = []release.HostKey{w.hostKey("joker", "joker")} })
}

// publicOf is the public half of a key of the world's, without comment.
func (w *world) publicOf(file string) string {
	w.t.Helper()
	pub, err := os.ReadFile(filepath.Join(w.dir, file+".pub"))
	w.must(err)
	return strings.Join(strings.Fields(string(pub))[:2], " ")
}
