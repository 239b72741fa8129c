package secret

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestReseal takes the files of a fleet from alice to alice and bob, and on to bob alone.
func TestReseal(t *testing.T) {
	alice, bob, host := sshKey(t, "ed25519"), sshKey(t, "rsa"), sshKey(t, "ed25519")
	alice.pub, bob.pub = strings.Replace(alice.pub, "root@some host", "alice", 1), strings.Replace(bob.pub, "root@some host", "bob", 1)
	ids, err := LoadIdentities(alice.file)
	must(t, err)
	yaml := "# why\na: one\nb_unencrypted: open\n"
	files := []SourceFile{
		{Path: "arm.age", Data: encrypt(t, "armored", []string{"-a"}, alice)},
		{Path: "both.age", Data: encrypt(t, "both", nil, bob, alice)},
		{Path: "host.age", Data: encrypt(t, "host", nil, alice, bob, host)},
		{Path: "one.age", Data: encrypt(t, "one", nil, alice)},
	}
	reseal := func(editors ...key) (map[string][]byte, []Resealed) {
		t.Helper()
		var names []string
		for _, e := range editors {
			names = append(names, e.pub)
		}
		to, err := ParseEditors(names, nil)
		must(t, err)
		plan, err := PlanReseal(forAll(to, files), NewKeyring(map[string][]string{"joker": {host.pub}}, names))
		must(t, err)
		out, err := Reseal(t.Context(), plan, ids)
		must(t, err)
		for i, f := range files {
			if data, ok := out[f.Path]; ok {
				files[i].Data = data
			}
			for _, k := range []key{alice, bob, host} {
				_, err := decryptWith(t, files[i].Data, k)
				if want := slices.Contains(editors, k); want != (err == nil) {
					t.Errorf("%s: decrypts by %s is %v", f.Path, k.pub, err)
				}
			}
		}
		if again, err := PlanReseal(forAll(to, files), NewKeyring(nil, names)); err != nil || len(again) != 0 {
			t.Errorf("afterwards: %+v, %v", again, err)
		}
		return out, plan
	}
	_, plan := reseal(alice, bob)
	var got []string
	for _, r := range plan {
		got = append(got, r.Path+" +"+strings.Join(r.Gains, ",")+" -"+strings.Join(r.Loses, ","))
	}
	if !slices.Equal(got, []string{"arm.age +bob -", "host.age + -joker", "one.age +bob -"}) {
		t.Errorf("planned %q", got)
	}
	if !bytes.HasPrefix(files[0].Data, []byte("-----BEGIN AGE")) {
		t.Error("the armor is gone")
	}
	before := files[3].Data
	_, plan = reseal(bob)
	if len(plan) != 4 || !strings.HasPrefix(plan[0].Loses[0], "somebody unknown: ssh-ed25519 ") {
		t.Errorf("planned %+v", plan)
	}
	bobs, err := LoadIdentities(bob.file)
	must(t, err)
	if fileKeyOf(t, before, ids[0]) == fileKeyOf(t, files[3].Data, bobs[0]) {
		t.Error("who lost access has the file key still")
	}

	// A sops file keeps everything else.
	dave, erin := ageKey(t), ageKey(t)
	ids, err = LoadIdentities(dave.file)
	must(t, err)
	files = []SourceFile{{Path: "s.yaml", Data: sopsEncrypt(t, "s.yaml", yaml, dave)}}
	to, err := ParseEditors([]string{dave.pub, erin.pub}, nil)
	must(t, err)
	plan, err = PlanReseal(forAll(to, files), NewKeyring(nil, nil))
	must(t, err)
	out, err := Reseal(t.Context(), plan, ids)
	must(t, err)
	for _, k := range []key{dave, erin} {
		if text, err := sopsRun(t, hostSopsKey(t, k), "s.yaml", out["s.yaml"], "decrypt"); err != nil || text != yaml {
			t.Errorf("%q, %v", text, err)
		}
	}
	if plan, err := PlanReseal(forAll(to, []SourceFile{{Path: "s.yaml", Data: out["s.yaml"]}}), NewKeyring(nil, nil)); err != nil || len(plan) != 0 {
		t.Errorf("%+v, %v", plan, err)
	}
}

// TestResealAnonymous: what a header does not tell is done, never taken for granted.
func TestResealAnonymous(t *testing.T) {
	withPlugin(t)
	old, now := ageKey(t), ageKey(t)
	ids, err := LoadIdentities(old.file)
	must(t, err)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	hardware := plugin.EncodeRecipient(pluginName, []byte(id.Recipient().String()))
	files := []SourceFile{{Path: "a.age", Data: encrypt(t, "a", nil, old)}}
	for editor, reads := range map[string]string{now.pub: readFile(t, now.file), hardware: id.String() + "\n"} {
		to, err := ParseEditors([]string{editor}, nil)
		must(t, err)
		plan, err := PlanReseal(forAll(to, files), NewKeyring(nil, []string{editor}))
		if err != nil || len(plan) != 1 || !strings.Contains(plan[0].Why, "does not tell") {
			t.Fatalf("%+v, %v", plan, err)
		}
		out, err := Reseal(t.Context(), plan, ids)
		must(t, err)
		their, err := LoadIdentities(writeFile(t, reads))
		must(t, err)
		if p, err := open(out["a.age"], their); err != nil || string(p.data) != "a" {
			t.Errorf("%q, %v", p.data, err)
		}
		if _, err := open(out["a.age"], ids); !errors.Is(err, errNoIdentity) {
			t.Errorf("the old editor: %v", err)
		}
	}
}

// forAll says of files that they are to be for the same editors.
func forAll(to Editors, files []SourceFile) []SourceFile {
	for i := range files {
		files[i].For = to
	}
	return files
}

func TestResealRefuses(t *testing.T) {
	alice, bob := sshKey(t, "ed25519"), sshKey(t, "ed25519")
	to, err := ParseEditors([]string{bob.pub}, nil)
	must(t, err)
	good := SourceFile{Path: "good.age", Data: encrypt(t, "TOPSECRET", nil, alice)}
	plan, err := PlanReseal(forAll(to, []SourceFile{
		good, {Path: "plain.age", Data: []byte("TOPSECRET")}, {Path: "header.age", Data: []byte("age-encryption.org/v1\nTOPSECRET\n")},
		{Path: "pgp.yaml", Data: bytes.Replace(sopsEncrypt(t, "a.yaml", "a: x\n", ageKey(t)), []byte("sops:\n"), []byte("sops:\n    pgp:\n        - fp: ABCD\n"), 1)},
	}), NewKeyring(nil, nil))
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "3 problems", "plain.age is not encrypted", "header.age cannot be read", "pgp.yaml is also encrypted for keys of kind pgp")
	if plan != nil && len(plan) != 1 || strings.Contains(err.Error(), "TOPSECRET") {
		t.Errorf("%+v, %v", plan, err)
	}
	plan, err = PlanReseal(forAll(to, []SourceFile{good, {Path: "other.age", Data: encrypt(t, "x", nil, ageKey(t))}, {Path: "empty.age", Data: encrypt(t, "", nil, alice)}}), NewKeyring(nil, nil))
	must(t, err)
	ids, err := LoadIdentities(alice.file)
	must(t, err)
	out, err := Reseal(t.Context(), plan, ids)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "2 problems", "other.age", "none of the 1 identities", "empty.age", "decrypts to nothing")
	if out != nil {
		t.Errorf("%d files came out", len(out))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	if _, err := Reseal(ctx, plan, ids); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}
