package comin

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/garrison-nix/garrison/internal/fleet"
)

var update = flag.Bool("update", false, "write what is made of testdata into it")

// TestGolden has configurations in testdata, each with all that is made of it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no configurations in testdata: %v", err)
	}
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := FromYAML("comin.yaml", a.Files[0].Data)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		got := txtar.Format(&txtar.Archive{Comment: a.Comment, Files: append(a.Files[:1:1], txtar.File{Name: "garrison.nix", Data: []byte(p.Nix())}, txtar.File{Name: "agent.toml", Data: []byte(p.TOML())})})
		if want := txtar.Format(a); bytes.Equal(got, want) {
			continue
		} else if !*update {
			t.Errorf("%s makes\n%s\nnot\n%s", file, got, want)
		} else if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFromNix has the options as nix evaluates them, some of which it could not.
func TestFromNix(t *testing.T) {
	p, err := FromNix("configuration.nix", []byte(`{"enable":true,"hostname":{"unknown":"it needs config"},"postDeploymentCommand":{"unknown":"it needs pkgs"},
		"package":{"unknown":"it is a package"},"machineId":"abc","sshAllowedSignersPath":null,"debug":true,"desktop":{"enable":false},
		"remotes":[{"name":"origin","url":"https://a.example.org/f.git","branches":{"main":{"name":"main"}}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if a := p.Agent; a.Host != "" || a.lone() != "https://a.example.org/f.git" || a.AfterDeploy != nil {
		t.Errorf("it carries over: %+v", a)
	}
	for _, want := range []string{"to do    hostname: it could not be evaluated (it needs config)", "to do    postDeploymentCommand: ", "lost     machineId: ", "lost     debug: "} {
		if !strings.Contains(p.Explain(""), want) {
			t.Errorf("%q is not in:\n%s", want, p.Explain(""))
		}
	}
	if strings.Contains(p.Explain(""), "package") || strings.Contains(p.Explain(""), "desktop") {
		t.Errorf("it speaks of what says nothing:\n%s", p.Explain(""))
	}
}

// TestBad has files that cannot be used, and what is said of them.
func TestBad(t *testing.T) {
	const remote = "remotes: [{name: a, url: u}]\n"
	for text, says := range map[string]string{
		"":                                "f: it is empty",
		"- a":                             "f: it is not comin's configuration: keys are wanted at the top",
		"a: [":                            "f: it is not YAML: line 1:",
		"hostname: a":                     "f: it names no remotes",
		"remotes: []":                     "f: it names no remotes",
		"remotes: {a: 1}":                 "f: remotes must be a list",
		"remotes: [a]":                    "f: remotes[0] must be a set of keys",
		"remotes: [{name: a}]":            "f: remotes[0] has no url",
		remote + "hostname: [a]":          "f: hostname must be a string",
		remote + "hostname: 7":            "f: hostname must be a string",
		remote + "submodules: maybe":      "f: submodules must be true or false",
		remote + "exporter: {port: http}": "f: exporter.port must be a whole number",
		remote + "poller: {period: 99999999999999999999}":         "f: poller.period must be a whole number",
		remote + "post_deployment_command: notify":                "f: post_deployment_command must be an absolute path",
		remote + "hostname: a\nhostname: b":                       `f: line 3: "hostname" stands there twice`,
		remote + "---\nhostname: a":                               "f: it holds more than one document",
		"a: &x {b: 1}\nc: *x\n":                                   "f: line 2: anchors and aliases are not read",
		"a: " + strings.Repeat("[", 30) + strings.Repeat("]", 30): "f: line 1: it is nested too deeply",
		"? {a: 1}\n: 2":                                           "f: line 1: a key is not a word",
		strings.Repeat("#", MaxBytes+1):                           "f: it has more than 1048576 bytes",
	} {
		if _, err := FromYAML("f", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), says) || fleet.CodeOf(err) != fleet.CodeInvalid {
			t.Errorf("%.80q: %v, not %q", text, err, says)
		}
	}
	for text, says := range map[string]string{
		"[]":                         "f: services.comin is not a set of options",
		`{"unknown":"it needs lib"}`: "f: services.comin cannot be evaluated: it needs lib",
		"null":                       "f: it names no remotes",
		`{"remotes":[{"url":7}]}`:    "f: remotes[0].url must be a string",
	} {
		if _, err := FromNix("f", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), says) {
			t.Errorf("%q: %v, not %q", text, err, says)
		}
	}
}

// FuzzFromYAML has any bytes: they are refused with words, or make TOML that says what was planned, and comments that are nothing else.
func FuzzFromYAML(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Files[0].Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := FromYAML("f", data)
		if err != nil {
			if fleet.CodeOf(err) != fleet.CodeInvalid || err.Error() == "" {
				t.Errorf("an error without words or code: %v", err)
			}
			return
		}
		var got struct {
			Host        string
			Remote      string
			Remotes     []struct{ Name, URL string }
			AfterDeploy []string
		}
		if err := toml.Unmarshal([]byte(p.TOML()), &got); err != nil {
			t.Fatalf("%v:\n%s", err, p.TOML())
		}
		if got.Host != p.Agent.Host || got.Remote != p.Agent.lone() || len(got.AfterDeploy) != len(p.Agent.AfterDeploy) || got.Remote == "" && len(got.Remotes) != len(p.Agent.Remotes) {
			t.Errorf("planned %+v, written %+v", p.Agent, got)
		}
		head, _, _ := strings.Cut(p.Nix(), "\n{\n  services.")
		for line := range strings.Lines(head) {
			if !strings.HasPrefix(line, "#") || strings.ContainsAny(line, "\x1b\r") {
				t.Errorf("a comment that is none: %q", line)
			}
		}
	})
}

// FuzzFromNix has any JSON: what nix prints depends on a file that is somebody's.
func FuzzFromNix(f *testing.F) {
	f.Add([]byte(`{"hostname":{"unknown":"x"},"remotes":[{"url":"u","poller":{"period":1},"auth":{"username":"a"}}],"deployConfirmer":{"mode":"auto"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := FromNix("f", data)
		if err != nil && fleet.CodeOf(err) != fleet.CodeInvalid {
			t.Errorf("an error without its code: %v", err)
		}
		var any map[string]any
		if err := toml.Unmarshal([]byte(p.TOML()), &any); err != nil {
			t.Fatalf("%v:\n%s", err, p.TOML())
		}
	})
}
