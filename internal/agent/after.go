package agent

import (
	"cmp"
	"context"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/proc"
)

// afterDeploy runs the operator's program, beside the loop: one after another when deployments follow each other quickly. An
// agent that ends takes it along, and the next one does not run it again.
func (a *Agent) afterDeploy(ctx context.Context, d fleet.Deployment) {
	command := a.Config.AfterDeploy
	if len(command) == 0 {
		return
	}
	before, done := a.afterDone, make(chan struct{})
	a.afterDone = done
	a.tasks.Go(func() {
		defer close(done)
		if before != nil {
			<-before // bounded, and ends with ctx
		}
		if ctx.Err() != nil {
			return
		}
		if err := a.keepDeployed(ctx, d); err != nil {
			a.Log.Warn("the deployed commit cannot be kept under a name", "err", err)
		}
		log := a.Log.With("release", d.Release.Number, "command", command[0])
		most := time.Duration(a.Config.AfterDeployTime)
		limited, cancel := context.WithTimeout(ctx, most)
		defer cancel()
		began := time.Now()
		// What it prints, both ways, comes line by line on one of them.
		_, err := proc.Run(limited, proc.Cmd{Program: "/bin/sh", Args: append([]string{"-c", `exec "$@" >&2`, "sh"}, command...),
			Env: a.afterDeployEnv(d), Dir: "/", Stderr: &sayer{log: log, left: maxSaid}})
		switch took := time.Since(began).Round(time.Millisecond); {
		case ctx.Err() != nil:
			log.Warn("afterDeploy was stopped with the agent", "duration", took)
		case limited.Err() != nil:
			log.Error("afterDeploy took too long and was stopped", "duration", took, "hint", "give it more time with afterDeployTime")
		case err != nil:
			log.Error("afterDeploy failed", "duration", took, "err", firstLine(err.Error()))
		default:
			log.Info("afterDeploy is done", "duration", took)
		}
	})
}

// deployedRef leads to the commit that was deployed last, for whoever evaluates it.
const deployedRef = "refs/garrison/deployed"

func (a *Agent) keepDeployed(ctx context.Context, d fleet.Deployment) error {
	if d.Release.Commit == "" { // a bare store path
		return nil
	}
	return a.looker.repo.UpdateRef(ctx, deployedRef, d.Release.Commit)
}

// afterDeployEnv tells the program what happened; as comin does, too, so that a command made for comin goes on working.
func (a *Agent) afterDeployEnv(d fleet.Deployment) []string {
	failure, status := "", "done"
	if d.Failure != nil {
		failure = proc.Redact(d.Failure.Message)
	}
	switch d.Result {
	case fleet.Committed, fleet.Tested, fleet.RebootNeeded:
	default:
		status = "failed"
	}
	source := d.Release.Source
	return env(
		"NOTIFY_SOCKET", "", // the agent speaks to systemd, not what it runs
		"GARRISON_HOST", d.Host, "GARRISON_RELEASE", strconv.Itoa(d.Release.Number), "GARRISON_COMMIT", d.Release.Commit,
		"GARRISON_SOURCE_COMMIT", source.Commit, "GARRISON_SOURCE_BRANCH", source.Branch, "GARRISON_SUBJECT", source.Subject,
		"GARRISON_RESULT", string(d.Result), "GARRISON_OUT_PATH", d.OutPath, "GARRISON_PREVIOUS", d.Previous, "GARRISON_ERROR", failure,
		"COMIN_GIT_SHA", source.Commit, "COMIN_GIT_REF", "origin/"+cmp.Or(source.Branch, "main"), "COMIN_GIT_MSG", source.Subject,
		"COMIN_HOSTNAME", d.Host, "COMIN_GENERATION", d.Release.Name(), "COMIN_STATUS", status, "COMIN_ERROR_MSG", failure,
		"COMIN_FLAKE_URL", "git+file://"+a.looker.repo.Dir+"?ref="+deployedRef+"&rev="+d.Release.Commit,
	)
}

// env makes NAME=value of pairs. No value of ours has a NUL, but a subject is somebody's.
func env(pairs ...string) (vars []string) {
	for i := 0; i < len(pairs); i += 2 {
		vars = append(vars, pairs[i]+"="+strings.ReplaceAll(pairs[i+1], "\x00", ""))
	}
	return vars
}

// maxSaid bounds what is logged of a program's output, in bytes.
const maxSaid = 64 << 10

// sayer logs what it gets, line by line, up to a limit.
type sayer struct {
	log  *slog.Logger
	left int
}

func (s *sayer) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if line = strings.TrimSpace(line); line == "" || s.left < 0 {
			continue
		}
		if s.left -= len(line); s.left < 0 {
			s.log.Warn("afterDeploy says more than is logged", "bytes", maxSaid)
			continue
		}
		s.log.Info("afterDeploy says", "line", line)
	}
	return len(p), nil
}
