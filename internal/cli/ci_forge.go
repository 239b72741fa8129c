package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

// ciForge is the forge that a run tells how far it is; what it does not take is told to people at the end, and fails nothing.
type ciForge struct {
	api     forge.Forge // nil when there is none to tell
	refuses bool        // the token may not set statuses

	mu       sync.Mutex
	warnings []string
}

// forgeTime bounds what is said to a forge when the work is done.
const forgeTime = time.Minute

// openForge finds the forge to tell: that of the CI system, or outside of any, with a token, that of the remote.
func (j *ciJob) openForge(ctx context.Context) {
	f := j.event.Forge
	c := forge.Config{Kind: f.Kind, URL: f.URL, API: f.API, Repo: f.Repo}
	if f.Repo == "" && j.secrets.token != "" {
		detected, ok := forge.Detect(j.remote)
		if !ok {
			return
		}
		var err error
		if c, err = forge.Identify(ctx, detected); err != nil {
			j.warn("no forge is told of this", err)
			return
		}
		j.remote = j.secrets.letIn(j.remote, c.Kind, c.URL)
	}
	if c.Repo == "" {
		return
	}
	if j.secrets.token == "" {
		j.warn("the forge is not told of this: there is no token", fleet.Errorf("", fleet.CodeUnauthorized, "GITHUB_TOKEN, or GARRISON_FORGE_TOKEN, is missing in the job's environment"))
		return
	}
	c.Token = func() (string, error) { return j.secrets.token, nil }
	api, err := forge.Open(c)
	if err != nil {
		j.warn("the forge is not told of this", err)
		return
	}
	j.forge.api = api
}

// status sets one of a commit's statuses besides those of stages.
func (j *ciJob) status(ctx context.Context, commit, name string, state forge.State, text string) {
	if j.forge.api == nil || j.forge.refuses || commit == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgeTime)
	defer cancel()
	err := j.forge.api.SetStatus(ctx, commit, forge.Status{Context: "garrison/" + name, State: state, Text: j.secrets.redact(text), URL: j.event.RunURL})
	if err != nil {
		j.forge.refuses = fleet.CodeOf(err) == fleet.CodeUnauthorized
		j.warn("the forge does not take the status garrison/"+name, err)
	}
}

// tell sets the status of what failed.
func (j *ciJob) tell(ctx context.Context, commit, name string, err error) {
	state := forge.Error
	switch {
	case fleet.CodeOf(err) == fleet.CodeSuperseded:
		state = forge.Success
	case fleet.ClassOf(err) == fleet.Bad:
		state = forge.Failure
	}
	var e *fleet.Error
	text := err.Error()
	if errors.As(err, &e) {
		text = e.What
	}
	j.status(ctx, commit, name, state, text)
}

// beginStages has the stages told from now on; the returned function says how they ended.
func (j *ciJob) beginStages(commit string) (onStage func(fleet.StageTime, bool), end func(context.Context, error)) {
	if j.forge.api == nil || j.forge.refuses {
		return j.live.stage, func(context.Context, error) {}
	}
	stages := forge.NewStages(j.forge.api, commit, j.event.RunURL, slog.New(&j.forge))
	return func(t fleet.StageTime, ended bool) {
			j.live.stage(t, ended)
			stages.OnStage(t, ended)
		}, func(ctx context.Context, err error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), forgeTime)
			defer cancel()
			stages.Close(ctx, err)
		}
}

// ciForge is a slog.Handler: what it is told are warnings for the end of the run.

// Enabled is true for warnings and what is worse.
func (f *ciForge) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle keeps a warning.
func (f *ciForge) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "err":
			text += ": " + a.Value.String()
		case "hint":
			text += " → " + a.Value.String()
		}
		return true
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	f.warnings = append(f.warnings, text)
	return nil
}

// WithAttrs and WithGroup change nothing: nobody asks for them here.
func (f *ciForge) WithAttrs([]slog.Attr) slog.Handler { return f }

// WithGroup is as WithAttrs.
func (f *ciForge) WithGroup(string) slog.Handler { return f }

func (f *ciForge) warned() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.warnings
}

// comment writes what a pull request is told, in place of what it was told before.
func (j *ciJob) comment(ctx context.Context, body string) {
	const marker = "<!-- garrison plan -->"
	if j.forge.api == nil || j.event.Pull == 0 {
		return
	}
	if j.event.RunURL != "" {
		body += fmt.Sprintf("\n[Log of this run](%s)\n", j.event.RunURL)
	}
	ctx, cancel := context.WithTimeout(ctx, forgeTime)
	defer cancel()
	if err := j.forge.api.Comment(ctx, j.event.Pull, marker, j.secrets.redact(body)); err != nil {
		j.warn(fmt.Sprintf("the plan cannot be written under the pull request %d", j.event.Pull), err)
	}
}
