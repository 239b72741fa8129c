package drill_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/forge/forgetest"
)

// The way of a change where people work, with what garrison init writes: a forge, its Actions, a hub that its webhooks tell, and a host that the hub wakes.
func TestForge(t *testing.T) {
	t.Parallel()
	w := newTown(t, nil)
	first := w.change("first")
	log := w.ends("push", first, "success")
	w.says("first")
	w.rollout(first)
	w.whole(first)
	for _, stage := range []string{"check", "evaluate", "re-key", "build", "push", "publish"} {
		w.status(first, stage, "success", "")
	}
	key, err := os.ReadFile(w.key)
	must(t, err)
	for _, secret := range append(strings.Split(string(key), "\n")[1:3], token("push"), thePlain) {
		if strings.Contains(log, secret) {
			t.Errorf("the log of the run holds a secret:\n%s", log)
		}
	}
	if got, err := w.joker.ReadFile("/run/agenix/punchline"); err != nil || string(got) != thePlain {
		t.Errorf("joker has the secret %q, %v", got, err)
	}

	w.breaks()
	w.twoPushes()
	w.testBranch()
	w.protected()
	w.forgeDown()
}

// breaks pushes what the check does not let through: a failed status, and nothing else is changed anywhere.
func (w *town) breaks() {
	before := w.released()
	w.write("broken", "")
	commit := w.change("broken")
	w.ends("push", commit, "failure")
	w.status(commit, "check", "failure", "1 of 4 findings are failures")
	if after := w.released(); after != before {
		w.t.Errorf("the releases were\n%sand are\n%s", before, after)
	}
	if got := w.text(); got != "first" {
		w.t.Errorf("joker says %s", got)
	}
	must(w.t, os.Remove(filepath.Join(w.clone, "broken")))
}

// twoPushes pushes a second time while the first one is being checked. Only the second arrives.
func (w *town) twoPushes() {
	older, goOn := w.changeHeld("older")
	newer := w.change("newer")
	goOn()
	if log := w.ends("push", older, "success"); !strings.Contains(log, "superseded by "+newer[:12]) {
		w.t.Errorf("the older run says:\n%s", log)
	}
	if told := fmt.Sprint(w.repo.Statuses(w.t, older)); !strings.Contains(told, "superseded by "+newer[:12]) {
		w.t.Errorf("the statuses of the older push are %s", told)
	}
	w.ends("push", newer, "success")
	w.says("newer")
	w.whole(newer)
}

// testBranch makes, changes and deletes a test branch. Joker follows it and comes back.
func (w *town) testBranch() {
	w.git("checkout", "--quiet", "-b", "joker-test")
	for _, text := range []string{"tried", "tried again"} {
		w.ends("push", w.change(text), "success")
		w.says(text)
	}
	w.git("checkout", "--quiet", "main")
	w.git("push", "--quiet", "origin", ":joker-test")
	w.ends("delete", w.git("rev-parse", "HEAD"), "success")
	w.says("newer")
	if refs := w.repo.Refs(w.t); refs["refs/heads/release-joker-test"] != "" {
		w.t.Errorf("the test release stays: %v", refs)
	}
}

// protected has main and release protected. The job's token may not push then, and the job says what to do: with the token of one who may, it works.
func (w *town) protected() {
	before := w.released()
	for _, branch := range []string{"main", "release"} {
		w.repo.Protect(w.t, branch, forgetest.Protection{Push: []string{w.repo.Owner}})
	}
	commit := w.change("protected")
	log := w.ends("push", commit, "failure")
	w.status(commit, "publish", "error", "does not let us move these refs")
	for _, says := range []string{"it does not let us move these refs", "protection of branch", "GARRISON_FORGE_TOKEN"} { // Gitea itself tells the job's token no reason
		if !strings.Contains(log, says) {
			w.t.Errorf("the log does not say %q:\n%s", says, log)
		}
	}
	if after := w.released(); after != before {
		w.t.Errorf("the releases were\n%sand are\n%s", before, after)
	}
	w.repo.Secret(w.t, "GARRISON_FORGE_TOKEN", w.forge.Token(w.t, w.repo.Owner, "write:repository"))
	commit = w.change("allowed")
	w.ends("push", commit, "success")
	w.says("allowed")
	w.whole(commit)
}

// forgeDown takes the forge away while a job is at work. The job waits until it is back, and releases.
func (w *town) forgeDown() {
	commit, goOn := w.changeHeld("while it is down")
	w.forge.Stop(w.t)
	goOn()
	time.Sleep(5 * time.Second) // the job has stood before a closed door
	w.forge.Start(w.t)
	w.ends("push", commit, "success")
	w.says("while it is down")
	w.rollout(commit)
	w.whole(commit)
	commit = w.change("after it")
	w.ends("push", commit, "success")
	w.says("after it")
	w.whole(commit)
}

// BenchmarkForgeJob has changes released by a forge's Actions, and takes what of garrison ci's time no other program was at work for it.
func BenchmarkForgeJob(b *testing.B) {
	w := newTown(b, func(workflow string) string {
		return strings.ReplaceAll(workflow, "run: garrison ci", "run: garrison ci -o json")
	})
	w.ends("push", w.change("first"), "success")
	figures := regexp.MustCompile(`"seconds":\s*([0-9.]+),[^"]*"toolSeconds":\s*([0-9.]+)`)
	var own, all []float64
	for b.Loop() {
		log := w.ends("push", w.change("change "+strconv.Itoa(len(own))), "success")
		found := figures.FindAllStringSubmatch(log, -1) // those of stages, then that of all
		if len(found) < 2 || !strings.Contains(log, `"result": "released"`) {
			b.Fatalf("the log has no figures of a release:\n%s", log)
		}
		m := found[len(found)-1]
		seconds, err := strconv.ParseFloat(m[1], 64)
		must(b, err)
		tools, err := strconv.ParseFloat(m[2], 64)
		must(b, err)
		own, all = append(own, seconds-tools), append(all, seconds)
	}
	for name, list := range map[string][]float64{"own": own, "all": all} {
		slices.Sort(list)
		b.ReportMetric(list[len(list)/2], "s/"+name+"-p50")
		b.ReportMetric(list[len(list)-1], "s/"+name+"-max")
	}
	b.ReportMetric(0, "ns/op")
}
