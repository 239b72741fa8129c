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

// gitLab is a GitLab with one project, fleet/prod/nixos, after docs.gitlab.com/api:
//
//	commits                  list commit statuses, set a commit's status
//	notes                    of merge requests: list, create, modify
//	merge_requests           list project merge requests, create (409 when there is one), update
//	personal_access_tokens   get details on a personal access token ("self")
//	branches, protected_branches, projects, users
//
// Projects and branches are named by their URL-encoded paths; a status can only change to another state, and one that is over is followed by a new one.
// What a token may do is checked as api/rest/authentication says: 401 for one that is unknown, 403 with insufficient_scope.
type gitLab struct {
	*fake
	statuses []map[string]any // of tip, newest last
	notes    []map[string]any
	merges   []map[string]any
	branches map[string]map[string]any
	rules    map[string]map[string]any
}

const project = "/projects/fleet%2Fprod%2Fnixos"

func newGitLab(t *testing.T) *gitLab {
	g := &gitLab{fake: newFake(t)}
	g.tokens["api"] = fakeToken{id: 4, login: "ops", scopes: []string{"api"}, admin: true}
	g.tokens["read"] = fakeToken{id: 4, login: "ops", scopes: []string{"read_api"}}
	g.tokens["oauth"] = fakeToken{id: 5, login: "app", kind: "oauth", scopes: []string{"api"}}
	g.branches = map[string]map[string]any{"main": {"name": "main", "protected": false, "can_push": true}, "fix/typo": {"name": "fix/typo", "protected": false, "can_push": true}}
	g.rules = map[string]map[string]any{}
	g.handle("GET /user", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		answer(w, http.StatusOK, g.user(who))
	})
	g.handle("GET /personal_access_tokens/self", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		if who.kind == "oauth" {
			answer(w, http.StatusBadRequest, map[string]any{"message": "400 Bad request - This endpoint requires token type to be a personal access token"})
			return
		}
		answer(w, http.StatusOK, map[string]any{"id": 1, "scopes": who.scopes, "user_id": who.id, "active": true, "expires_at": "2026-12-24"})
	})
	g.handle("GET "+project, func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		level := map[bool]int{true: 40, false: 30}[who.admin]
		answer(w, http.StatusOK, map[string]any{"id": 15, "path_with_namespace": "fleet/prod/nixos", "default_branch": "main", "visibility": "private",
			"permissions": map[string]any{"project_access": nil, "group_access": map[string]any{"access_level": level, "notification_level": 3}}})
	})
	g.handle("POST "+project+"/statuses/{sha}", g.setStatus)
	g.handle("GET "+project+"/repository/commits/{sha}/statuses", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var newest []map[string]any
		for _, st := range slices.Backward(g.statuses) {
			if !slices.ContainsFunc(newest, func(o map[string]any) bool { return o["name"] == st["name"] }) {
				newest = append(newest, st)
			}
		}
		answer(w, http.StatusOK, page(g.fake, r, newest, "ref", "stage", "name", "all"))
	})
	g.mergeRequests()
	g.handle("GET "+project+"/repository/branches/{branch}", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		g.named(w, g.branches, r.PathValue("branch"), "404 Branch Not Found")
	})
	g.handle("GET "+project+"/protected_branches/{name}", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		if !who.admin {
			answer(w, http.StatusForbidden, map[string]any{"message": "403 Forbidden"})
			return
		}
		g.named(w, g.rules, r.PathValue("name"), "404 Not found")
	})
	return g
}

func (g *gitLab) user(who fakeToken) map[string]any {
	return map[string]any{"id": who.id, "username": who.login, "state": "active"}
}

func (g *gitLab) named(w http.ResponseWriter, all map[string]map[string]any, name, absent string) {
	if all[name] == nil {
		answer(w, http.StatusNotFound, map[string]any{"message": absent})
		return
	}
	answer(w, http.StatusOK, all[name])
}

// handle answers under a path whose parts are escaped, for tokens that may.
func (g *gitLab) handle(pattern string, f func(http.ResponseWriter, *http.Request, fakeToken)) {
	method, path, _ := strings.Cut(pattern, " ")
	g.mux.HandleFunc(method+" /api/v4"+path, func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		who, known := g.tokens[token]
		switch {
		case token == "" && strings.HasPrefix(path, "/projects/"):
			answer(w, http.StatusNotFound, map[string]any{"message": "404 Project Not Found"})
			return
		case !known:
			answer(w, http.StatusUnauthorized, map[string]any{"message": "401 Unauthorized"})
			return
		case method != http.MethodGet && !slices.Contains(who.scopes, "api"):
			answer(w, http.StatusForbidden, map[string]any{"error": "insufficient_scope", "error_description": "The request requires higher privileges than provided by the access token.", "scope": "api"})
			return
		}
		f(w, r, who)
	})
}

func (g *gitLab) short(what, text string) {
	if n := utf8.RuneCountInString(text); n > 255 || !utf8.ValidString(text) {
		g.t.Errorf("%s of %d characters", what, n)
	}
}

