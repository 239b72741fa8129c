package secret

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// pluginName is of an age plugin that this test binary is when it is called so: its keys hold an X25519 key, and it
// uses one called "ask" only if somebody answers.
const pluginName = "garrisontest"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "age-plugin-"+pluginName {
		os.Exit(runPlugin())
	}
	os.Exit(m.Run())
}

func runPlugin() int {
	p, err := plugin.New(pluginName)
	if err != nil {
		return 1
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) { return age.ParseX25519Recipient(string(data)) })
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		key, ask := strings.CutPrefix(string(data), "ask ")
		if ask {
			if pin, err := p.RequestValue("PIN?", true); err != nil || pin != "1234" {
				return nil, errors.New("the PIN is wrong")
			}
		}
		return age.ParseX25519Identity(key)
	})
	return p.Main()
}

// withPlugin puts the plugin into PATH.
func withPlugin(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	must(t, os.Symlink(self, filepath.Join(dir, "age-plugin-"+pluginName)))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestPlugin(t *testing.T) {
	withPlugin(t)
	id, err := age.GenerateX25519Identity()
	must(t, err)
	public := plugin.EncodeRecipient(pluginName, []byte(id.Recipient().String()))
	private := plugin.EncodeIdentity(pluginName, []byte(id.String()))
	asking := plugin.EncodeIdentity(pluginName, []byte("ask "+id.String()))
	to, err := ParseEditors([]string{public}, nil)
	must(t, err)
	host := sshKey(t, "ed25519")
	r := newRepo()
	for path, text := range map[string]string{"a.age": "value", "b.yaml": "b: value\n"} {
		file, err := EncryptFor(path, KindAuto, []byte(text), to, time.Now())
		must(t, err)
		r.put(path, file)
	}
	in := Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {host.pub}}, Files: []Want{{Path: "a.age", Hosts: []string{"joker"}}, {Path: "b.yaml", Hosts: []string{"joker"}}}}
	plan, err := MakePlan(in)
	must(t, err)

	ids, err := LoadIdentities(writeFile(t, "# hardware\n"+private+"\n"))
	must(t, err)
	files, err := Execute(t.Context(), plan, ids, r.read)
	must(t, err)
	if got, err := decryptWith(t, files["a.age"], host); err != nil || got != "value" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := sopsRun(t, hostSopsKey(t, host), "b.yaml", files["b.yaml"], "decrypt"); err != nil || got != "b: value\n" {
		t.Errorf("%q, %v", got, err)
	}

	silent, err := LoadIdentities(writeFile(t, asking+"\n"))
	must(t, err)
	_, err = Execute(t.Context(), plan, silent, r.read)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "a.age", "b.yaml", "garrisontest plugin: the PIN is wrong")
	asked := 0
	terminal, err := LoadIdentitiesWith(writeFile(t, asking+"\n"), &plugin.ClientUI{RequestValue: func(name, prompt string, secret bool) (string, error) {
		asked++
		return "1234", nil
	}})
	must(t, err)
	if _, err = Execute(t.Context(), plan, terminal, r.read); err != nil || asked == 0 {
		t.Errorf("asked %d times: %v", asked, err)
	}

	in.HostKeys["joker"] = []string{public}
	_, err = MakePlan(in)
	expectError(t, err, fleet.Bad, fleet.CodeKey, "plugin")
}

func TestPluginMissing(t *testing.T) {
	ids, err := LoadIdentities(writeFile(t, plugin.EncodeIdentity("garrisonmissing", []byte("x"))+"\n"))
	must(t, err)
	r := newRepo()
	r.put("a.age", encrypt(t, "x", nil, ageKey(t)))
	plan, err := MakePlan(Input{Blobs: r.paths, HostKeys: map[string][]string{"joker": {ageKey(t).pub}}, Files: []Want{{Path: "a.age", Hosts: []string{"joker"}}}})
	must(t, err)
	_, err = Execute(t.Context(), plan, ids, r.read)
	expectError(t, err, fleet.Bad, fleet.CodeSecret, "a.age", "age-plugin-garrisonmissing")
}
