package secret

import (
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func TestRemovalsNeedAWord(t *testing.T) {
	editor, ratched, joker := ageKey(t), sshKey(t, "ed25519"), sshKey(t, "ed25519")
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	r := newRepo()
	r.put("a.age", encrypt(t, "a", nil, editor))
	r.put("b.yaml", sopsEncrypt(t, "b.yaml", "b: x\n", editor))
	r.put("gone.age", encrypt(t, "gone", nil, editor))
	both := []string{"joker", "ratched"}
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"ratched": {ratched.pub}, "joker": {joker.pub}}, AllowRemoval: AllowList(nil),
		Files: []Want{{Path: "a.age", Hosts: both}, {Path: "b.yaml", Hosts: both}, {Path: "gone.age", Hosts: both}}}
	plan, err := MakePlan(in)
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	in.Previous = released(t, plan, files)
	if _, err := MakePlan(in); err != nil {
		t.Errorf("nothing is removed, and yet: %v", err)
	}

	delete(r.paths, "gone.age") // the file itself: its removal from git is the word
	in.Files = []Want{{Path: "a.age", Hosts: []string{"ratched"}}, {Path: "b.yaml", Hosts: []string{"ratched"}}}
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "joker would no longer be able to read a.age (now for ratched), b.yaml (now for ratched)")
	if hint := fleet.FailureOf(fleet.Rekey, err).Hint; !strings.Contains(hint, `secrets.allowRemoval = ["joker"]`) || strings.Contains(err.Error(), "gone.age") {
		t.Errorf("%v\nhint %q", err, hint)
	}
	in.Files = nil // what an evaluation that comes out short looks like
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "2 problems", "joker would", "ratched would")

	in.Files = []Want{{Path: "a.age", Hosts: []string{"ratched"}}, {Path: "b.yaml", Hosts: []string{"ratched"}}}
	for _, allow := range [][]string{{"joker"}, {"x", joker.pub}} {
		in.AllowRemoval = AllowList(allow)
		if plan, err = MakePlan(in); err != nil || len(plan.Dropped) != 4 {
			t.Errorf("allowed %v, and yet %v", allow, err)
		}
	}
	in.AllowRemoval = AllowList([]string{"ratched", ratched.pub})
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "joker would")
	in.AllowRemoval = nil
	if _, err = MakePlan(in); err != nil {
		t.Errorf("without a list: %v", err)
	}
}

// TestRotation changes a host's and an editor's key, each with a time in which both keys work.
func TestRotation(t *testing.T) {
	oldEditor, newEditor := ageKey(t), ageKey(t)
	oldHost, newHost, other := sshKey(t, "ed25519"), sshKey(t, "ed25519"), ageKey(t)
	r := newRepo()
	in := Input{Blobs: r.paths, AllowRemoval: AllowList(nil), HostKeys: map[string][]string{"joker": {oldHost.pub}, "ursula": {other.pub}},
		Files: []Want{{Path: "a.age", Hosts: []string{"joker"}}, {Path: "b.yaml", Hosts: []string{"joker", "ursula"}}}}
	source := func(editors ...key) {
		r.put("a.age", encrypt(t, "value", nil, editors...))
		r.put("b.yaml", sopsEncrypt(t, "b.yaml", "b: value\n", editors...))
	}
	kept := map[string][]byte{}
	release := func(editor key, rekeyed int, readers, others []key) {
		t.Helper()
		ids, err := LoadIdentities(editor.file)
		must(t, err)
		plan, err := MakePlan(in)
		must(t, err)
		if len(plan.Rekey) != rekeyed {
			t.Errorf("%d files re-keyed, want %d: %+v", len(plan.Rekey), rekeyed, plan.Rekey)
		}
		files, err := Execute(t.Context(), plan, ids, r.read)
		must(t, err)
		for path, file := range files {
			kept[path] = file
		}
		for path, file := range kept {
			for i, k := range slices.Concat(readers, others) {
				ids, err := LoadIdentities(k.file)
				must(t, err)
				var a Answer
				l := &looked{file: file, kind: KindOf(file)}
				if can, err := l.opens(&a, ids, nil, nil); err != nil || (can == Yes) != (i < len(readers)) {
					t.Errorf("key %d reads %s: %s, %v", i, path, can, err)
				}
			}
		}
		in.Previous = released(t, plan, files)
	}
	source(oldEditor)
	release(oldEditor, 2, []key{oldHost}, []key{newHost})

	// 1. The host's new key besides the old one: both read.
	in.HostKeys["joker"] = []string{oldHost.pub, newHost.pub}
	release(oldEditor, 2, []key{oldHost, newHost}, nil)
	release(oldEditor, 0, []key{oldHost, newHost}, nil)
	// 2. The host has the new key; the old one goes, which needs a word and tells to rotate.
	in.HostKeys["joker"] = []string{newHost.pub}
	_, err := MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "would no longer be able to read a.age")
	in.AllowRemoval = AllowList([]string{oldHost.pub})
	release(oldEditor, 2, []key{newHost}, []key{oldHost})
	in.AllowRemoval = AllowList(nil)

	// 3. Sources for both editors' keys: either re-keys. Then for the new one alone.
	source(oldEditor, newEditor)
	release(newEditor, 2, []key{newHost}, []key{oldEditor, newEditor})
	release(oldEditor, 0, []key{newHost}, []key{oldEditor, newEditor})
	source(newEditor)
	release(newEditor, 2, []key{newHost}, []key{oldEditor})
	ids, err := LoadIdentities(oldEditor.file)
	must(t, err)
	in.Previous = nil
	plan, err := MakePlan(in)
	must(t, err)
	_, err = Execute(t.Context(), plan, ids, r.read)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "a.age", "b.yaml", "none of the 1 identities")
}

// TestDamaged damages released files in every way: they are re-keyed again.
func TestDamaged(t *testing.T) {
	editor, host := ageKey(t), sshKey(t, "ed25519")
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	r := newRepo()
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.pub}}}
	for _, path := range []string{"a.age", "b.age", "c.yaml", "d.yaml", "e.age"} {
		if strings.HasSuffix(path, ".age") {
			r.put(path, encrypt(t, path, nil, editor))
		} else {
			r.put(path, sopsEncrypt(t, "x.yaml", "a: "+path+"\n", editor))
		}
		in.Files = append(in.Files, Want{Path: path, Hosts: []string{"joker"}})
	}
	plan, err := MakePlan(in)
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	in.Previous = released(t, plan, files)
	plan, err = MakePlan(in)
	must(t, err)
	record := in.Previous.Files
	bytes := map[string][]byte{}
	for _, f := range files {
		bytes[blobID(f)] = f
	}
	delete(bytes, record["a.age"].Released)
	bytes[record["b.age"].Released] = encrypt(t, "b", nil, host, editor)
	if bytes[record["d.yaml"].Released], err = r.read(r.paths["d.yaml"]); err != nil {
		t.Fatal(err)
	}
	damaged := Damaged(record, bytes)
	for path := range damaged {
		plan.Distrust(path)
	}
	if len(damaged) != 3 || damaged["a.age"] == nil || damaged["b.age"] == nil || damaged["d.yaml"] == nil || len(plan.Rekey) != 3 || len(plan.Keep) != 2 {
		t.Errorf("%v\n%+v", damaged, plan)
	}
	if again, err := Execute(t.Context(), plan, ids, r.read); err != nil || len(again) != 3 {
		t.Errorf("%d files, %v", len(again), err)
	}
}