func (g *gitLab) setStatus(w http.ResponseWriter, r *http.Request, _ fakeToken) {
	g.only(r)
	var in struct {
		State       string `json:"state"`
		Name        string `json:"name"`
		TargetURL   string `json:"target_url"`
		Description string `json:"description"`
	}
	g.read(r, &in)
	if r.PathValue("sha") != tip {
		answer(w, http.StatusNotFound, map[string]any{"message": "404 Commit Not Found"})
		return
	}
	if !slices.Contains([]string{"pending", "running", "success", "failed", "canceled", "skipped"}, in.State) {
		g.t.Errorf("state %q", in.State)
	}
	g.short("a name", in.Name)
	g.short("a description", in.Description)
	g.short("a URL", in.TargetURL)
	var st map[string]any
	for _, o := range g.statuses {
		if o["name"] == in.Name && (o["status"] == "pending" || o["status"] == "running") {
			st = o
		}
	}
	if st == nil {
		st = map[string]any{"name": in.Name, "sha": tip, "status": "created"}
		g.statuses = append(g.statuses, st)
	}
	st["description"], st["target_url"] = in.Description, in.TargetURL
	if st["status"] == in.State {
		answer(w, http.StatusBadRequest, map[string]any{"message": `Cannot transition status via :enqueue from :pending (Reason(s): Status cannot transition via "enqueue")`})
		return
	}
	st["status"] = in.State
	answer(w, http.StatusCreated, st)
}

func (g *gitLab) mergeRequests() {
	g.handle("GET "+project+"/merge_requests/{iid}/notes", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		if r.PathValue("iid") != "5" {
			answer(w, http.StatusNotFound, map[string]any{"message": "404 Not found"})
			return
		}
		if q := r.URL.Query(); q.Get("sort") != "asc" || q.Get("order_by") != "created_at" {
			g.t.Errorf("newest first, while more may come: %s", r.URL.RawQuery)
		}
		answer(w, http.StatusOK, page(g.fake, r, g.notes, "sort", "order_by"))
	})
	type body struct {
		Body string `json:"body"`
	}
	g.handle("POST "+project+"/merge_requests/{iid}/notes", func(w http.ResponseWriter, r *http.Request, who fakeToken) {
		var in body
		g.read(r, &in)
		n := map[string]any{"id": len(g.notes) + 300, "body": in.Body, "author": g.user(who), "system": false}
		g.notes = append(g.notes, n)
		answer(w, http.StatusCreated, n)
	})
	g.handle("PUT "+project+"/merge_requests/{iid}/notes/{id}", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in body
		g.read(r, &in)
		n := g.notes[number(r.PathValue("id"))-300]
		n["body"] = in.Body
		answer(w, http.StatusOK, n)
	})
	g.handle("GET "+project+"/merge_requests", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		found := slices.DeleteFunc(slices.Clone(g.merges), func(m map[string]any) bool { return !asked(r.URL.Query(), m) })
		answer(w, http.StatusOK, page(g.fake, r, found, "state", "source_branch", "target_branch"))
	})
	g.handle("POST "+project+"/merge_requests", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in struct {
			Source      string `json:"source_branch"`
			Target      string `json:"target_branch"`
			Title       string `json:"title"`
			Description string `json:"description"`
		}
		g.read(r, &in)
		g.short("a title", in.Title)
		for _, m := range g.merges {
			if m["state"] == "opened" && m["source_branch"] == in.Source && m["target_branch"] == in.Target && m["source_project_id"] == 15 {
				answer(w, http.StatusConflict, map[string]any{"message": []string{"Another open merge request already exists for this source branch: !1"}})
				return
			}
		}
		m := mergeRequest(len(g.merges)+1, 15, in.Source, in.Target, in.Title, in.Description)
		g.merges = append(g.merges, m)
		answer(w, http.StatusCreated, m)
	})
	g.handle("PUT "+project+"/merge_requests/{iid}", func(w http.ResponseWriter, r *http.Request, _ fakeToken) {
		var in struct {
			Title       string `json:"title"`
			Description string `json:"description"`
		}
		g.read(r, &in)
		m := g.merges[number(r.PathValue("iid"))-1]
		m["title"], m["description"] = in.Title, in.Description
		answer(w, http.StatusOK, m)
	})
}

func asked(q url.Values, m map[string]any) bool {
	for _, name := range []string{"state", "source_branch", "target_branch"} {
		if v := q.Get(name); v != "" && v != m[name] {
			return false
		}
	}
	return true
}

func mergeRequest(iid, from int, source, target, title, description string) map[string]any {
	return map[string]any{"id": iid + 1000, "iid": iid, "state": "opened", "source_branch": source, "target_branch": target, "source_project_id": from, "target_project_id": 15,
		"title": title, "description": description, "web_url": "https://gitlab.example/fleet/prod/nixos/-/merge_requests/" + str(iid)}
}

func (g *gitLab) with(token string) forge.Forge {
	return g.open(forge.GitLab, "fleet/prod/nixos", token)
}
