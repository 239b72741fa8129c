package forge_test

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
)

func TestGitLabStatuses(t *testing.T) {
	g := newGitLab(t)
	f := g.with("api")
	for _, s := range []forge.Status{
		{Context: "garrison/build", State: forge.Pending, Text: "running"},
		{Context: "garrison/build", State: forge.Pending, Text: "still running"}, // GitLab refuses, and takes the text
		{Context: "garrison/build", State: forge.Success, Text: "took 3s", URL: "https://hub.example/runs/1"},
		{Context: "garrison/build", State: forge.Pending, Text: "again"}, // a new one
		{Context: "garrison/push", State: forge.Error, Text: strings.Repeat("ä", 300), URL: "https://hub.example/" + strings.Repeat("x", 300)},
	} {
		if err := f.SetStatus(t.Context(), tip, s); err != nil {
			t.Fatalf("%+v: %v", s, err)
		}
	}
	got, err := f.Statuses(t.Context(), tip)
	want := []forge.Status{{Context: "garrison/push", State: forge.Failure, Text: strings.Repeat("ä", 254) + "…"}, {Context: "garrison/build", State: forge.Pending, Text: "again"}}
	if err != nil || !reflect.DeepEqual(got, want) || len(g.statuses) != 3 {
		t.Errorf("%v, %+v", err, got)
	}
	for i := range 250 {
		g.statuses = append(g.statuses, map[string]any{"name": fmt.Sprint("job ", i), "status": []string{"running", "failed", "canceled", "skipped", "manual"}[i%5]})
	}
	if got, err = f.Statuses(t.Context(), tip); err != nil || len(got) != 252 {
		t.Errorf("%v, %d", err, len(got))
	}
	if err := f.SetStatus(t.Context(), other, aStatus); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "no such commit 4ad91d3c1144") {
		t.Errorf("%v", err)
	}
	g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		answer(w, http.StatusBadRequest, map[string]any{"message": map[string]any{"name": []string{"is odd"}}})
		return true
	})
	if err := f.SetStatus(t.Context(), tip, forge.Status{Context: "new", State: forge.Pending}); fleet.CodeOf(err) != fleet.CodeForge || !strings.Contains(err.Error(), `{"name":["is odd"]}`) {
		t.Errorf("%v", err)
	}
}

func TestGitLabComment(t *testing.T) {
	g := newGitLab(t)
	const marker = "<!-- garrison plan -->"
	for i := range 230 {
		body := fmt.Sprint("note ", i)
		if i == 3 {
			body = marker + "\nall is well, merge it"
		}
		g.notes = append(g.notes, map[string]any{"id": i + 300, "body": body, "author": map[string]any{"id": 99, "username": "mallory"}})
	}
	f := g.with("api")
	for _, text := range []string{"2 hosts change", "3 hosts change", "3 hosts change"} {
		if err := f.Comment(t.Context(), 5, marker, text); err != nil {
			t.Fatal(err)
		}
	}
	if len(g.notes) != 231 || g.notes[230]["body"] != marker+"\n3 hosts change" || g.count("PUT ") != 1 {
		t.Errorf("%d notes, %d changes, %v", len(g.notes), g.count("PUT "), g.notes[len(g.notes)-1])
	}
	if err := f.Comment(t.Context(), 6, marker, "x"); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "merge request 6") {
		t.Errorf("%v", err)
	}
}

func TestGitLabPropose(t *testing.T) {
	g := newGitLab(t)
	f := g.with("api")
	g.merges = append(g.merges, mergeRequest(1, 77, "garrison/update", "main", "of a fork", ""))
	p := forge.Proposal{Head: "garrison/update", Base: "main", Title: strings.Repeat("ü", 300), Body: "plan"}
	one, err := f.Propose(t.Context(), p)
	if err != nil || one.Number != 2 || !strings.HasSuffix(one.URL, "/merge_requests/2") {
		t.Fatalf("%v, %+v", err, one)
	}
	p.Body = "another plan"
	for range 2 {
		two, err := f.Propose(t.Context(), p)
		if err != nil || two != one || g.merges[1]["description"] != "another plan" || len(g.merges) != 2 || g.count("PUT ") != 1 {
			t.Errorf("%v, %+v, %v", err, two, g.merges)
		}
	}
	g.merges[1]["state"] = "merged"
	g.setFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			g.merges = append(g.merges, mergeRequest(3, 15, p.Head, p.Base, "theirs", ""))
		}
		return false
	})
	if three, err := f.Propose(t.Context(), p); err != nil || three.Number != 3 {
		t.Errorf("%v, %+v", err, three)
	}
}

func TestGitLabAccess(t *testing.T) {
	g := newGitLab(t)
	for token, want := range map[string]forge.Access{
		"api":   {User: "ops", Scopes: []string{"api"}, Expires: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), Read: true, Write: true, Admin: true, DefaultBranch: "main", Private: true},
		"read":  {User: "ops", Scopes: []string{"read_api"}, Expires: time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC), Read: true, DefaultBranch: "main", Private: true},
		"oauth": {User: "app", Read: true, Write: true, DefaultBranch: "main", Private: true},
	} {
		if got, err := g.with(token).Access(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %+v", token, err, got)
		}
	}
}

func TestGitLabProtection(t *testing.T) {
	level := func(n int) []map[string]any { return []map[string]any{{"access_level": n}} }
	for name, c := range map[string]struct {
		token      string
		push, rule bool
		levels     []map[string]any
		force      bool
		want       forge.Protection
	}{
		"none":        {token: "api", push: true, want: forge.Protection{MayPush: true, MayForce: true}},
		"maintainers": {token: "api", push: true, rule: true, levels: level(40), want: forge.Protection{Protected: true, MayPush: true}},
		"force":       {token: "api", push: true, rule: true, levels: level(40), force: true, want: forge.Protection{Protected: true, MayPush: true, MayForce: true}},
		"no one":      {token: "api", rule: true, levels: level(0), want: forge.Protection{Protected: true, NeedsPull: true}},
		"unseen":      {token: "oauth", rule: true, levels: level(40), want: forge.Protection{Protected: true, NeedsPull: true}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGitLab(t)
			g.branches["main"] = map[string]any{"name": "main", "protected": c.rule, "can_push": c.push}
			if c.rule {
				g.rules["main"] = map[string]any{"name": "main", "push_access_levels": c.levels, "merge_access_levels": level(40), "allow_force_push": c.force}
			}
			if got, err := g.with(c.token).Protection(t.Context(), "main"); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, %+v", err, got)
			}
		})
	}
	g := newGitLab(t)
	if got, err := g.with("api").Protection(t.Context(), "fix/typo"); err != nil || got.Protected {
		t.Errorf("a branch with a slash: %v, %+v", err, got)
	}
	if _, err := g.with("api").Protection(t.Context(), "gone"); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "branch gone") {
		t.Errorf("%v", err)
	}
}

func TestGitLabRefusals(t *testing.T) {
	g := newGitLab(t)
	for token, want := range map[string][2]string{
		"read":    {"lacks the scope api", "add it to this one"},
		"unknown": {"does not know the token", "expired or revoked"},
		"":        {"has no such commit", "only with a token that has the scope api"},
	} {
		err := g.with(token).SetStatus(t.Context(), tip, aStatus)
		var told *fleet.Error
		if !asError(err, &told) || !strings.Contains(told.What, want[0]) || !strings.Contains(told.Hint, want[1]) {
			t.Errorf("%q: %v; %s", token, err, hintOf(err))
		}
	}
}
