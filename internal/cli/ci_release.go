package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/release"
)

// release checks the source branch's tip, then releases it.
func (j *ciJob) release(ctx context.Context) error {
	commit, err := j.resolve(ctx, j.event.Commit)
	if err != nil {
		return err
	}
	return j.makeRelease(ctx, "", commit)
}

// resolve is the full name of a commit, if it is known here; what is not, a release says.
func (j *ciJob) resolve(ctx context.Context, commit string) (string, error) {
	if commit == "" {
		return "", nil
	}
	id, known, err := j.repo.Resolve(ctx, commit+"^{commit}")
	if err != nil || !known {
		return commit, err
	}
	return id, nil
}

// makeRelease makes one of a commit ("" for the branch's tip), or of a host's test branch. What is on the source branch is checked before.
func (j *ciJob) makeRelease(ctx context.Context, test, commit string) error {
	var once sync.Once
	wake := func() { once.Do(func() { j.wake(ctx) }) }
	o := j.releaseOptions()
	o.Test, o.Published = test, wake
	if test == "" {
		o.Source = commit
	}
	began := time.Now()
	if test == "" && j.event.Kind == ci.Manual && o.SigningKey != "" { // somebody started it, perhaps for an abort
		back, err := release.ToAbort(ctx, o)
		if err != nil && fleet.CodeOf(err) != fleet.CodeNotFound {
			return err
		}
		if o.RollbackTo = back; back != 0 {
			j.say("an abort is ordered: back to %s", fleet.TagName(back))
			o.Source, commit = "", ""
		}
	}
	ready, err := j.prepare(ctx, o, commit)
	teller := newRunTeller(j.hubURL(), tokenFrom(j.secrets.files["GARRISON_HUB_TOKEN"]), j.time)
	source := fleet.Source{Commit: cmp.Or(ready.Commit, commit), Branch: strings.TrimPrefix(j.event.Ref, "refs/heads/"), Subject: ready.Subject}
	if !ready.Released && fleet.CodeOf(err) != fleet.CodeUsage {
		teller.begin(source, began)
	}
	if err == nil && test == "" && !ready.Released && o.RollbackTo == 0 { // what is gone back to was checked
		err = j.check(ctx, ready.Commit, ready.Commit)
	}
	if err != nil {
		j.tellEnd(teller, runOf(source, began, j.time, release.Outcome{}, err))
		return err
	}
	if test == "" && o.RollbackTo == 0 {
		o.Source = ready.Commit
	}
	onStage, end := j.beginStages(ready.Commit)
	j.time.OnStage = func(s fleet.StageTime, ended bool) {
		onStage(s, ended)
		teller.onStage(s, ended)
	}
	out, err := j.outlast(ctx, o)
	if err == nil {
		wake() // also for what was released before, perhaps by a run that died before it could say so
	}
	end(ctx, err)
	run := runOf(source, began, j.time, out, err)
	j.tellEnd(teller, run)
	traceRun(ctx, run, j.hubURL() == "", j.logger())
	j.tellMirrors(ctx, ready.Commit, out.Mirrors)
	if err != nil {
		return err
	}
	j.out.Result = ciReleased
	if out.State == fleet.RunUnchanged {
		j.out.Result = ciUnchanged
	}
	j.out.Release = &releaseJSON{Schema: 1, Outcome: out, Stages: j.time.Stages()}
	if !j.asJSON {
		j.tellRelease(out, false)
	}
	return nil
}

// A forge that is restarted is back within a minute.
var remotePauses = [...]time.Duration{5 * time.Second, 15 * time.Second, 40 * time.Second}

// outlast makes a release, and tries again when the remote was away in the middle: what was evaluated and built is there then.
func (j *ciJob) outlast(ctx context.Context, o release.Options) (out release.Outcome, err error) {
	for _, pause := range remotePauses {
		out, err = release.Run(ctx, o)
		if fleet.CodeOf(err) != fleet.CodeRemote || fleet.ClassOf(err) != fleet.Transient {
			return out, err
		}
		j.say("%v; trying again in %v", err, pause)
		select {
		case <-ctx.Done():
			return out, err
		case <-time.After(pause):
		}
	}
	return release.Run(ctx, o)
}

