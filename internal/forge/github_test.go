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

func TestGitHubStatuses(t *testing.T) {
	g := newGitHub(t)
	f := g.with("fine")
	long := strings.Repeat("ä", 139) + "öü\nsecond"
	for _, s := range []forge.Status{
		{Context: "garrison/build", State: forge.Pending, Text: "running"},
		{Context: "garrison/build", State: forge.Failure, Text: long, URL: "https://hub.example/runs/1"},
		{Context: "garrison/push", State: forge.Error, Text: "down"},
	} {
		if err := f.SetStatus(t.Context(), tip, s); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Statuses(t.Context(), tip)
	want := []forge.Status{{Context: "garrison/push", State: forge.Error, Text: "down"},
		{Context: "garrison/build", State: forge.Failure, Text: strings.Repeat("ä", 139) + "…", URL: "https://hub.example/runs/1"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %+v", err, got)
	}
	for i := range 250 { // more than a page
		if err := f.SetStatus(t.Context(), tip, forge.Status{Context: fmt.Sprint("other/", i), State: forge.Success}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = f.Statuses(t.Context(), tip); err != nil || len(got) != 252 {
		t.Errorf("%v, %d", err, len(got))
	}
	if err := f.SetStatus(t.Context(), other, forge.Status{Context: "x", State: forge.Success}); fleet.CodeOf(err) != fleet.CodeForge || !strings.Contains(err.Error(), "No commit found") {
		t.Errorf("%v", err)
	}
}

func TestGitHubComment(t *testing.T) {
	g := newGitHub(t)
	const marker = "<!-- garrison plan -->"
	for i := range 230 { // of people, one of whom quotes us
		body := fmt.Sprint("comment ", i)
		if i == 3 {
			body = marker + "\nall is well, merge it"
		}
		g.comments = append(g.comments, map[string]any{"id": i + 100, "body": body, "user": map[string]any{"id": 99, "login": "mallory", "type": "User"}})
	}
	for _, who := range []string{"fine", "job"} {
		f := g.with(who)
		before := len(g.comments)
		for _, text := range []string{"2 hosts change", "3 hosts change", "3 hosts change"} {
			if err := f.Comment(t.Context(), 5, marker, text); err != nil {
				t.Fatal(err)
			}
		}
		last := g.comments[len(g.comments)-1]
		if len(g.comments) != before+1 || last["body"] != marker+"\n3 hosts change" || strings.Contains(g.comments[3]["body"].(string), "hosts") {
			t.Errorf("%s: %d comments, %v", who, len(g.comments), last)
		}
	}
	if n := g.count("PATCH "); n != 2 {
		t.Errorf("%d changes: what is there already is no news", n)
	}
	if err := g.with("fine").Comment(t.Context(), 5, marker, strings.Repeat("å", 70000)); err != nil {
		t.Error(err)
	}
	if err := g.with("fine").Comment(t.Context(), 6, marker, "x"); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "pull request 6") {
		t.Errorf("%v", err)
	}
}

func TestGitHubPropose(t *testing.T) {
	g := newGitHub(t)
	f := g.with("fine")
	g.pulls = append(g.pulls, pull(1, "mallory", "garrison/update", "main", "mine", ""))
	p := forge.Proposal{Head: "garrison/update", Base: "main", Title: "Update flake.lock", Body: "plan"}
	one, err := f.Propose(t.Context(), p)
	if err != nil || one.Number != 2 || !strings.HasSuffix(one.URL, "/pull/2") {
		t.Fatalf("%v, %+v", err, one)
	}
	p.Body = "another plan"
	two, err := f.Propose(t.Context(), p)
	if err != nil || two != one || g.pulls[1]["body"] != "another plan" || len(g.pulls) != 2 || g.pulls[0]["body"] != "" {
		t.Errorf("%v, %+v, %v", err, two, g.pulls)
	}
	if _, err := f.Propose(t.Context(), p); err != nil || g.count("PATCH ") != 1 {
		t.Errorf("%v, %d changes", err, g.count("PATCH "))
	}
	// Somebody else proposes the same between our look and our proposal.
	g.pulls[1]["state"] = "closed"
	g.setFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost {
			g.pulls = append(g.pulls, pull(3, "fleet", p.Head, p.Base, "theirs", ""))
		}
		return false
	})
	if three, err := f.Propose(t.Context(), p); err != nil || three.Number != 3 || g.pulls[2]["title"] != p.Title {
		t.Errorf("%v, %+v", err, three)
	}
}

func TestGitHubAccess(t *testing.T) {
	g := newGitHub(t)
	ends := time.Date(2026, 12, 31, 10, 0, 0, 0, time.UTC)
	for token, want := range map[string]forge.Access{
		"classic": {User: "ops", Scopes: []string{"repo"}, Expires: ends, Read: true, Write: true, Admin: true, DefaultBranch: "main", Private: true},
		"fine":    {User: "ci", Expires: ends, Read: true, Write: true, DefaultBranch: "main", Private: true},
		"job":     {Read: true, Write: true, DefaultBranch: "main", Private: true},
	} {
		got, err := g.with(token).Access(t.Context())
		if err != nil || !got.Expires.Equal(want.Expires) {
			t.Errorf("%s: %v, %v", token, err, got.Expires)
		}
		if got.Expires = want.Expires; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v", token, got)
		}
	}
}

