package secret

import (
	"bytes"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// estate is a released fleet to verify, which tests break in one way each.
type estate struct {
	*repo
	in    VerifyInput
	files map[string][]byte
	hosts map[string]key
}

func newEstate(t *testing.T, hostKey func() key) (*estate, key) {
	t.Helper()
	editor := sshKey(t, "ed25519")
	e := &estate{repo: newRepo(), hosts: map[string]key{"joker": hostKey(), "ratched": hostKey(), "idle": hostKey()}}
	keys := map[string][]string{}
	for h, k := range e.hosts {
		keys[h] = []string{k.pub}
	}
	e.put("a.age", encrypt(t, "a", nil, editor))
	e.put("b.age", encrypt(t, "b", nil, editor))
	e.put("c.yaml", sopsEncrypt(t, "c.yaml", "c: x\n", editor))
	wants := []Want{{Path: "a.age", Hosts: []string{"joker"}}, {Path: "b.age", Hosts: []string{"joker", "ratched"}}, {Path: "c.yaml", Hosts: []string{"ratched"}}}
	plan, err := MakePlan(Input{Files: wants, Blobs: e.paths, HostKeys: keys})
	must(t, err)
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	e.files, err = Execute(t.Context(), plan, ids, e.read)
	must(t, err)
	e.in = VerifyInput{Files: wants, Source: maps.Clone(e.paths), Released: map[string]string{}, HostKeys: keys, Editors: []string{editor.pub},
		Read: e.read, Records: released(t, plan, e.files)}
	for path, file := range e.files {
		e.release(path, file)
	}
	e.in.History = func(yield func(Revision, error) bool) {
		for path, blob := range e.in.Source {
			if !yield(Revision{"c1", path, blob}, nil) || !yield(Revision{"c1", "README.md", "none"}, nil) {
				return
			}
		}
	}
	return e, editor
}

func (e *estate) release(path string, file []byte) {
	e.blobs[blobID(file)] = file
	e.in.Released[path] = blobID(file)
}

func (e *estate) source(path string, file []byte) {
	e.blobs[blobID(file)] = file
	e.in.Source[path] = blobID(file)
}

func (e *estate) identities(t *testing.T, editor key) {
	t.Helper()
	e.in.HostIdentities = map[string][]age.Identity{}
	var err error
	for h, k := range e.hosts {
		e.in.HostIdentities[h], err = LoadIdentities(k.file)
		must(t, err)
	}
	e.in.EditorIdentities, err = LoadIdentities(editor.file)
	must(t, err)
}

// TestVerify asks about a good release and about ones that are wrong in one way, with public keys only and with private ones.
func TestVerify(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(e *estate, editor key)
		want map[Question]string // what is not yes, and a reason
	}{
		"good": {func(*estate, key) {}, nil},
		"host left out": {func(e *estate, _ key) { e.release("b.age", encrypt(t, "b", nil, e.hosts["joker"])) },
			map[Question]string{HostsReadTheirs: "b.age in the release cannot be decrypted by ratched"}},
		"host too much": {func(e *estate, _ key) { e.release("a.age", encrypt(t, "a", nil, e.hosts["joker"], e.hosts["idle"])) },
			map[Question]string{HostsNotOthers: "a.age in the release can be decrypted by idle", HostsReadTheirs: "also encrypted"}},
		"editors' bytes released": {func(e *estate, _ key) { e.release("c.yaml", e.blobs[e.paths["c.yaml"]]) },
			map[Question]string{HostsReadTheirs: "c.yaml in the release is not for those that declare it"}},
		"not released": {func(e *estate, _ key) { delete(e.in.Released, "a.age") },
			map[Question]string{HostsReadTheirs: "a.age, declared by joker, is not in the release"}},
		"another blob": {func(e *estate, _ key) {
			e.in.Records.Files["a.age"] = fleet.SecretRecord{Released: blobID(nil)}
		}, map[Question]string{HostsReadTheirs: "not the blob"}},
		"host reads main": {func(e *estate, editor key) { e.source("a.age", encrypt(t, "a", nil, editor, e.hosts["idle"])) },
			map[Question]string{HostsNotSource: "a.age on the source branch can be decrypted by idle"}},
		"host reads main, sops": {func(e *estate, editor key) {
			_, n, _ := ParseRecipient(e.hosts["idle"].pub)
			name, err := sopsName(n)
			must(t, err)
			e.source("c.yaml", sopsEncrypt(t, "c.yaml", "c: x\n", editor, key{pub: name}))
		}, map[Question]string{HostsNotSource: "c.yaml on the source branch can be decrypted by idle"}},
		"editor locked out": {func(e *estate, _ key) { e.source("b.age", encrypt(t, "b", nil, ageKey(t))) },
			map[Question]string{EditorsRead: "b.age on the source branch"}},
		"damaged": {func(e *estate, _ key) { e.release("a.age", []byte("age-encryption.org/v1\nx")) },
			map[Question]string{HostsReadTheirs: "a.age", HostsNotOthers: "cannot be told"}},
		"plaintext in the history": {func(e *estate, _ key) {
			e.blobs["plain"] = []byte("TOPSECRET")
			e.in.History = func(yield func(Revision, error) bool) { yield(Revision{"c0", "a.age", "plain"}, nil) }
		}, map[Question]string{NoPlaintext: "a.age in commit c0 is not encrypted"}},
		"no history":   {func(e *estate, _ key) { e.in.History = nil }, map[Question]string{NoPlaintext: "no history"}},
		"not on main":  {func(e *estate, _ key) { delete(e.in.Source, "a.age") }, map[Question]string{EditorsRead: "a.age"}},
		"main mangled": {func(e *estate, _ key) { e.source("c.yaml", []byte("c: 1\nsops:\n    mac: x\n")) }, map[Question]string{HostsNotSource: "c.yaml", EditorsRead: "c.yaml", NoPlaintext: "c.yaml"}},
	} {
		for _, private := range []bool{false, true} {
			e, editor := newEstate(t, func() key { return sshKey(t, "ed25519") })
			c.edit(e, editor)
			if private {
				e.identities(t, editor)
			}
			answers, err := Verify(t.Context(), e.in)
			must(t, err)
			if len(answers) != 5 {
				t.Fatal(len(answers))
			}
			for _, a := range answers {
				reason, bad := c.want[a.Question]
				text := strings.Join(a.Reasons, "\n")
				if bad == (a.Verdict == Yes) || !strings.Contains(text, reason) || strings.Contains(text, "TOPSECRET") {
					t.Errorf("%s (private keys: %v): %s: %s\n%s", name, private, a.Question, a.Verdict, text)
				}
				if name == "good" && a.Question != NoPlaintext && (a.Decrypted > 0) != private {
					t.Errorf("%s: %d decrypted", a.Question, a.Decrypted)
				}
			}
		}
	}
}

