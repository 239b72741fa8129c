package secret

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// fleetOf makes an input with the given numbers, SSH keys everywhere.
func fleetOf(b *testing.B, secrets, hosts int) (Input, *repo, []age.Identity) {
	b.Helper()
	_, editor, err := ed25519.GenerateKey(nil)
	must(b, err)
	id, err := agessh.NewEd25519Identity(editor)
	must(b, err)
	r := newRepo()
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{}}
	var names []string
	for h := range hosts {
		pub, _, err := ed25519.GenerateKey(nil)
		must(b, err)
		key, err := ssh.NewPublicKey(pub)
		must(b, err)
		names = append(names, fmt.Sprintf("host%d", h))
		in.HostKeys[names[h]] = []string{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))}
	}
	for s := range secrets {
		path := fmt.Sprintf("secrets/%d.age", s)
		file, err := seal(plaintext{data: []byte(path)}, []age.Recipient{id.Recipient()})
		must(b, err)
		r.put(path, file)
		in.Files = append(in.Files, Want{Path: path, Hosts: names})
	}
	return in, r, []age.Identity{id}
}

// BenchmarkRekeyAll is the first release of 100 secrets, each for 20 hosts.
func BenchmarkRekeyAll(b *testing.B) {
	in, r, ids := fleetOf(b, 100, 20)
	for b.Loop() {
		plan, err := MakePlan(in)
		must(b, err)
		files, err := Execute(b.Context(), plan, ids, r.read)
		must(b, err)
		if len(files) != 100 {
			b.Fatal(len(files))
		}
	}
}

// BenchmarkRekeyOne is a release of 2,000 secrets, each for 20 hosts, of which one was
// edited; the check of those that are kept is part of it.
func BenchmarkRekeyOne(b *testing.B) {
	in, r, ids := fleetOf(b, 2000, 20)
	plan, err := MakePlan(in)
	must(b, err)
	files, err := Execute(b.Context(), plan, ids, r.read)
	must(b, err)
	in.Previous = released(b, plan, files)
	edited, err := seal(plaintext{data: []byte("edited")}, []age.Recipient{ids[0].(*agessh.Ed25519Identity).Recipient()})
	must(b, err)
	r.put("secrets/7.age", edited)
	for b.Loop() {
		plan, err := MakePlan(in)
		must(b, err)
		for _, k := range plan.Keep {
			must(b, CheckStanzas(files[k.Path], k.Record.Recipients))
		}
		again, err := Execute(b.Context(), plan, ids, r.read)
		must(b, err)
		if len(again) != 1 {
			b.Fatal(len(again))
		}
	}
}
