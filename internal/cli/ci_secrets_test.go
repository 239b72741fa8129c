package cli

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

func noFiles() ciFlags {
	f := ciFlags{files: map[string]*string{}}
	for _, in := range ciInputs {
		f.files[in.env] = new(string)
	}
	return f
}

func TestSecretsAreTaken(t *testing.T) {
	const token = "a-token-of-the-forge"
	t.Setenv("GARRISON_KEY", "-----BEGIN OPENSSH PRIVATE KEY-----\r\nline-of-the-key\r\n-----END OPENSSH PRIVATE KEY-----")
	t.Setenv("GARRISON_MIRROR_CREDENTIALS", "# mirrors\nhttps://me:token-of-a-mirror@git.example.net\n")
	t.Setenv("GARRISON_SOURCE_SIGNERS", "alice ssh-ed25519 AAAA")
	t.Setenv("GITHUB_TOKEN", token)
	t.Setenv("ACTIONS_RUNTIME_TOKEN", "another")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("own-token-of-garrison\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GARRISON_FORGE_TOKEN_FILE", file)
	var said bytes.Buffer
	s, err := takeSecrets(noFiles(), false, true, &said)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if left := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return !strings.Contains(v, "token-of") && !strings.Contains(v, "line-of") && !strings.Contains(v, "another")
	}); len(left) > 0 {
		t.Errorf("the environment still has %v", left)
	}
	for env, want := range map[string]string{"GARRISON_KEY": "-----BEGIN OPENSSH PRIVATE KEY-----\nline-of-the-key\n-----END OPENSSH PRIVATE KEY-----\n", "GARRISON_SOURCE_SIGNERS": "alice ssh-ed25519 AAAA\n"} {
		got, err := os.ReadFile(s.files[env])
		if err != nil || string(got) != want {
			t.Errorf("%s is %q, %v", env, got, err)
		}
		if st, err := os.Stat(s.files[env]); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", env, st.Mode(), err)
		}
	}
	want := "::add-mask::line-of-the-key\n::add-mask::https://me:token-of-a-mirror@git.example.net\n::add-mask::" + token + "\n::add-mask::own-token-of-garrison\n::add-mask::token-of-a-mirror\n"
	if said.String() != want {
		t.Errorf("it says %s", &said)
	}
	var out bytes.Buffer
	if _, err := io.WriteString(s.hide(&out), "a "+token+" and line-of-the-key\n"); err != nil || out.String() != "a … and …\n" {
		t.Errorf("%q, %v", &out, err)
	}
	for in, want := range map[string]string{
		"https://forge.example.org/ops/fleet.git":                 "https://x-access-token:own-token-of-garrison@forge.example.org/ops/fleet.git",
		"https://me:mine@forge.example.org/ops/fleet.git":         "https://me:mine@forge.example.org/ops/fleet.git",
		"https://gitlab-ci-token:x@forge.example.org/o/fleet.git": "https://x-access-token:own-token-of-garrison@forge.example.org/o/fleet.git",
		"https://elsewhere.example.org/ops/fleet.git":             "https://elsewhere.example.org/ops/fleet.git",
		"http://forge.example.org/ops/fleet.git":                  "http://forge.example.org/ops/fleet.git",
		"git@forge.example.org:ops/fleet.git":                     "git@forge.example.org:ops/fleet.git",
		"/srv/fleet.git":                                          "/srv/fleet.git",
	} {
		if got := s.letIn(in, forge.Gitea, "https://forge.example.org"); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	for in, want := range map[string]string{
		"https://git.example.net/fleet.git": "https://me:token-of-a-mirror@git.example.net/fleet.git",
		"https://git.example.com/fleet.git": "https://git.example.com/fleet.git",
		"http://git.example.net/fleet.git":  "http://git.example.net/fleet.git",
		"git@git.example.net:fleet.git":     "git@git.example.net:fleet.git",
	} {
		if got := s.mirrors.letIn(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
	key := s.files["GARRISON_KEY"]
	s.close()
	if _, err := os.Stat(key); err == nil {
		t.Error("the key is there when the run is over")
	}
}

// A stranger's change: nothing is read but the job's own token, not even to be masked.
func TestSecretsOfStrangers(t *testing.T) {
	t.Setenv("GARRISON_KEY", "line-of-the-key")
	t.Setenv("GARRISON_IDENTITY_FILE", "/gone")
	t.Setenv("GARRISON_FORGE_TOKEN_FILE", "/gone")
	t.Setenv("GARRISON_MIRROR_CREDENTIALS", "nonsense")
	t.Setenv("GITHUB_TOKEN", "token-of-the-job")
	var said bytes.Buffer
	s, err := takeSecrets(noFiles(), true, true, &said)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if s.token != "token-of-the-job" || s.files["GARRISON_KEY"]+s.files["GARRISON_IDENTITY"] != "" || os.Getenv("GARRISON_KEY") != "" || strings.Contains(said.String(), "line-of") || len(s.open) > 0 {
		t.Errorf("%+v, %s", s, &said)
	}
}

func TestUnusableSecrets(t *testing.T) {
	t.Setenv("GARRISON_MIRROR_CREDENTIALS", "https://git.example.net\n")
	if _, err := takeSecrets(noFiles(), false, false, io.Discard); fleet.CodeOf(err) != fleet.CodeKey || strings.Contains(err.Error(), "git.example.net") {
		t.Errorf("%v", err)
	}
	t.Setenv("GARRISON_FORGE_TOKEN_FILE", "/gone")
	if _, err := takeSecrets(noFiles(), false, false, io.Discard); fleet.CodeOf(err) != fleet.CodeKey {
		t.Errorf("%v", err)
	}
}
