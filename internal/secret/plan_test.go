package secret

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func newRecipient(t testing.TB) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	must(t, err)
	return id.Recipient().String()
}

func TestPlanNamesEveryProblem(t *testing.T) {
	good := newRecipient(t)
	plan, err := MakePlan(Input{
		Files: []Want{
			{Path: "missing.age", Hosts: []string{"ratched", "joker"}}, {Path: "ok.age", Hosts: []string{"ratched"}},
			{Path: "keyless.age", Hosts: []string{"ursula"}}, {Path: "keyless2.age", Hosts: []string{"ursula"}}, {Path: "bad.age", Hosts: []string{"typo", "ratched"}},
			{Path: "../out.age", Hosts: []string{"ratched"}}, {Path: "/abs.age", Hosts: []string{"ratched"}}, {Path: ".garrison/secrets.json", Hosts: nil}, {Path: "undeclared.age", Hosts: nil},
		},
		Blobs: map[string]string{"ok.age": blobID(nil), "keyless.age": blobID(nil), "keyless2.age": blobID(nil),
			"bad.age": "nonsense", "undeclared.age": blobID(nil)},
		HostKeys: map[string][]string{"ratched": {good}, "joker": {good}, "typo": {good, good[:20]}},
	})
	if plan != nil {
		t.Error("a plan came out")
	}
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "8 problems",
		"missing.age, declared by joker, ratched, is not in the source commit",
		"host ursula has no public key, but declares keyless.age, keyless2.age",
		"key 2 of host typo (which declares bad.age) cannot be used",
		`bad.age: "nonsense"`, `"../out.age"`, `"/abs.age"`, `".garrison/secrets.json"`, "undeclared.age is to be re-keyed")
	if strings.Contains(err.Error(), "ok.age") {
		t.Errorf("names a good file: %v", err)
	}

	_, err = MakePlan(Input{Files: []Want{{Path: "a.age", Hosts: []string{"ursula"}}, {Path: "b.age", Hosts: []string{"flagg"}}}, Blobs: map[string]string{"a.age": blobID(nil), "b.age": blobID(nil)}})
	expectError(t, err, fleet.Bad, fleet.CodeKey, "ursula", "flagg", "a.age", "b.age")
	if hint := fleet.FailureOf(fleet.Rekey, err).Hint; strings.Count(hint, "declare the public key") != 1 {
		t.Errorf("hint %q", hint)
	}
}

func TestPlanEmpty(t *testing.T) {
	p, err := MakePlan(Input{})
	must(t, err)
	text, err := json.Marshal(p)
	must(t, err)
	if !p.Unchanged() || string(text) != `{"keep":[],"rekey":[],"dropped":[],"gone":[]}` {
		t.Errorf("got %s", text)
	}
}