// TestVerifyAnonymous: age keys leave no trace in a header. Then exact numbers are an answer, and anything else is none, until there is a private key.
func TestVerifyAnonymous(t *testing.T) {
	e, editor := newEstate(t, func() key { return ageKey(t) })
	for _, a := range verifyAll(t, e) {
		if a.Verdict != Yes {
			t.Errorf("%s: %s %v", a.Question, a.Verdict, a.Reasons)
		}
	}
	e.source("a.age", encrypt(t, "a", nil, editor, e.hosts["idle"]))
	if a := verifyAll(t, e)[2]; a.Verdict != Unknown || !strings.Contains(a.Reasons[0], "without its private key") {
		t.Errorf("%s: %s %v", a.Question, a.Verdict, a.Reasons)
	}
	e.identities(t, editor)
	if a := verifyAll(t, e)[2]; a.Verdict != No || len(a.Reasons) != 1 || !strings.Contains(a.Reasons[0], "idle") {
		t.Errorf("%s: %s %v", a.Question, a.Verdict, a.Reasons)
	}
	e.in.Editors, e.in.EditorIdentities = nil, nil
	if a := verifyAll(t, e)[3]; a.Verdict != Unknown {
		t.Errorf("%s: %s %v", a.Question, a.Verdict, a.Reasons)
	}
	broken := errors.New("broken")
	e.in.Read = func(string) ([]byte, error) { return nil, broken }
	if _, err := Verify(t.Context(), e.in); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func verifyAll(t *testing.T, e *estate) []Answer {
	t.Helper()
	answers, err := Verify(t.Context(), e.in)
	must(t, err)
	return answers
}

func TestFindPlaintext(t *testing.T) {
	editor := ageKey(t)
	good := sopsEncrypt(t, "a.yaml", "a: TOPSECRET\nb_unencrypted: x\n", editor)
	blobs := map[string][]byte{
		"sops": good, "age": encrypt(t, "x", nil, editor), "armor": encrypt(t, "x", []string{"-a"}, editor), "empty": []byte("\n"),
		"plain": []byte("TOPSECRET"), "open": bytes.Replace(good, []byte("a: ENC"), []byte("a: TOPSECRET #"), 1),
		"lfs": []byte("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "cut": []byte("age-encryption.org/v1\n"),
	}
	reads := 0
	read := func(blob string) ([]byte, error) {
		reads++
		if blobs[blob] == nil {
			return nil, errors.New("no such blob")
		}
		return blobs[blob], nil
	}
	history := func(yield func(Revision, error) bool) {
		for _, commit := range []string{"c1", "c2"} {
			for _, blob := range slices.Sorted(maps.Keys(blobs)) {
				if !yield(Revision{commit, "s/" + blob, blob}, nil) {
					return
				}
			}
			yield(Revision{commit, "README.md", "none"}, nil)
			yield(Revision{commit, "s/copy", "plain"}, nil)
		}
	}
	secret := func(p string) bool { return strings.HasPrefix(p, "s/") }
	found, err := FindPlaintext(secret, history, read)
	must(t, err)
	var said []string
	for _, f := range found {
		said = append(said, f.String())
		if len(f.Commits) != 2 {
			t.Errorf("%s is in %v", f.Path, f.Commits)
		}
	}
	want := []string{"s/cut in commit c1 begins like an age file, but its header is damaged", "s/lfs in commit c1 is a pointer of git-lfs: what it points to was not looked at",
		"s/open in commit c1 is a sops file, but what stands at a is not encrypted", "s/plain in commit c1 is not encrypted", "s/copy in commit c1 is not encrypted"}
	if !slices.Equal(said, want) || reads != len(blobs) {
		t.Errorf("%d blobs read, found\n%s", reads, strings.Join(said, "\n"))
	}
	broken := errors.New("broken")
	for _, h := range []iter.Seq2[Revision, error]{
		func(yield func(Revision, error) bool) { yield(Revision{}, broken) },
		func(yield func(Revision, error) bool) { yield(Revision{"c", "s/x", "none"}, nil) },
	} {
		if _, err := FindPlaintext(secret, h, read); err == nil {
			t.Error("no error")
		}
	}
}

func TestStatus(t *testing.T) {
	editor, host, other := sshKey(t, "ed25519"), sshKey(t, "ed25519"), ageKey(t)
	keys := NewKeyring(map[string][]string{"joker": {host.pub, other.pub}, "twin": {host.pub}, "odd": {"nonsense"}}, []string{editor.pub, other.pub})
	_, hostKey, err := ParseRecipient(host.pub)
	must(t, err)
	converted, err := sopsName(hostKey)
	must(t, err)
	stranger := newRecipient(t)
	got := Status(&fleet.Secrets{Files: map[string]fleet.SecretRecord{"b.yaml": {Recipients: []string{converted}}, "a.age": {Recipients: []string{hostKey, other.pub, stranger}}}}, keys)
	if len(got) != 2 || got[0].Path != "a.age" || got[1].Kind != KindSops || got[1].Readers[0].Name() != "joker, twin" ||
		got[0].Readers[1].Name() != "joker, "+other.pub || got[0].Readers[2].Name() != "somebody unknown: "+stranger {
		t.Errorf("%+v", got)
	}
	if Status(nil, keys) == nil {
		t.Error("nil, which is null in JSON")
	}
	readers, err := ReadersOf(encrypt(t, "x", nil, editor, host, other, sshKey(t, "rsa")), keys)
	must(t, err)
	var names []string
	for _, r := range readers {
		names = append(names, r.Name())
	}
	if text := strings.Join(names, "; "); !strings.HasPrefix(text, "root@some host; joker, twin; somebody unknown: X25519 (anonymous); somebody unknown: ssh-rsa ") {
		t.Error(text)
	}
	file := bytes.Replace(sopsEncrypt(t, "a.yaml", "a: x\n", editor, key{pub: converted}), []byte("sops:\n"), []byte("sops:\n    pgp:\n        - fp: ABCD\n"), 1)
	readers, err = ReadersOf(file, keys)
	must(t, err)
	if len(readers) != 3 || readers[0].Name() != "root@some host" || readers[1].Name() != "joker, twin" || readers[2].Recipient != "pgp" {
		t.Errorf("%+v", readers)
	}
	for _, text := range []string{"x", "sops:\n    mac: x\n"} {
		if _, err := ReadersOf([]byte(text), keys); err == nil {
			t.Error("no error")
		}
	}
}
