package secret

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var sopsProgram = sync.OnceValues(func() (string, error) {
	c := exec.Command("../../scripts/fetch-sops")
	c.Stderr = os.Stderr
	out, err := c.Output()
	return strings.TrimSpace(string(out)), err
})

// sopsRun is the sops program on a file of its own, with age keys (lines) to decrypt by.
func sopsRun(t testing.TB, keys, name string, file []byte, args ...string) (string, error) {
	t.Helper()
	bin, err := sopsProgram()
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, name), file, 0o600))
	c := exec.Command(bin, append(args, name)...)
	c.Dir, c.Env = dir, []string{"SOPS_AGE_KEY=" + keys, "HOME=" + dir}
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	return string(out), err
}

func sopsEncrypt(t testing.TB, name, text string, to ...key) []byte {
	t.Helper()
	var pubs []string
	for _, k := range to {
		_, normal, err := ParseRecipient(k.pub)
		must(t, err)
		pubs = append(pubs, normal)
	}
	out, err := sopsRun(t, "", name, []byte(text), "encrypt", "--age", strings.Join(pubs, ","))
	must(t, err)
	return []byte(out)
}

// hostSopsKey is the age key that a host's sops-nix decrypts by: of an SSH key, the one that is made of it.
func hostSopsKey(t testing.TB, k key) string {
	t.Helper()
	ids, err := LoadIdentities(k.file)
	must(t, err)
	if ssh, ok := ids[0].(*sshIdentity); ok {
		return ssh.converted.String()
	}
	text := readFile(t, k.file)
	return text[strings.Index(text, "AGE-SECRET-KEY-"):]
}

// TestSopsRoundTrip re-keys files of the sops program, from every kind of editor's key, and has the program
// read them as each host's sops-nix would.
func TestSopsRoundTrip(t *testing.T) {
	hosts := map[string]key{"ratched": sshKey(t, "ed25519"), "joker": sshKey(t, "ed25519"), "ursula": ageKey(t)}
	public := make(map[string][]string)
	for h, k := range hosts {
		public[h] = []string{k.pub}
	}
	texts := map[string]string{"s/a.yaml": "db:\n    # why\n    password: hunter2\nport: 5432\n", "s/b.json": "{\n\t\"token\": \"t\"\n}\n", "s/c.env": "A=1\n", "s/d": "bin\x00ary"}
	for name, editor := range map[string]key{"ssh": sshKey(t, "ed25519"), "rsa": sshKey(t, "rsa"), "age": ageKey(t)} {
		t.Run(name, func(t *testing.T) {
			ids, err := LoadIdentities(editor.file)
			must(t, err)
			r := newRepo()
			for path, text := range texts {
				r.put(path, sopsEncrypt(t, filepath.Base(path), text, editor))
			}
			plan, err := MakePlan(Input{Blobs: r.paths, HostKeys: public, Files: []Want{
				{Path: "s/a.yaml", Hosts: []string{"ratched"}, Keys: []string{"db/password"}},
				{Path: "s/a.yaml", Hosts: []string{"ursula"}, Keys: []string{"port", "db"}},
				{Path: "s/b.json", Hosts: []string{"joker", "ratched"}, Kind: KindSops},
				{Path: "s/c.env", Hosts: []string{"joker"}, Keys: []string{""}},
				{Path: "s/d", Hosts: []string{"ursula", "joker"}, Kind: KindSops},
			}})
			must(t, err)
			files, err := Execute(t.Context(), plan, ids, r.read)
			must(t, err)
			for _, item := range plan.Rekey {
				must(t, CheckStanzas(files[item.Path], item.Recipients))
				for h, k := range hosts {
					got, err := sopsRun(t, hostSopsKey(t, k), filepath.Base(item.Path), files[item.Path], "decrypt")
					if may := contains(item.Hosts, h); may && (err != nil || got != texts[item.Path]) {
						t.Errorf("%s reads %q of %s: %v", h, got, item.Path, err)
					} else if !may && err == nil {
						t.Errorf("%s can read %s", h, item.Path)
					}
				}
				for _, r := range item.Recipients {
					if !strings.HasPrefix(r, "age1") {
						t.Errorf("%s has recipient %s", item.Path, r)
					}
				}
			}
			in := Input{Blobs: r.paths, HostKeys: public, Previous: released(t, plan, files), Files: []Want{{Path: "s/a.yaml", Hosts: []string{"ratched"}}}}
			next, err := MakePlan(in)
			must(t, err)
			if len(next.Dropped) == 0 || next.Dropped[0].Host != "ursula" || next.Dropped[0].Path != "s/a.yaml" {
				t.Errorf("dropped %+v", next.Dropped)
			}
		})
	}
}