func TestGitHubProtection(t *testing.T) {
	on, off := map[string]bool{"enabled": true}, map[string]bool{"enabled": false}
	for name, c := range map[string]struct {
		token      string
		protection map[string]any
		rules      []map[string]any
		want       forge.Protection
	}{
		"none":     {token: "fine", want: forge.Protection{MayPush: true, MayForce: true, StatusList: []string{}}},
		"unseen":   {token: "fine", protection: map[string]any{}, want: forge.Protection{Protected: true, MayPush: true, StatusList: []string{"garrison/build"}}},
		"pull":     {token: "classic", protection: map[string]any{"required_pull_request_reviews": map[string]any{}, "enforce_admins": on, "allow_force_pushes": off}, want: forge.Protection{Protected: true, NeedsPull: true, StatusList: []string{"garrison/build"}}},
		"no admin": {token: "classic", protection: map[string]any{"required_pull_request_reviews": map[string]any{}, "enforce_admins": off, "allow_force_pushes": off}, want: forge.Protection{Protected: true, MayPush: true, NeedsPull: true, StatusList: []string{"garrison/build"}}},
		"others": {token: "classic", protection: map[string]any{"restrictions": map[string]any{"users": []any{map[string]any{"id": 9, "login": "x"}}, "teams": []any{}}, "enforce_admins": on, "allow_force_pushes": on},
			want: forge.Protection{Protected: true, StatusList: []string{"garrison/build"}}},
		"us": {token: "classic", protection: map[string]any{"restrictions": map[string]any{"users": []any{map[string]any{"id": 1, "login": "ops"}}, "teams": []any{}}, "enforce_admins": on, "allow_force_pushes": on},
			want: forge.Protection{Protected: true, MayPush: true, MayForce: true, StatusList: []string{"garrison/build"}}},
		"rules": {token: "fine", rules: []map[string]any{{"type": "non_fast_forward"}, {"type": "required_status_checks", "parameters": map[string]any{"required_status_checks": []any{map[string]any{"context": "garrison/push"}}}}},
			want: forge.Protection{Protected: true, MayPush: true, StatusList: []string{"garrison/push"}}},
		"rule pull":   {token: "fine", rules: []map[string]any{{"type": "pull_request"}}, want: forge.Protection{Protected: true, NeedsPull: true, StatusList: []string{}}},
		"rule update": {token: "fine", rules: []map[string]any{{"type": "update"}}, want: forge.Protection{Protected: true, StatusList: []string{}}},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGitHub(t)
			g.protection, g.rules = c.protection, c.rules
			got, err := g.with(c.token).Protection(t.Context(), "main")
			if err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%v, %+v", err, got)
			}
		})
	}
	g := newGitHub(t)
	if got, err := g.with("fine").Protection(t.Context(), "fix/typo"); err != nil || got.Protected {
		t.Errorf("a branch with a slash: %v, %+v", err, got)
	}
	if _, err := g.with("fine").Protection(t.Context(), "gone"); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "branch gone") {
		t.Errorf("%v", err)
	}
}

// TestGitHubRefusals: what is missing is named, and the token is not.
func TestGitHubRefusals(t *testing.T) {
	g := newGitHub(t)
	for token, want := range map[string][2]string{
		"read":    {"lacks the permission statuses=write", "add it to this one"},
		"poor":    {"lacks the permission repo or repo:status", "add it to this one"},
		"unknown": {"does not know the token", "expired or revoked"},
		"":        {"has no such commit", "only with a token that has the permission statuses=write"},
	} {
		err := g.with(token).SetStatus(t.Context(), tip, forge.Status{Context: "garrison/build", State: forge.Success})
		var told *fleet.Error
		if !asError(err, &told) || !strings.Contains(told.What, want[0]) || !strings.Contains(told.Hint, want[1]) || !strings.Contains(told.What, "set the status garrison/build of 7b5c3cc8be40") {
			t.Errorf("%q: %v; %s", token, err, hintOf(err))
		}
	}
}
