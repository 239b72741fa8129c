package forgetest

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// User makes a user, and returns its name, which begins with that one.
func (g *Gitea) User(t testing.TB, name string) string {
	t.Helper()
	name = unique(name)
	g.API(t, http.MethodPost, "/admin/users", map[string]any{
		"username": name, "email": name + "@example.org", "password": password, "must_change_password": false}, nil)
	return name
}

// Token makes a token of a user's, with scopes as "write:repository", "read:user" or "all".
func (g *Gitea) Token(t testing.TB, user string, scopes ...string) string {
	t.Helper()
	var made struct {
		SHA1 string `json:"sha1"`
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	must(t, g.api(http.MethodPost, "/users/"+user+"/tokens", basic, map[string]any{"name": unique("token"), "scopes": scopes}, &made))
	return made.SHA1
}

// Repo is a repository on a forge.
type Repo struct {
	Owner, Name string
	URL         string // of its pages; what git fetches from, when it is public
	Push        string // what git pushes to, as its owner: with a password in it

	g *Gitea
}

// Repo makes an empty repository, whose name begins with that one, that everybody may read.
func (g *Gitea) Repo(t testing.TB, owner, name string) *Repo {
	t.Helper()
	name = unique(name)
	g.API(t, http.MethodPost, "/admin/users/"+owner+"/repos", map[string]any{"name": name, "default_branch": "main"}, nil)
	r := &Repo{Owner: owner, Name: name, g: g}
	r.URL = g.URL + "/" + r.Full()
	r.Push = r.As(owner, password)
	return r
}

// Full is owner and name.
func (r *Repo) Full() string { return r.Owner + "/" + r.Name }

// As is what git uses with a user's token or password in it.
func (r *Repo) As(user, secret string) string {
	return "http://" + url.UserPassword(user, secret).String() + "@" + strings.TrimPrefix(r.URL, "http://") + ".git"
}

// API calls the API below the repository, as Gitea.API does.
func (r *Repo) API(t testing.TB, method, path string, body, answer any) {
	t.Helper()
	r.g.API(t, method, "/repos/"+r.Full()+path, body, answer)
}

// Private makes the repository one that only its people may read.
func (r *Repo) Private(t testing.TB) {
	t.Helper()
	r.API(t, http.MethodPatch, "", map[string]any{"private": true}, nil)
}

// Collaborator lets a user in: "read", "write" or "admin".
func (r *Repo) Collaborator(t testing.TB, user, permission string) {
	t.Helper()
	r.API(t, http.MethodPut, "/collaborators/"+user, map[string]any{"permission": permission}, nil)
}

// Hook makes a webhook, of every event unless some are named. Deliveries go to loopback alone.
func (r *Repo) Hook(t testing.TB, to, secret string, events ...string) {
	t.Helper()
	if len(events) == 0 {
		events = []string{"create", "delete", "push", "pull_request"}
	}
	r.API(t, http.MethodPost, "/hooks", map[string]any{"type": "gitea", "active": true, "events": events,
		"config": map[string]string{"url": to, "content_type": "json", "secret": secret}}, nil)
}

// Protection is how a branch is protected.
type Protection struct {
	Push   []string // users who may push; nobody else
	Force  []string // users who may force
	Checks []string // contexts of statuses that a pull request needs
}

// Protect protects a branch, or all that a pattern as "release*" matches.
func (r *Repo) Protect(t testing.TB, branch string, p Protection) {
	t.Helper()
	r.API(t, http.MethodPost, "/branch_protections", map[string]any{"rule_name": branch,
		"enable_push": len(p.Push) > 0, "enable_push_whitelist": true, "push_whitelist_usernames": p.Push,
		"enable_force_push": len(p.Force) > 0, "enable_force_push_allowlist": true, "force_push_allowlist_usernames": p.Force,
		"enable_status_check": len(p.Checks) > 0, "status_check_contexts": p.Checks}, nil)
}

// Pull opens a pull request and returns its number.
func (r *Repo) Pull(t testing.TB, head, base, title string) int {
	t.Helper()
	var made struct{ Number int }
	r.API(t, http.MethodPost, "/pulls", map[string]string{"head": head, "base": base, "title": title}, &made)
	return made.Number
}
