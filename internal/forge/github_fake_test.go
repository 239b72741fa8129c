package forge_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/garrison-nix/garrison/internal/forge"
)

// gitHub is a GitHub Enterprise Server with one repository, fleet/nixos, after docs.github.com/rest:
//
//	commits/statuses   create a commit status (422 for a 1,001st of a context), get the combined status
//	issues/comments    list, create, update; at most 65,536 characters
//	pulls/pulls        list (head is user:branch), create (422 when there is one), update
//	branches           get a branch, get branch protection (for admins)
//	repos/rules        get rules for a branch
//	users              get the authenticated user
//
// Tokens are sent as "Bearer"; paths have no "/" in a part; Accept and X-GitHub-Api-Version are as the documentation recommends.
type gitHub struct {
	*fake
	statuses   map[string][]map[string]any // by commit, newest last
	comments   []map[string]any
	pulls      []map[string]any
	protection map[string]any // of main; nil for none
	rules      []map[string]any
}

func newGitHub(t *testing.T) *gitHub {
	g := &gitHub{fake: newFake(t), statuses: map[string][]map[string]any{}}
	g.tokens["classic"] = fakeToken{id: 1, login: "ops", kind: "User", scopes: []string{"repo"}, admin: true}
	g.tokens["poor"] = fakeToken{id: 1, login: "ops", kind: "User", scopes: []string{"gist"}}
	g.tokens["fine"] = fakeToken{id: 2, login: "ci", kind: "User"}
	g.tokens["read"] = fakeToken{id: 2, login: "ci", kind: "User"}
	g.tokens["job"] = fakeToken{id: 3, login: "github-actions[bot]", kind: "Bot"}
	g.handle("GET /user", "", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		g.only(r)
		if who.kind == "Bot" {
			answer(w, http.StatusForbidden, map[string]any{"message": "Resource not accessible by integration", "documentation_url": "https://docs.github.com/rest/users/users"})
			return
		}
		w.Header().Set("GitHub-Authentication-Token-Expiration", "2026-12-31 10:00:00 UTC")
		answer(w, http.StatusOK, user(who))
	})
	g.handle("GET /repos/fleet/nixos", "", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		g.only(r)
		answer(w, http.StatusOK, map[string]any{"id": 7, "full_name": "fleet/nixos", "private": true, "default_branch": "main",
			"permissions": map[string]bool{"admin": who.admin, "maintain": who.admin, "push": true, "triage": true, "pull": true}})
	})
	g.handle("POST /repos/fleet/nixos/statuses/{sha}", "statuses=write", g.setStatus)
	g.handle("GET /repos/fleet/nixos/commits/{ref}/status", "statuses=read", g.combined)
	g.handle("GET /repos/fleet/nixos/issues/{n}/comments", "issues=read; pull_requests=read", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		if r.PathValue("n") != "5" {
			notFound(w)
			return
		}
		answer(w, http.StatusOK, page(g.fake, r, g.comments, "since"))
	})
	g.handle("POST /repos/fleet/nixos/issues/{n}/comments", "issues=write; pull_requests=write", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		var in struct {
			Body string `json:"body"`
		}
		g.read(r, &in)
		g.checkBody(in.Body)
		c := map[string]any{"id": len(g.comments) + 100, "body": in.Body, "user": user(who)}
		g.comments = append(g.comments, c)
		answer(w, http.StatusCreated, c)
	})
	g.handle("PATCH /repos/fleet/nixos/issues/comments/{id}", "issues=write; pull_requests=write", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in struct {
			Body string `json:"body"`
		}
		g.read(r, &in)
		g.checkBody(in.Body)
		i := number(r.PathValue("id")) - 100
		g.comments[i]["body"] = in.Body
		answer(w, http.StatusOK, g.comments[i])
	})
	g.pullsAndBranches()
	return g
}

func user(who fakeToken) map[string]any {
	return map[string]any{"id": who.id, "login": who.login, "type": who.kind, "site_admin": false}
}

