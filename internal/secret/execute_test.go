package secret

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// TestRoundTrip re-keys files of the age program, of every kind of key, and has
// the age program read them: each host its own, and no other.
func TestRoundTrip(t *testing.T) {
	hosts := map[string]key{"ratched": sshKey(t, "ed25519"), "joker": sshKey(t, "rsa"), "ursula": ageKey(t)}
	public := make(map[string][]string)
	for h, k := range hosts {
		public[h] = []string{k.pub}
	}
	for name, editor := range map[string]key{"ed25519": sshKey(t, "ed25519"), "rsa": sshKey(t, "rsa"), "age": ageKey(t)} {
		t.Run(name, func(t *testing.T) {
			ids, err := LoadIdentities(editor.file)
			must(t, err)
			r := newRepo()
			r.put("secrets/one.age", encrypt(t, "for ratched", nil, editor))
			r.put("secrets/two.age", encrypt(t, "for two\n", []string{"-a"}, editor))
			r.put("big.age", encrypt(t, strings.Repeat("long ", 50_000), nil, editor))
			plan, err := MakePlan(Input{Blobs: r.paths, HostKeys: public, Files: []Want{
				{Path: "secrets/one.age", Hosts: []string{"ratched"}},
				{Path: "secrets/two.age", Hosts: []string{"joker", "ursula"}},
				{Path: "big.age", Hosts: []string{"ratched", "joker", "ursula"}},
			}})
			must(t, err)
			files, err := Execute(t.Context(), plan, ids, r.read)
			must(t, err)
			for _, item := range plan.Rekey {
				want, err := decryptWith(t, r.blobs[item.Source], editor)
				must(t, err)
				for h, k := range hosts {
					got, err := decryptWith(t, files[item.Path], k)
					if may := contains(item.Hosts, h); may && (err != nil || got != want) {
						t.Errorf("%s cannot read %s: %v", h, item.Path, err)
					} else if !may && err == nil {
						t.Errorf("%s can read %s", h, item.Path)
					}
				}
				if _, err := decryptWith(t, files[item.Path], editor); err == nil {
					t.Errorf("the editor can read the released %s", item.Path)
				}
			}
			for path, armored := range map[string]bool{"secrets/one.age": false, "secrets/two.age": true} {
				if got := strings.HasPrefix(string(files[path]), "-----BEGIN AGE"); got != armored {
					t.Errorf("%s armored: %v, want %v", path, got, armored)
				}
			}
		})
	}
}

func contains(names []string, name string) bool {
	return !allOf(names, func(n string) bool { return n != name })
}

func TestHybridKeys(t *testing.T) {
	host, err := age.GenerateHybridIdentity()
	must(t, err)
	editor, err := age.GenerateHybridIdentity()
	must(t, err)
	src, err := seal(plaintext{data: []byte("value")}, []age.Recipient{editor.Recipient()})
	must(t, err)
	ids, err := LoadIdentities(writeFile(t, editor.String()+"\n"))
	must(t, err)
	r := newRepo()
	r.put("a.age", src)
	in := Input{Files: []Want{{Path: "a.age", Hosts: []string{"joker"}}}, Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.Recipient().String()}}}
	plan, err := MakePlan(in)
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	p, err := open(files["a.age"], []age.Identity{host})
	if err != nil || string(p.data) != "value" {
		t.Errorf("%q, %v", p.data, err)
	}

	in.HostKeys["ursula"] = []string{ageKey(t).pub}
	in.Files[0].Hosts = append(in.Files[0].Hosts, "ursula")
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeKey, "a.age", "joker, ursula", "post-quantum")
}

