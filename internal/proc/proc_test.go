package proc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

func sh(script string) Cmd { return Cmd{Program: "sh", Args: []string{"-c", script}} }

func TestRun(t *testing.T) {
	dir := t.TempDir()
	c := sh(`pwd; cat; echo "$X" >&2`)
	var said bytes.Buffer
	c.Dir, c.Env, c.Stdin, c.Stderr = dir, []string{"X=x"}, strings.NewReader("in"), &said
	out, err := Run(t.Context(), c)
	if err != nil || string(out) != dir+"\nin" || said.String() != "x\n" {
		t.Errorf("%q, %q, %v", out, &said, err)
	}
	_, err = Run(t.Context(), sh("echo no https://u:s3cret@h/ >&2; exit 3"))
	if code, ok := ExitCode(err); !ok || code != 3 || Said(err) != "no https://u:s3cret@h/\n" || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%v", err)
	}
	if _, err := Run(t.Context(), Cmd{Program: "no-such-program"}); fleet.CodeOf(err) != fleet.CodeMissingTool {
		t.Errorf("%v", err)
	}
	if code, ok := ExitCode(io.EOF); ok || code != 0 || Said(nil) != "" {
		t.Error("of what is no ExitError")
	}
}

// TestGitLocationIsForgotten: a hook's repository is not the one that we name.
func TestGitLocationIsForgotten(t *testing.T) {
	t.Setenv("GIT_DIR", "/x")
	t.Setenv("GIT_QUARANTINE_PATH", "/x")
	t.Setenv("GIT_CONFIG_COUNT", "0")
	c := sh("env | grep -E '^GIT_(DIR|QUARANTINE|CONFIG_COUNT|INDEX)' | sort")
	c.Env = []string{"GIT_INDEX_FILE=mine"}
	if out, err := Run(t.Context(), c); err != nil || string(out) != "GIT_CONFIG_COUNT=0\nGIT_INDEX_FILE=mine\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestOutputIsBounded(t *testing.T) {
	c := sh("yes")
	c.MaxStdout = 1000
	if _, err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "more than 1000 bytes") {
		t.Errorf("%v", err)
	}
	_, err := Run(t.Context(), sh("yes | head -c 300000 >&2; echo end >&2; exit 1"))
	if said := Said(err); len(said) != stderrTail || !strings.HasSuffix(said, "end\n") || strings.Count(err.Error(), "\n") > 12 {
		t.Errorf("kept %d bytes", len(said))
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

// TestLostCopy: that a log cannot be written does not end the program that it is of.
func TestLostCopy(t *testing.T) {
	c := sh("for i in 1 2 3; do echo $i >&2; done; echo done")
	c.Stderr = broken{}
	if out, err := Run(t.Context(), c); err != nil || string(out) != "done\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// TestCopyIsRedacted also when a URL arrives in pieces.
func TestCopyIsRedacted(t *testing.T) {
	var log bytes.Buffer
	c := sh(`printf 'at https://user:s3' >&2; sleep 0.1; printf 'cret@h/x\nlast http://t0ken@h' >&2`)
	c.Stderr = &log
	if _, err := Run(t.Context(), c); err != nil || log.String() != "at https://…@h/x\nlast http://…@h" {
		t.Errorf("%q, %v", &log, err)
	}
	l := &lineCopy{to: &log}
	log.Reset()
	for range 3 {
		_, _ = l.Write(make([]byte, maxPart/2))
	}
	if log.Len() <= maxPart || len(l.part) > maxPart {
		t.Errorf("%d written, %d kept", log.Len(), len(l.part))
	}
}

// TestCancelEndsTheGroup: children of the program go with it, also when they do not listen.
func TestCancelEndsTheGroup(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errors.New("too slow"))
	defer cancel()
	pid := filepath.Join(t.TempDir(), "pid")
	began := time.Now()
	_, err := Run(ctx, sh("sh -c 'trap \"\" TERM; echo $$ >"+pid+"; sleep 100 & wait; sleep 100' >/dev/null 2>&1 & wait"))
	if err == nil || !strings.Contains(err.Error(), "too slow") || time.Since(began) > killDelay {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	text, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		b, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("a child is left")
}

func TestRunTo(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = RunTo(t.Context(), f, sh("echo out; echo err >&2; exit 100"))
	if code, ok := ExitCode(err); !ok || code != 100 {
		t.Errorf("%v", err)
	}
	if b, _ := os.ReadFile(f.Name()); string(b) != "out\nerr\n" {
		t.Errorf("%q", b)
	}
}

func TestTimeline(t *testing.T) {
	var told []string
	tl := &Timeline{OnStage: func(s fleet.StageTime, ended bool) {
		told = append(told, map[bool]string{false: "begin ", true: "end "}[ended]+string(s.Stage))
	}}
	ctx := WithTimeline(t.Context(), tl)
	err := Stage(ctx, fleet.Build, func() error {
		done := make(chan struct{})
		go func() { _, _ = Run(ctx, sh("sleep 0.2")); close(done) }()
		_, _ = Run(ctx, sh("sleep 0.2")) // at the same time: counts once
		<-done
		time.Sleep(50 * time.Millisecond)
		return io.EOF
	})
	tl.Add(fleet.StageTime{Stage: fleet.Push})
	s := tl.Stages()
	if !errors.Is(err, io.EOF) || len(s) != 2 || s[0].Stage != fleet.Build || s[0].ToolSeconds < 0.2 || s[0].Seconds < s[0].ToolSeconds+0.04 {
		t.Errorf("%+v, %v", s, err)
	}
	if strings.Join(told, ", ") != "begin build, end build" {
		t.Errorf("told: %v", told)
	}
	if err := Stage(t.Context(), fleet.Push, func() error { return nil }); err != nil { // without a timeline
		t.Error(err)
	}
}