// TestPlanKeepsUnlessTheKeyDiffers goes through what makes a file be written again,
// and what must not.
func TestPlanKeepsUnlessTheKeyDiffers(t *testing.T) {
	a, b := newRecipient(t), newRecipient(t)
	if a > b {
		a, b = b, a
	}
	blob, edited := blobID([]byte("1")), blobID([]byte("2"))
	rec := fleet.SecretRecord{Source: blob, Recipients: []string{a, b}, Format: Format, Released: blobID([]byte("r"))}
	both := []Want{{Path: "s.age", Hosts: []string{"h1", "h2"}}}
	keys := map[string][]string{"h1": {b}, "h2": {a}}
	for _, c := range []struct {
		name  string
		files []Want
		blob  string
		keys  map[string][]string
		edit  func(*fleet.SecretRecord)
		why   Why
	}{
		{"the same", both, blob, keys, nil, ""},
		{"declared twice", []Want{{Path: "s.age", Hosts: []string{"h2", "h1", "h2"}}, {Path: "s.age", Hosts: []string{"h1"}}}, blob, keys, nil, ""},
		{"keys with spaces", both, blob, map[string][]string{"h1": {" " + b + "\n"}, "h2": {a}}, nil, ""},
		{"hosts changed, keys not", []Want{{Path: "s.age", Hosts: []string{"h3"}}}, blob, map[string][]string{"h3": {a, b}}, nil, ""},
		{"edited", both, edited, keys, nil, WhySource},
		{"a host less", []Want{{Path: "s.age", Hosts: []string{"h1"}}}, blob, keys, nil, WhyRecipients},
		{"a key more", both, blob, map[string][]string{"h1": {b, newRecipient(t)}, "h2": {a}}, nil, WhyRecipients},
		{"other format", both, blob, keys, func(r *fleet.SecretRecord) { r.Format++ }, WhyFormat},
		{"no released blob", both, blob, keys, func(r *fleet.SecretRecord) { r.Released = "" }, WhyDamaged},
	} {
		was := rec
		if c.edit != nil {
			c.edit(&was)
		}
		p, err := MakePlan(Input{Files: c.files, Blobs: map[string]string{"s.age": c.blob}, HostKeys: c.keys, Previous: &fleet.Secrets{Files: map[string]fleet.SecretRecord{"s.age": was}}})
		must(t, err)
		if c.why == "" {
			if len(p.Rekey) != 0 || len(p.Keep) != 1 || !reflect.DeepEqual(p.Keep[0].Record, rec) || !p.Unchanged() {
				t.Errorf("%s: %+v", c.name, p)
			}
		} else if len(p.Keep) != 0 || len(p.Rekey) != 1 || p.Rekey[0].Why != c.why || p.Unchanged() {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}

func TestPlanReportsDropped(t *testing.T) {
	keep, lost, unknown := newRecipient(t), newRecipient(t), newRecipient(t)
	blob := blobID([]byte("1"))
	rec := fleet.SecretRecord{Source: blob, Recipients: []string{keep, lost, unknown}, Format: Format, Released: blob}
	p, err := MakePlan(Input{
		Files:    []Want{{Path: "kept.age", Hosts: []string{"h1"}}, {Path: "edited.age", Hosts: []string{"h1"}}},
		Blobs:    map[string]string{"kept.age": blob, "edited.age": blobID([]byte("2")), "undeclared.age": blob},
		HostKeys: map[string][]string{"h1": {keep}, "h2": {lost, "nonsense"}},
		Previous: &fleet.Secrets{Files: map[string]fleet.SecretRecord{"kept.age": rec, "edited.age": rec, "undeclared.age": rec, "deleted.age": rec}},
	})
	must(t, err)
	if !slices.Equal(p.Gone, []string{"deleted.age", "undeclared.age"}) || p.Unchanged() {
		t.Errorf("gone %v", p.Gone)
	}
	var said []string
	for _, d := range p.Dropped {
		said = append(said, d.String())
	}
	text := strings.Join(said, "\n")
	for _, want := range []string{
		"kept.age: rotate this value: h2 could read it", "kept.age: rotate this value: " + unknown,
		"edited.age: h2 could read it until now; unless this edit changed the value, rotate it",
		"undeclared.age: rotate this value: h1", "deleted.age: rotate this value: h1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if len(said) != 2+2+3+3 {
		t.Errorf("%d drops:\n%s", len(said), text)
	}
}

// TestPlanDeterministic: the order of what is given makes no difference, and the
// plan of what a plan gives re-keys nothing.
func TestPlanDeterministic(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 50 {
		in := Input{Blobs: map[string]string{}, HostKeys: map[string][]string{}}
		for h := range 1 + rng.IntN(5) {
			for range 1 + rng.IntN(2) {
				name := fmt.Sprintf("h%d", h)
				in.HostKeys[name] = append(in.HostKeys[name], newRecipient(t))
			}
		}
		hosts := sortedKeys(in.HostKeys)
		for f := range rng.IntN(20) {
			path := fmt.Sprintf("s%d.age", f)
			in.Blobs[path] = blobID([]byte(path))
			in.Files = append(in.Files, Want{Path: path, Hosts: hosts[:1+rng.IntN(len(hosts))]})
		}
		one, err := MakePlan(in)
		must(t, err)
		shuffled := in
		shuffled.Files = slices.Clone(in.Files)
		rng.Shuffle(len(shuffled.Files), func(i, j int) {
			shuffled.Files[i], shuffled.Files[j] = shuffled.Files[j], shuffled.Files[i]
		})
		two, err := MakePlan(shuffled)
		must(t, err)
		if !reflect.DeepEqual(one, two) {
			t.Fatalf("round %d: %+v\n%+v", round, one, two)
		}
		files := make(map[string][]byte)
		for _, r := range one.Rekey {
			files[r.Path] = []byte("released " + r.Path)
		}
		in.Previous = released(t, one, files)
		again, err := MakePlan(in)
		must(t, err)
		if !again.Unchanged() || len(again.Keep) != len(in.Files) || len(again.Dropped) != 0 {
			t.Fatalf("round %d: %+v", round, again)
		}
		if same := released(t, again, nil); !reflect.DeepEqual(same, in.Previous) {
			t.Fatalf("round %d: %+v", round, same)
		}
	}
}

func TestRecordsNeedEveryBlob(t *testing.T) {
	p := &Plan{Rekey: []Rekeyed{{Path: "a.age"}}}
	_, err := p.Records(nil)
	expectError(t, err, fleet.Bad, fleet.CodeInternal, "a.age")
}