func notFound(w http.ResponseWriter) {
	answer(w, http.StatusNotFound, map[string]any{"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"})
}

func (g *gitHub) checkBody(body string) {
	if n := utf8.RuneCountInString(body); n > 65536 || !utf8.ValidString(body) {
		g.t.Errorf("a comment of %d characters", n)
	}
}

// handle answers for tokens that may; permission is that of fine-grained ones.
func (g *gitHub) handle(pattern, permission string, f func(http.ResponseWriter, *http.Request, fakeToken)) {
	method, path, _ := strings.Cut(pattern, " ")
	g.mux.HandleFunc(method+" /api/v3"+path, func(w http.ResponseWriter, r *http.Request) {
		if a, v := r.Header.Get("Accept"), r.Header.Get("X-GitHub-Api-Version"); a != "application/vnd.github+json" || v != "2022-11-28" {
			g.t.Errorf("Accept %q, version %q", a, v)
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		who, known := g.tokens[token]
		switch {
		case !ok:
			notFound(w) // the repository is private
			return
		case !known:
			answer(w, http.StatusUnauthorized, map[string]any{"message": "Bad credentials"})
			return
		}
		if who.scopes != nil {
			w.Header().Set("X-OAuth-Scopes", strings.Join(who.scopes, ", "))
			w.Header().Set("X-Accepted-OAuth-Scopes", "repo, repo:status")
			if permission != "" && !slices.Contains(who.scopes, "repo") {
				answer(w, http.StatusForbidden, map[string]any{"message": "Must have admin rights to Repository."})
				return
			}
		} else if permission != "" {
			w.Header().Set("X-Accepted-GitHub-Permissions", permission)
			if token == "read" && strings.Contains(permission, "=write") {
				answer(w, http.StatusForbidden, map[string]any{"message": "Resource not accessible by personal access token"})
				return
			}
		}
		f(w, r, who)
	})
}

func (g *gitHub) setStatus(w http.ResponseWriter, r *http.Request, _ fakeToken) {
	g.only(r)
	var in struct {
		State       string  `json:"state"`
		TargetURL   *string `json:"target_url"`
		Description *string `json:"description"`
		Context     string  `json:"context"`
	}
	g.read(r, &in)
	sha := r.PathValue("sha")
	if sha != tip {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"message": "No commit found for SHA: " + sha})
		return
	}
	if !slices.Contains([]string{"error", "failure", "pending", "success"}, in.State) {
		g.t.Errorf("state %q", in.State)
	}
	if in.Description != nil && (utf8.RuneCountInString(*in.Description) > 140 || !utf8.ValidString(*in.Description)) {
		g.t.Errorf("a description of %d characters", utf8.RuneCountInString(*in.Description))
	}
	if in.TargetURL != nil {
		if u, err := url.Parse(*in.TargetURL); err != nil || u.Scheme != "https" && u.Scheme != "http" {
			g.t.Errorf("target_url %q", *in.TargetURL)
		}
	}
	st := map[string]any{"state": in.State, "context": in.Context, "description": in.Description, "target_url": in.TargetURL}
	g.statuses[sha] = append(g.statuses[sha], st)
	answer(w, http.StatusCreated, st)
}

func (g *gitHub) combined(w http.ResponseWriter, r *http.Request, _ fakeToken) {
	if ref := r.PathValue("ref"); ref != tip {
		answer(w, http.StatusUnprocessableEntity, map[string]any{"message": "No commit found for SHA: " + ref})
		return
	}
	var newest []map[string]any
	for _, st := range slices.Backward(g.statuses[tip]) {
		if !slices.ContainsFunc(newest, func(o map[string]any) bool { return o["context"] == st["context"] }) {
			newest = append(newest, st)
		}
	}
	answer(w, http.StatusOK, map[string]any{"state": "pending", "sha": tip, "total_count": len(newest), "statuses": page(g.fake, r, newest)})
}