func TestSopsProblems(t *testing.T) {
	editor, other, host := ageKey(t), ageKey(t), sshKey(t, "ed25519")
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	good := sopsEncrypt(t, "a.yaml", "a: TOPSECRET\nempty: \"\"\nopen_unencrypted: TOPSECRET\n", editor)
	r := newRepo()
	r.put("plain.yaml", []byte("a: TOPSECRET\n"))
	r.put("age.yaml", encrypt(t, "TOPSECRET", nil, editor))
	r.put("other.yaml", sopsEncrypt(t, "a.yaml", "a: TOPSECRET\n", other))
	r.put("moved.yaml", bytes.Replace(good, []byte("a: ENC"), []byte("b: ENC"), 1))
	r.put("mac.yaml", bytes.Replace(good, []byte("open_unencrypted: TOPSECRET"), []byte("open_unencrypted: TOPSECRET2"), 1))
	r.put("keys.yaml", good)
	r.put("nothing.yaml", good)
	r.put("none.yaml", sopsEncrypt(t, "a.yaml", "a_unencrypted: TOPSECRET\n", editor))
	r.put("sops.age", good)
	pgp := bytes.Replace(bytes.Replace(good, []byte(editor.pub), []byte(other.pub), 1), []byte("sops:\n"), []byte("sops:\n    pgp:\n        - fp: ABCD\n          enc: TOPSECRET\n"), 1)
	enc := sopsEncrypt(t, "a.yaml", "a: x\n", other)
	from, to := bytes.Index(enc, []byte("-----BEGIN")), bytes.Index(enc, []byte("-----END"))
	gFrom, gTo := bytes.Index(pgp, []byte("-----BEGIN")), bytes.Index(pgp, []byte("-----END"))
	r.put("pgp.yaml", bytes.Replace(pgp, pgp[gFrom:gTo], enc[from:to], 1))
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.pub}, "rsa": {sshKey(t, "rsa").pub}}}
	for path := range r.paths {
		w := Want{Path: path, Hosts: []string{"joker"}}
		switch path {
		case "keys.yaml":
			w.Keys = []string{"a", "b/c", "gone"}
		case "nothing.yaml":
			w.Keys = []string{"a", "empty"}
		}
		in.Files = append(in.Files, w)
	}
	plan, err := MakePlan(in)
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	if files != nil {
		t.Errorf("got %d files", len(files))
	}
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "10 problems",
		"plain.yaml (for joker) is not a sops file", "age.yaml (for joker) is an age file", "sops.age (for joker) is a sops file",
		"other.yaml (for joker) can be decrypted by none of the 1 identities given: it is encrypted for "+other.pub,
		"moved.yaml (for joker) cannot be decrypted: the value at b does not decrypt", "mac.yaml (for joker) cannot be decrypted: its MAC",
		"keys.yaml (for joker) does not have the key b/c, gone", "nothing.yaml (for joker) has nothing under the key empty",
		"none.yaml (for joker) has no value that is encrypted", "encrypted for "+other.pub+", keys of kind pgp")
	if strings.Contains(err.Error(), "TOPSECRET") {
		t.Errorf("repeats a value: %v", err)
	}

	in.Files = []Want{{Path: "keys.yaml", Hosts: []string{"rsa"}}, {Path: "age.yaml", Kind: KindAge}, {Path: "age.yaml", Kind: KindSops, Hosts: []string{"joker"}}, {Path: "mac.yaml", Kind: "pgp"}}
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "keys.yaml cannot be encrypted for host rsa", "age.yaml, declared by joker, is used as a file of age and of sops", `kind of secret files "pgp"`)
}

// TestSopsOtherKeys: an age key that fits is enough; in the release only age recipients stand.
func TestSopsOtherKeys(t *testing.T) {
	editor, host := ageKey(t), sshKey(t, "ed25519")
	ids, err := LoadIdentities(editor.file)
	must(t, err)
	src := sopsEncrypt(t, "a.yaml", "a: x\n", editor)
	src = bytes.Replace(src, []byte("sops:\n"), []byte("sops:\n    kms: []\n    gcp_kms: []\n    hc_vault: []\n    pgp:\n        - created_at: \"2020-07-12T08:03:51Z\"\n          fp: ABCD\n          enc: x\n"), 1)
	r := newRepo()
	r.put("a.yaml", src)
	plan, err := MakePlan(Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.pub}}, Files: []Want{{Path: "a.yaml", Hosts: []string{"joker"}}}})
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	if bytes.Contains(files["a.yaml"], []byte("pgp")) || bytes.Count(files["a.yaml"], []byte("recipient:")) != 1 {
		t.Errorf("released\n%s", files["a.yaml"])
	}
	_, one, err := ParseRecipient(editor.pub)
	must(t, err)
	for want, file := range map[string][]byte{"also encrypted for keys of kind pgp": src, "not encrypted for " + editor.pub + "; it is also": files["a.yaml"]} {
		if err := CheckStanzas(file, []string{one}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	lie := bytes.Replace(sopsEncrypt(t, "a.yaml", "a: x\n", sshKey(t, "ed25519")), []byte("recipient: ssh-ed25519"), []byte("recipient: "+editor.pub+" #"), 1)
	if err := CheckStanzas(lie, []string{one}); err == nil || !strings.Contains(err.Error(), "the data key for") {
		t.Errorf("a header that is for another: %v", err)
	}
}
