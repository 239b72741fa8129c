package gittest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Env has git work in the name of an Editor, whatever the machine has configured: for TestMain.
func Env() {
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "Editor", "GIT_AUTHOR_EMAIL": "editor@example.org", "GIT_COMMITTER_NAME": "Editor", "GIT_COMMITTER_EMAIL": "editor@example.org",
	} {
		os.Setenv(name, value)
	}
}

// Do runs a program in dir and returns what it printed.
func Do(t testing.TB, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", program, strings.Join(args, " "), err, &stderr)
	}
	return strings.TrimSpace(string(out))
}
