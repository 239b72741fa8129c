package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/git"
)

func TestRemotesOfConfig(t *testing.T) {
	const more = "\nallowedSigners = \"/s\"\n"
	read := func(text string) ([]string, error) {
		file := filepath.Join(t.TempDir(), "agent.toml")
		if err := os.WriteFile(file, []byte("host = \"h\"\n"+text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := ReadConfig(file)
		var names []string
		for _, m := range c.remotes() {
			names = append(names, m.name)
		}
		return names, err
	}
	for text, want := range map[string]string{
		"remote = \"https://user:pw@forge.example.org/fleet.git\"" + more: "forge.example.org",
		"remote = \"git@forge:fleet.git\"" + more:                         "forge",
		"remote = \"/srv/fleet.git\"" + more + "[[remotes]]\nurl=\"file:///srv/x/fleet.git\"\n[[remotes]]\nname=\"fleet.git\"\nurl=\"a:b\"":            "fleet.git-2 fleet.git-3 fleet.git",
		more + "[[remotes]]\nurl=\"ssh://git@a/x\"\nsshKeyFile=\"/k\"\nknownHostsFile=\"/h\"\n[[remotes]]\nurl=\"http://a/x\"\ncredentialsFile=\"/c\"": "a a-2",
	} {
		if got, err := read(text); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, says := range map[string]string{
		more:                             "remote is missing",
		more + "[[remotes]]\nname=\"x\"": "x has no url",
		more + "[[remotes]]\nurl=\"-x\"": "has no url",
		"remote=\"/a\"" + more + "[[remotes]]\nurl=\"/a\"":                                "named twice",
		more + "[[remotes]]\nname=\"x\"\nurl=\"/a\"\n[[remotes]]\nname=\"x\"\nurl=\"/b\"": "used twice",
		more + "[[remotes]]\nurl=\"ssh://a/b\"\ncredentialsFile=\"/c\"":                   "by http",
		more + "[[remotes]]\nurl=\"https://a/b\"\nsshKeyFile=\"/c\"":                      "by ssh",
		more + "[[remotes]]\nurl=\"https://a/b\"\ncredentialsFile=\"c\"":                  "absolute",
		more + "[[remotes]]\nurl=\"https://a/b\"\npassword=\"c\"":                         "password",
	} {
		if _, err := read(text); fleet.CodeOf(err) != fleet.CodeConfig || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLookAfter(t *testing.T) {
	for _, c := range []struct {
		poll     time.Duration
		failures int
		want     time.Duration
	}{
		{time.Minute, 0, time.Minute}, {time.Minute, 1, time.Minute}, {time.Minute, 2, 2 * time.Minute},
		{time.Minute, 1000, 10 * time.Minute}, {time.Hour, 1000, time.Hour}, {time.Second, 3, 4 * time.Second},
	} {
		if got := lookAfter(c.poll, c.failures); got != c.want {
			t.Errorf("%s after %d failures: %s", c.poll, c.failures, got)
		}
	}
}

func TestTogether(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	bad := func(since int) fleet.Contact {
		return fleet.Contact{LastOK: at(1), Failure: &fleet.Failure{Message: fmt.Sprint(since)}, Since: at(since)}
	}
	for _, c := range []struct {
		all  []fleet.Contact
		want fleet.Contact
	}{
		{[]fleet.Contact{bad(5), {LastOK: at(7)}, {LastOK: at(6)}}, fleet.Contact{LastOK: at(7)}},
		{[]fleet.Contact{{}, {}}, fleet.Contact{}},
		{[]fleet.Contact{{}, bad(5)}, bad(5)},
	} {
		var remotes []fleet.Remote
		for _, x := range c.all {
			remotes = append(remotes, fleet.Remote{Contact: x})
		}
		got := together(remotes)
		if got.LastOK != c.want.LastOK || got.Since != c.want.Since || (got.Failure == nil) != (c.want.Failure == nil) {
			t.Errorf("%+v: %+v", c.all, got)
		}
	}
	// None answers: since the last of them stopped to.
	if got := together([]fleet.Remote{{Contact: bad(5)}, {Contact: bad(9)}}); got.Failure.Message != "5" || got.Since != at(9) {
		t.Errorf("%+v", got)
	}
}

func TestOtherHost(t *testing.T) {
	path := func(name string) string {
		return "/nix/store/00000000000000000000000000000000-nixos-system-" + name + "-26.11"
	}
	entry := func(path string) fleet.Entry { return fleet.Entry{Toplevel: fleet.Toplevel{OutPath: path}} }
	m := &fleet.Manifest{Hosts: map[string]fleet.Entry{"web": entry(path("web")), "web-1": entry(path("web-1")), "blue": entry(path("web")), "odd": entry("/nix/store/00000000000000000000000000000000-odd")}}
	for _, c := range []struct{ host, path, runs, want string }{
		{"web", path("web"), "", ""},
		{"web", path("web"), path("web"), ""},
		{"web", path("web-1"), path("web"), "web-1"},
		{"web-1", path("web"), path("web-1"), "web"},
		{"web", path("web-1"), "", "web-1"},
		{"blue", path("web") + "x", "", ""},                 // named after another, but not its system
		{"blue", path("web"), path("web"), ""},              // a custom of this fleet
		{"blue", path("web"), "/nix/store/x-debian", "web"}, // of which nothing was seen yet
		{"blue", path("web") + "x", "/nix/store/x-debian", ""},
		{"odd", m.Hosts["odd"].OutPath, path("odd"), ""}, // says nothing
		{"blue", path("unnamed"), path("web"), ""},       // no host of this fleet
	} {
		if got := otherHost(c.host, c.path, m, c.runs); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestWantedTags(t *testing.T) {
	tags := map[string]git.Ref{"release-x": {Commit: "tip"}}
	for n := 1; n <= 300; n++ {
		tags[fleet.TagName(n)] = git.Ref{Commit: fmt.Sprint(n)}
	}
	tags["release-7"], tags["release-100"] = git.Ref{Commit: "tip"}, git.Ref{Commit: "tip"}
	if got := wantedTags(tags, "tip", false); !slices.Equal(got, []string{"release-7", "release-100"}) {
		t.Errorf("%q", got)
	}
	got := wantedTags(tags, "tip", true) // what runs may be any of the newest
	if len(got) != 2+manyTags || got[2] != "release-251" || got[len(got)-1] != "release-300" {
		t.Errorf("%q", got)
	}
	if got := wantedTags(tags, "elsewhere", false); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// TestWoken: a look knows whether it was asked for.
func TestWoken(t *testing.T) {
	m := &remote{wake: make(chan struct{}, 1)}
	m.look()
	m.look()
	if !m.wait(t.Context(), time.Hour, nil, "") {
		t.Error("it was asked for, and does not say so")
	}
	if m.wait(t.Context(), time.Millisecond, nil, "") {
		t.Error("nobody asked for it")
	}
}
