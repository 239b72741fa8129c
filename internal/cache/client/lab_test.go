package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/garrison-nix/garrison/internal/cache/cachetest"
	"github.com/garrison-nix/garrison/internal/cache/client"
	"github.com/garrison-nix/garrison/internal/nar"
)

var lab cachetest.Lab

func TestMain(m *testing.M) {
	if job := os.Getenv("GARRISON_TEST_PUSH"); job != "" {
		if err := pushJob(job); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	defer lab.Stop()
	m.Run()
}

// aPush is a push that a process of its own makes, so that it can be killed.
type aPush struct {
	URL, Dir string
	Paths    []nar.PathInfo
}

func pushJob(job string) error {
	var p aPush
	if err := json.Unmarshal([]byte(job), &p); err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: p.URL, Token: func() (string, error) { return cachetest.PushToken, nil }})
	if err != nil {
		return err
	}
	_, err = c.Push(context.Background(), p.Paths, client.PushOptions{RealStoreDir: p.Dir})
	return err
}

// command is the process that makes the push.
func (p aPush) command(t *testing.T) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	check(t, err)
	job, err := json.Marshal(p)
	check(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "GARRISON_TEST_PUSH="+string(job))
	return cmd
}