func (j *ciJob) releaseOptions() release.Options {
	in := j.secrets.files
	return release.Options{
		Repo: j.repo, Remote: j.remote, SigningKey: in["GARRISON_KEY"], AllowedSigners: in["GARRISON_ALLOWED_SIGNERS"], SourceSigners: in["GARRISON_SOURCE_SIGNERS"],
		Identities: identities(in["GARRISON_IDENTITY"]), Cache: j.cache().cache, Trace: os.Getenv("TRACEPARENT"),
		Jobs: j.flags.jobs, EvalMemory: int64(j.flags.memory), OnlyNewest: true, Mirror: j.secrets.mirrors.letIn,
		Nix: j.nix, Log: j.logger(), Evaluated: j.live.evaluated, Pushed: j.live.pushed,
	}
}

func (j *ciJob) cache() releaseFlags {
	return releaseFlags{cacheURL: j.flags.cacheURL, cacheToken: j.secrets.files["GARRISON_CACHE_TOKEN"]}
}

// prepare looks at what is to be released, and by whom it was signed, before anything of it is evaluated.
func (j *ciJob) prepare(ctx context.Context, o release.Options, commit string) (release.Ready, error) {
	if o.SigningKey == "" {
		return release.Ready{}, fleet.Errorf("", fleet.CodeUsage, "GARRISON_KEY is missing: a release must be signed").
			WithHint("make a key (ssh-keygen -t ed25519 -N '' -f release-key) and give it as the CI secret GARRISON_KEY, or by --key")
	}
	err := release.CheckKey(ctx, o.SigningKey)
	if err != nil && strings.HasPrefix(o.SigningKey, "/proc/") {
		err = fleet.Errorf(fleet.Local, fleet.CodeKey, "what GARRISON_KEY has is not usable as release key").
			WithHint("it must be all of an OpenSSH private key without a passphrase, from -----BEGIN to the end: ssh-keygen -t ed25519 -N '' -f FILE").WithCause(err)
	}
	var ready release.Ready
	if err == nil {
		ready, err = release.Prepare(ctx, o)
	}
	switch {
	case o.Test != "" && commit != "" && fleet.CodeOf(err) == fleet.CodeNotFound && ready.Commit == "":
		err = fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded: %s-test was deleted", o.Test)
	case err == nil && commit != "" && ready.Commit != commit:
		err = fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded by %.12s", ready.Commit)
	}
	if err != nil {
		j.tell(ctx, cmp.Or(commit, ready.Commit), "check", err)
	}
	return ready, err
}

// check looks at a commit as garrison check does, and says so by a status of another ("" for none), where people look. That something of it
// fails is an error.
func (j *ciJob) check(ctx context.Context, commit, head string) error {
	j.status(ctx, head, "check", forge.Pending, "running")
	to := j.Out
	if j.asJSON {
		to = j.Err
	}
	var unwritten error
	found, err := release.Check(ctx, release.CheckOptions{Repo: j.repo, Remote: j.remote, Commit: commit, Jobs: j.flags.jobs, EvalMemory: int64(j.flags.memory), Nix: j.nix, Evaluated: j.live.evaluated,
		Each: func(x release.Finding) {
			if j.event.InActions {
				unwritten = errors.Join(unwritten, x.WriteAnnotation(to))
			} else {
				tellFinding(to, x)
			}
		}})
	j.out.Findings = found
	if found != nil {
		unwritten = errors.Join(unwritten, j.writeFindings(found, "", false, j.event.InActions))
	}
	if err = cmp.Or(err, unwritten); err == nil && !found.Passed {
		err = fleet.Errorf(fleet.Bad, fleet.CodeCheck, "%d of %d findings are failures", len(found.Failed()), len(found.List))
	}
	if err != nil {
		j.tell(ctx, head, "check", err)
		return err
	}
	j.status(ctx, head, "check", forge.Success, fmt.Sprintf("%d findings, all passed", len(found.List)))
	return nil
}

