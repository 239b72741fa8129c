package secret

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// fleetOf makes an input with the given numbers, SSH keys everywhere; sops files have ten values each.
func fleetOf(b *testing.B, kind Kind, secrets, hosts int) (Input, *repo, []age.Identity) {
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
		if kind == KindSops {
			path = fmt.Sprintf("secrets/%d.yaml", s)
		}
		r.put(path, sourceOf(b, path, id, path))
		in.Files = append(in.Files, Want{Path: path, Hosts: names})
	}
	return in, r, []age.Identity{id}
}

// sourceOf is a file for the editor alone.
func sourceOf(b *testing.B, path string, id *agessh.Ed25519Identity, text string) []byte {
	b.Helper()
	if KindAuto.or(path) == KindSops {
		var lines string
		for n := range 10 {
			lines += fmt.Sprintf("key%d: %s\n", n, text)
		}
		text = lines
	}
	file, err := EncryptFor(path, KindAuto, []byte(text), Editors{names: []string{"editor"}, recipients: []age.Recipient{id.Recipient()}}, time.Unix(1e9, 0))
	must(b, err)
	return file
}

// BenchmarkRekeyAll is the first release of 100 secrets, each for 20 hosts.
func BenchmarkRekeyAll(b *testing.B) {
	for _, kind := range []Kind{KindAge, KindSops} {
		b.Run(string(kind), func(b *testing.B) { rekeyAll(b, kind) })
	}
}

func rekeyAll(b *testing.B, kind Kind) {
	in, r, ids := fleetOf(b, kind, 100, 20)
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
	for _, kind := range []Kind{KindAge, KindSops} {
		b.Run(string(kind), func(b *testing.B) { rekeyOne(b, kind) })
	}
}

func rekeyOne(b *testing.B, kind Kind) {
	in, r, ids := fleetOf(b, kind, 2000, 20)
	plan, err := MakePlan(in)
	must(b, err)
	files, err := Execute(b.Context(), plan, ids, r.read)
	must(b, err)
	in.Previous = released(b, plan, files)
	kept := make(map[string][]byte)
	for _, file := range files {
		kept[blobID(file)] = file
	}
	path := in.Files[7].Path
	r.put(path, sourceOf(b, path, ids[0].(*agessh.Ed25519Identity), "edited"))
	for b.Loop() {
		plan, err := MakePlan(in)
		must(b, err)
		if damaged := Damaged(in.Previous.Files, kept); len(damaged) > 0 {
			b.Fatal(damaged)
		}
		again, err := Execute(b.Context(), plan, ids, r.read)
		must(b, err)
		if len(again) != 1 {
			b.Fatal(len(again))
		}
	}
}

// BenchmarkVerify answers the five questions about 100 secrets and 20 hosts by the files' headers.
func BenchmarkVerify(b *testing.B) {
	in, r, ids := fleetOf(b, KindAge, 100, 20)
	plan, err := MakePlan(in)
	must(b, err)
	files, err := Execute(b.Context(), plan, ids, r.read)
	must(b, err)
	released := make(map[string]string)
	for path, file := range files {
		released[path] = blobID(file)
		r.blobs[released[path]] = file
	}
	v := VerifyInput{Files: in.Files, Source: r.paths, Released: released, HostKeys: in.HostKeys, EditorIdentities: ids, Read: r.read}
	for b.Loop() {
		answers, err := Verify(b.Context(), v)
		must(b, err)
		for _, a := range answers[:4] {
			if a.Verdict != Yes {
				b.Fatal(a)
			}
		}
	}
}
