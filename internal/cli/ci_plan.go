package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/garrison-nix/garrison/internal/ci"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/git"
	"github.com/garrison-nix/garrison/internal/release"
)

// planPull checks a pull request and writes under it what it would change.
func (j *ciJob) planPull(ctx context.Context) error {
	commit, err := j.bring(ctx)
	if err != nil {
		return err
	}
	head := j.event.Head // statuses are seen there; commit may be a merge of it
	switch {
	case j.event.InActions: // the job has a status of its own; for one more, its token would have to be one that may push
		head = ""
	case head == "":
		head = commit
	}
	if err := j.check(ctx, commit, head); err != nil {
		if j.out.Findings != nil {
			var b strings.Builder
			if err := j.out.Findings.WriteMarkdown(&b); err == nil {
				j.comment(ctx, b.String())
			}
		}
		return err
	}
	text, err := j.plan(ctx, commit)
	if err != nil {
		j.tell(ctx, head, "plan", err)
		return err
	}
	j.status(ctx, head, "plan", forge.Success, summary(j.out.Changes))
	j.comment(ctx, text)
	j.out.Result = ciPlanned
	return nil
}

// summary is a plan in one line.
func summary(c *release.Changes) string {
	if c.Empty() {
		return "nothing changes for any host"
	}
	n := 0
	for _, h := range c.Hosts {
		if h.Change != release.HostUnchanged {
			n++
		}
	}
	return fmt.Sprintf("%d of %d hosts change, %d secrets are re-keyed", n, len(c.Hosts), len(c.Secrets))
}

// plan says what a release of a commit would change: in the log, in the job's summary, and as text for a pull request.
func (j *ciJob) plan(ctx context.Context, commit string) (string, error) {
	o := release.PlanOptions{Closure: planFlags{releaseFlags: j.cache()}.closure, Options: j.releaseOptions()}
	o.Source = commit
	c, err := release.Plan(ctx, o)
	if err != nil {
		return "", err
	}
	j.out.Changes = c
	var b strings.Builder
	if err := c.WriteMarkdown(&b); err != nil {
		return "", err
	}
	if file := os.Getenv("GITHUB_STEP_SUMMARY"); file != "" && j.event.InActions {
		if err := writeTo(file, os.O_APPEND, c.WriteMarkdown); err != nil {
			return "", err
		}
	}
	if !j.asJSON {
		err = c.WriteText(j.Out)
		j.say("%s", summary(c))
	}
	return b.String(), err
}

// update proposes newer inputs of the flake, and takes away what was left over.
func (j *ciJob) update(ctx context.Context) error {
	if err := j.tidy(ctx); err != nil {
		return err
	}
	u, err := release.UpdateInputs(ctx, j.releaseOptions(), ci.UpdateBranch)
	if err != nil {
		return err
	}
	j.out.Update, j.out.Result = &u, ciUnchanged
	if u.Commit == "" {
		j.say("no input of the flake is newer")
		return nil
	}
	j.say("newer: %s", strings.Join(u.Inputs, ", "))
	if err := j.check(ctx, u.Commit, ""); err != nil {
		return err
	}
	text, err := j.plan(ctx, u.Commit)
	if err != nil {
		return err
	}
	if u.Tip != u.Commit {
		if err := j.repo.Push(ctx, j.remote, git.Move{Ref: "refs/heads/" + ci.UpdateBranch, From: u.Tip, To: u.Commit}); err != nil {
			return err
		}
	}
	j.out.Result = ciProposed
	j.say("%s has it", ci.UpdateBranch)
	return j.propose(ctx, u, text)
}

// propose opens the pull request for newer inputs, or brings it up to date.
func (j *ciJob) propose(ctx context.Context, u release.InputUpdate, plan string) error {
	if j.forge.api == nil {
		return nil
	}
	j.status(ctx, u.Commit, "check", forge.Success, fmt.Sprintf("%d findings, all passed", len(j.out.Findings.List)))
	j.status(ctx, u.Commit, "plan", forge.Success, summary(j.out.Changes))
	var b strings.Builder
	fmt.Fprintf(&b, "Newer inputs of the flake: %s.\n\n%s", strings.Join(u.Inputs, ", "), plan)
	if j.event.RunURL != "" {
		fmt.Fprintf(&b, "\n[Log of this run](%s)\n", j.event.RunURL)
	}
	ctx, cancel := context.WithTimeout(ctx, forgeTime)
	defer cancel()
	p, err := j.forge.api.Propose(ctx, forge.Proposal{Head: ci.UpdateBranch, Base: u.Source, Title: u.Title, Body: j.secrets.redact(b.String())})
	if err != nil {
		j.warn("there is no pull request for "+ci.UpdateBranch, err)
		return nil
	}
	j.out.Proposal = p.URL
	j.say("proposed: %s", p.URL)
	return nil
}