// hubURL is the hub's; "" where there is none.
func (j *ciJob) hubURL() string {
	return cmp.Or(j.flags.hubURL, os.Getenv("GARRISON_HUB"), j.config.Hub.URL)
}

// wake has the hub look, so that hosts do. They look by themselves, too.
func (j *ciJob) wake(ctx context.Context) {
	url := j.hubURL()
	if url == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if _, err := askHub(ctx, url, j.secrets.files["GARRISON_HUB_TOKEN"], http.MethodPost, "/api/v1/wake"); err != nil {
		j.warn("the hub was not woken; hosts see the release when they look by themselves", err)
	}
}

// tellEnd has the hub hear how a run ended.
func (j *ciJob) tellEnd(teller *runTeller, run fleet.Run) {
	if run.Failure != nil {
		run.Failure.Message = j.secrets.redact(run.Failure.Message)
	}
	if err := teller.end(run); err != nil {
		j.warn("the hub does not know of this run", err)
	}
}

// tellMirrors says which mirrors lag behind.
func (j *ciJob) tellMirrors(ctx context.Context, commit string, all []release.Mirrored) {
	if len(all) == 0 {
		return
	}
	behind := release.MirrorsBehind(all)
	for _, m := range behind {
		j.warn(fmt.Sprintf("the mirror %s did not get everything; the next run makes up for it", m.URL), &fleet.Error{Class: m.Failure.Class, Code: m.Failure.Code, What: m.Failure.Message, Hint: m.Failure.Hint})
	}
	if commit == "" {
		return
	}
	if len(behind) > 0 {
		j.status(ctx, commit, "mirrors", forge.Error, fmt.Sprintf("%d of %d mirrors did not get everything: %s", len(behind), len(all), behind[0].URL))
	} else {
		j.status(ctx, commit, "mirrors", forge.Success, fmt.Sprintf("%d mirrors have everything", len(all)))
	}
}

// tidy takes away the test releases whose branches are gone.
func (j *ciJob) tidy(ctx context.Context) error {
	gone, mirrors, err := release.Tidy(ctx, j.releaseOptions())
	j.out.Gone, j.out.Result = gone, ciTidied
	for _, branch := range gone {
		j.say("%s is gone: its test branch was deleted", branch)
	}
	j.tellMirrors(ctx, "", mirrors)
	if len(gone) > 0 && err == nil {
		j.wake(ctx)
	}
	return err
}

// pullRef keeps what a pull request brings.
const pullRef = "refs/garrison/pull"

// bring fetches what a pull request's ref points at, unless its commit is here.
func (j *ciJob) bring(ctx context.Context) (commit string, err error) {
	for fetched := false; ; fetched = true {
		if j.event.Commit != "" {
			id, known, err := j.repo.Resolve(ctx, j.event.Commit+"^{commit}")
			if err != nil || known {
				return id, err
			}
		}
		if fetched || j.event.Ref == "" {
			break
		}
		if err := j.repo.Fetch(ctx, j.remote, "+"+j.event.Ref+":"+pullRef); err != nil {
			return "", err
		}
	}
	id, known, err := j.repo.Resolve(ctx, pullRef+"^{commit}")
	switch {
	case err != nil:
		return "", err
	case known && j.event.Commit == "":
		return id, nil
	case known:
		return "", fleet.Errorf(fleet.Transient, fleet.CodeSuperseded, "superseded by %.12s", id)
	}
	return "", fleet.Errorf("", fleet.CodeNotFound, "%s does not have the commit of the pull request, %s", git.Redact(j.remote), j.event.Commit)
}