func (g *gitHub) pullsAndBranches() {
	g.handle("GET /repos/fleet/nixos/pulls", "pull_requests=read", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		q := r.URL.Query()
		var found []map[string]any
		for _, p := range g.pulls {
			head := p["head"].(map[string]any)
			if (q.Get("head") == "" || q.Get("head") == head["label"]) && q.Get("state") == p["state"] && (q.Get("base") == "" || q.Get("base") == p["base"].(map[string]any)["ref"]) {
				found = append(found, p)
			}
		}
		answer(w, http.StatusOK, page(g.fake, r, found, "state", "head", "base", "sort", "direction"))
	})
	g.handle("POST /repos/fleet/nixos/pulls", "pull_requests=write", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in struct {
			Title string `json:"title"`
			Head  string `json:"head"`
			Base  string `json:"base"`
			Body  string `json:"body"`
		}
		g.read(r, &in)
		for _, p := range g.pulls {
			if p["state"] == "open" && p["head"].(map[string]any)["label"] == "fleet:"+in.Head {
				answer(w, http.StatusUnprocessableEntity, map[string]any{"message": "Validation Failed",
					"errors": []map[string]string{{"resource": "PullRequest", "code": "custom", "message": "A pull request already exists for fleet:" + in.Head + "."}}})
				return
			}
		}
		p := pull(len(g.pulls)+1, "fleet", in.Head, in.Base, in.Title, in.Body)
		g.pulls = append(g.pulls, p)
		answer(w, http.StatusCreated, p)
	})
	g.handle("PATCH /repos/fleet/nixos/pulls/{n}", "pull_requests=write", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in struct {
			Title string `json:"title"`
			Body  string `json:"body"`
		}
		g.read(r, &in)
		p := g.pulls[number(r.PathValue("n"))-1]
		p["title"], p["body"] = in.Title, in.Body
		answer(w, http.StatusOK, p)
	})
	g.handle("GET /repos/fleet/nixos/branches/{branch}", "contents=read", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		b := r.PathValue("branch")
		if b != "main" && b != "fix/typo" {
			answer(w, http.StatusNotFound, map[string]any{"message": "Branch not found"})
			return
		}
		on := b == "main" && g.protection != nil
		checks := map[string]any{"enforcement_level": "off", "contexts": []string{}}
		if on {
			checks = map[string]any{"enforcement_level": "non_admins", "contexts": []string{"garrison/build"}}
		}
		answer(w, http.StatusOK, map[string]any{"name": b, "protected": on, "protection": map[string]any{"enabled": on, "required_status_checks": checks}})
	})
	g.handle("GET /repos/fleet/nixos/branches/{branch}/protection", "administration=read", func(w http.ResponseWriter, _ *http.Request, who fakeToken) {
		if !who.admin {
			answer(w, http.StatusForbidden, map[string]any{"message": "Resource not accessible by personal access token"})
			return
		}
		answer(w, http.StatusOK, g.protection)
	})
	g.handle("GET /repos/fleet/nixos/rules/branches/{branch}", "metadata=read", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		if r.PathValue("branch") != "main" {
			answer(w, http.StatusOK, []any{})
			return
		}
		answer(w, http.StatusOK, page(g.fake, r, g.rules))
	})
}

func pull(n int, owner, head, base, title, body string) map[string]any {
	return map[string]any{"number": n, "state": "open", "title": title, "body": body, "html_url": "https://ghe.example/fleet/nixos/pull/" + str(n),
		"head": map[string]any{"ref": head, "label": owner + ":" + head, "repo": map[string]any{"full_name": owner + "/nixos"}},
		"base": map[string]any{"ref": base, "label": "fleet:" + base, "repo": map[string]any{"full_name": "fleet/nixos"}}}
}

func (g *gitHub) with(token string) forge.Forge { return g.open(forge.GitHub, "fleet/nixos", token) }