// TestLifeOfAFleet takes a fleet through releases and watches what is re-keyed.
func TestLifeOfAFleet(t *testing.T) {
	editor, ratched, joker := ageKey(t), ageKey(t), ageKey(t)
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	jokers, err := LoadIdentities(joker.file)
	must(t, err)
	r := newRepo()
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"ratched": {ratched.pub}, "joker": {joker.pub}}}
	for n := range 5 {
		path := fmt.Sprintf("s%d.age", n)
		r.put(path, encrypt(t, path, nil, editor))
		in.Files = append(in.Files, Want{Path: path, Hosts: []string{"joker", "ratched"}})
	}
	step := func(why Why, rekeyed ...string) map[string][]byte {
		t.Helper()
		plan, err := MakePlan(in)
		must(t, err)
		if len(plan.Rekey) != len(rekeyed) || len(plan.Keep) != len(in.Files)-len(rekeyed) {
			t.Fatalf("re-keyed %+v", plan.Rekey)
		}
		for i, p := range rekeyed {
			if plan.Rekey[i].Path != p || plan.Rekey[i].Why != why {
				t.Errorf("re-keyed %s because %s, want %s because %s", plan.Rekey[i].Path, plan.Rekey[i].Why, p, why)
			}
		}
		files, err := Execute(t.Context(), plan, ids, r.read)
		must(t, err)
		in.Previous = released(t, plan, files)
		return files
	}
	first := step(WhyNew, "s0.age", "s1.age", "s2.age", "s3.age", "s4.age")
	step("")
	r.put("s2.age", encrypt(t, "edited", nil, editor))
	step(WhySource, "s2.age")
	step("")

	in.Files[3].Hosts = []string{"joker"}
	plan, err := MakePlan(in)
	must(t, err)
	if len(plan.Dropped) != 1 || plan.Dropped[0].String() != "s3.age: rotate this value: ratched could read it" {
		t.Errorf("dropped %v", plan.Dropped)
	}
	third := step(WhyRecipients, "s3.age")
	if fileKeyOf(t, first["s3.age"], jokers[0]) == fileKeyOf(t, third["s3.age"], jokers[0]) {
		t.Error("a removed recipient has the file key still")
	}
	if _, err := decryptWith(t, third["s3.age"], ratched); err == nil {
		t.Error("the removed recipient can read it")
	}
	step("")

	plan, err = MakePlan(in)
	must(t, err)
	plan.Distrust("s4.age")
	plan.Distrust("none.age")
	if len(plan.Keep) != 4 || len(plan.Rekey) != 1 || plan.Rekey[0].Why != WhyDamaged {
		t.Errorf("after Distrust: %+v", plan)
	}
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	if got, err := decryptWith(t, files["s4.age"], joker); err != nil || got != "s4.age" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestAllOrNothing breaks several sources among good ones: nothing comes out, every
// broken one is named with its hosts, and nothing of any file is told.
func TestAllOrNothing(t *testing.T) {
	editor, other := sshKey(t, "ed25519"), sshKey(t, "ed25519")
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	r := newRepo()
	good := encrypt(t, "TOPSECRET", nil, editor)
	armored := string(encrypt(t, strings.Repeat("TOPSECRET", 99), []string{"-a"}, editor))
	r.put("good.age", good)
	r.put("plain.age", []byte("TOPSECRET: forgotten to encrypt\n"))
	r.put("header.age", []byte("age-encryption.org/v1\nTOPSECRET\n"))
	r.put("content.age", append(good[:len(good)-1:len(good)-1], good[len(good)-1]^1))
	r.put("armor.age", []byte(strings.Replace(armored, "-----END", "TOPSECRET", 1)))
	r.put("cut.age", good[:len(good)-3])
	r.put("other.age", encrypt(t, "TOPSECRET", nil, other, ageKey(t)))
	r.put("empty.age", encrypt(t, "", nil, editor))
	r.put("nothing.age", nil)
	r.put("large.age", make([]byte, MaxFileBytes+1))
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {sshKey(t, "ed25519").pub}}}
	for path := range r.paths {
		in.Files = append(in.Files, Want{Path: path, Hosts: []string{"joker"}})
	}
	plan, err := MakePlan(in)
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	if files != nil {
		t.Errorf("got %d files", len(files))
	}
	tag, err2 := stanzaFor(other.pub)
	must(t, err2)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "9 problems", "joker",
		"plain.age (for joker) is not an age file", "header.age (for joker) cannot be decrypted: the header",
		"content.age (for joker) cannot be decrypted", "armor.age (for joker) cannot be decrypted: its armor is damaged",
		"cut.age (for joker) cannot be decrypted", "empty.age (for joker) decrypts to nothing", "nothing.age (for joker) is not an age file",
		"large.age (for joker) has 16777217 bytes",
		"other.age (for joker) can be decrypted by none of the 1 identities given: it is encrypted for "+tag.String()+", X25519")
	var e *fleet.Error
	errors.As(err, &e)
	if strings.Contains(err.Error()+e.Hint, "TOPSECRET") || strings.Contains(err.Error(), "good.age") {
		t.Errorf("%v\n%s", err, e.Hint)
	}
}

func TestExecuteStops(t *testing.T) {
	editor, host := ageKey(t), ageKey(t)
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	r := newRepo()
	r.put("a.age", encrypt(t, "a", nil, editor))
	r.put("b.age", encrypt(t, "b", nil, editor))
	plan, err := MakePlan(Input{Files: []Want{{Path: "a.age", Hosts: []string{"joker"}}, {Path: "b.age", Hosts: []string{"joker"}}}, Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.pub}}})
	must(t, err)

	_, err = Execute(t.Context(), plan, nil, r.read)
	expectError(t, err, fleet.Local, fleet.CodeKey, "2 secret files")

	down := fleet.Errorf(fleet.Transient, fleet.CodeRemote, "the remote is down")
	reads := 0
	files, err := Execute(t.Context(), plan, ids, func(blob string) ([]byte, error) {
		if reads++; reads == 2 {
			return nil, down
		}
		return r.read(blob)
	})
	expectError(t, err, fleet.Transient, fleet.CodeRemote, "b.age (for joker)", "the remote is down")
	if files != nil {
		t.Error("files after an error")
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	files, err = Execute(ctx, plan, ids, func(blob string) ([]byte, error) {
		cancel(why)
		return r.read(blob)
	})
	if files != nil || !errors.Is(err, why) {
		t.Errorf("%d files, %v", len(files), err)
	}

	plan.Rekey[0].Recipients = []string{"age1nonsense"}
	_, err = Execute(t.Context(), plan, ids, r.read)
	expectError(t, err, fleet.Bad, fleet.CodeKey, "a.age")
	plan.Rekey[0].Recipients = nil
	_, err = Execute(t.Context(), plan, ids, r.read)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "a.age cannot be encrypted for joker")

	files, err = Execute(t.Context(), &Plan{}, nil, r.read)
	if err != nil || files == nil || len(files) != 0 {
		t.Errorf("an empty plan: %v, %v", files, err)
	}
}

func TestWipe(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	must(t, err)
	file, err := seal(plaintext{data: []byte("TOPSECRET")}, []age.Recipient{id.Recipient()})
	must(t, err)
	p, err := open(file, []age.Identity{id})
	must(t, err)
	data := p.data[:cap(p.data)]
	s := startSealers(map[string]age.Recipient{id.Recipient().String(): id.Recipient()})
	s.jobs <- job{Rekeyed{Path: "a", Recipients: []string{id.Recipient().String()}}, p}
	if _, err := s.finish(nil); err != nil {
		t.Fatal(err)
	}
	for _, b := range data {
		if b != 0 {
			t.Fatalf("plaintext is left: %q", data)
		}
	}
}
