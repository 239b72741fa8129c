package forge_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
)

var lab forgetest.Lab

func TestMain(m *testing.M) {
	defer lab.Stop()
	m.Run()
}

// site is a private repository on a real Gitea, with a user of CI's who may write.
type site struct {
	*forgetest.Repo
	g      *forgetest.Gitea
	ci     string
	commit string // main's tip
}

func newSite(t *testing.T) *site {
	g := lab.Gitea(t)
	s := &site{g: g, ci: g.User(t, "ci")}
	s.Repo = g.Repo(t, g.User(t, "fleet"), "nixos")
	s.Private(t)
	s.Collaborator(t, s.ci, "write")
	s.commit = s.file(t, "README", "main", "")
	return s
}

// file makes a file in a branch, a new one if from is given, and returns the commit.
func (s *site) file(t *testing.T, name, branch, from string) string {
	t.Helper()
	in := map[string]string{"content": "eA==", "branch": branch}
	if from != "" {
		in["branch"], in["new_branch"] = from, branch
	}
	var out struct {
		Commit struct {
			SHA string `json:"sha"`
		} `json:"commit"`
	}
	s.API(t, http.MethodPost, "/contents/"+name, in, &out)
	return out.Commit.SHA
}

func (s *site) open(t *testing.T, token string) forge.Forge {
	t.Helper()
	c, ok := forge.Detect(s.Push)
	if !ok {
		t.Fatal("no remote")
	}
	c, err := forge.Identify(t.Context(), c)
	if err != nil || c.Kind != forge.Gitea || c.Repo != s.Full() || c.URL != s.g.URL {
		t.Fatalf("%v, %+v", err, c)
	}
	if token != "" {
		c.Token = func() (string, error) { return token, nil }
	}
	f, err := forge.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (s *site) with(t *testing.T, scopes ...string) forge.Forge {
	t.Helper()
	return s.open(t, s.g.Token(t, s.ci, scopes...))
}

func TestGiteaStatuses(t *testing.T) {
	s := newSite(t)
	f := s.with(t, "write:repository")
	for _, st := range []forge.Status{
		{Context: "garrison/build", State: forge.Pending, Text: "running"},
		{Context: "garrison/build", State: forge.Failure, Text: strings.Repeat("ä", 300), URL: "https://hub.example/runs/1"},
		{Context: "garrison/push", State: forge.Error, Text: "two\nlines"},
	} {
		if err := f.SetStatus(t.Context(), s.commit, st); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Statuses(t.Context(), s.commit)
	slices.SortFunc(got, func(a, b forge.Status) int { return strings.Compare(a.Context, b.Context) })
	want := []forge.Status{{Context: "garrison/build", State: forge.Failure, Text: strings.Repeat("ä", 254) + "…", URL: "https://hub.example/runs/1"}, {Context: "garrison/push", State: forge.Error, Text: "two lines"}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %+v", err, got)
	}
	for i := range 60 { // more than a page
		if err := f.SetStatus(t.Context(), s.commit, forge.Status{Context: fmt.Sprint("other/", i), State: forge.Success}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = f.Statuses(t.Context(), s.commit); err != nil || len(got) != 62 {
		t.Errorf("%v, %d", err, len(got))
	}
	if _, err := f.Statuses(t.Context(), other); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "no such commit 4ad91d3c1144") {
		t.Errorf("%v", err)
	}
	resp, err := http.Get(s.g.URL + "/explore/repos") // its pages are there
	if err != nil || resp.Body.Close() != nil || !strings.HasPrefix(f.CommitURL(s.commit), s.URL+"/commit/") {
		t.Errorf("%v, %s", err, f.CommitURL(s.commit))
	}
}

func TestGiteaComment(t *testing.T) {
	s := newSite(t)
	s.file(t, "x", "topic", "main")
	n := s.Pull(t, "topic", "main", "a change")
	const marker = "<!-- garrison plan -->"
	comments := fmt.Sprintf("/issues/%d/comments", n)
	for i := range 60 {
		s.API(t, http.MethodPost, comments, map[string]string{"body": fmt.Sprint("comment ", i)}, nil)
	}
	s.API(t, http.MethodPost, comments, map[string]string{"body": marker + "\nall is well, merge it"}, nil) // of the administrator
	f := s.with(t, "write:issue", "read:user")
	for _, text := range []string{"2 hosts change", "3 hosts change", "3 hosts change"} {
		if err := f.Comment(t.Context(), n, marker, text); err != nil {
			t.Fatal(err)
		}
	}
	var all []struct {
		Body string
		User struct{ Login string }
	}
	s.API(t, http.MethodGet, comments, nil, &all)
	if last := all[len(all)-1]; len(all) != 62 || last.Body != marker+"\n3 hosts change" || last.User.Login != s.ci || !strings.Contains(all[60].Body, "merge it") {
		t.Errorf("%d comments, %+v", len(all), last)
	}
	if err := s.with(t, "write:issue").Comment(t.Context(), n, marker, "who am I"); err != nil { // a token that may not know whose it is
		t.Error(err)
	}
	if err := f.Comment(t.Context(), 999, marker, "x"); err == nil || !strings.Contains(err.Error(), "pull request 999") { // Gitea says 500
		t.Errorf("%v", err)
	}
}

func TestGiteaPropose(t *testing.T) {
	s := newSite(t)
	s.file(t, "x", "garrison/update", "main")
	s.file(t, "y", "another", "main")
	s.Pull(t, "another", "main", "of somebody")
	var fork struct {
		Owner struct{ Login string }
	}
	s.API(t, http.MethodPost, "/forks", map[string]string{}, &fork) // of the administrator, who proposes the branch of the same name
	foreign := s.Pull(t, fork.Owner.Login+":garrison/update", "main", "of a fork")
	f := s.with(t, "write:repository")
	p := forge.Proposal{Head: "garrison/update", Base: "main", Title: "Update flake.lock", Body: "plan"}
	one, err := f.Propose(t.Context(), p)
	if err != nil || one.Number == 0 || one.Number == foreign || !strings.HasPrefix(one.URL, s.URL+"/pulls/") {
		t.Fatalf("%v, %+v", err, one)
	}
	p.Title, p.Body = "Update nixpkgs", "another plan"
	two, err := f.Propose(t.Context(), p)
	var is struct{ Title, Body string }
	s.API(t, http.MethodGet, fmt.Sprint("/pulls/", one.Number), nil, &is)
	if err != nil || two != one || is.Title != p.Title || is.Body != p.Body {
		t.Errorf("%v, %+v, %+v", err, two, is)
	}
	s.API(t, http.MethodPatch, fmt.Sprint("/pulls/", one.Number), map[string]string{"state": "closed"}, nil)
	if three, err := f.Propose(t.Context(), p); err != nil || three.Number == one.Number {
		t.Errorf("one that is closed is over: %v, %+v", err, three)
	}
	p.Head = "gone"
	if _, err := f.Propose(t.Context(), p); fleet.CodeOf(err) != fleet.CodeNotFound {
		t.Errorf("%v", err)
	}
}

func TestGiteaAccess(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		scopes []string
		want   forge.Access
	}{
		"writes":      {[]string{"write:repository", "read:user"}, forge.Access{User: s.ci, Scopes: []string{"read:user", "write:repository"}, Read: true, Write: true, DefaultBranch: "main", Private: true}},
		"reads":       {[]string{"read:repository"}, forge.Access{Scopes: []string{"read:repository"}, Read: true, DefaultBranch: "main", Private: true}},
		"does it all": {[]string{"all"}, forge.Access{User: s.ci, Read: true, Write: true, DefaultBranch: "main", Private: true}},
	} {
		got, err := s.with(t, c.scopes...).Access(t.Context())
		slices.Sort(got.Scopes)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
	if got, err := s.open(t, s.g.Token(t, s.Owner, "write:repository")).Access(t.Context()); err != nil || !got.Admin {
		t.Errorf("%v, %+v", err, got)
	}
}

func TestGiteaProtection(t *testing.T) {
	s := newSite(t)
	for _, b := range []string{"release", "free/branch", "guarded", "ours"} {
		s.file(t, strings.ReplaceAll(b, "/", "-"), b, "main")
	}
	s.Protect(t, "release", forgetest.Protection{Push: []string{s.ci}, Checks: []string{"garrison/build"}})
	s.Protect(t, "guarded", forgetest.Protection{})
	s.Protect(t, "our*", forgetest.Protection{Push: []string{s.Owner}, Force: []string{s.Owner}})
	ci, owner := s.with(t, "read:repository"), s.open(t, s.g.Token(t, s.Owner, "read:repository", "read:user"))
	for name, c := range map[string]struct {
		f    forge.Forge
		want forge.Protection
	}{
		"free/branch": {ci, forge.Protection{MayPush: true, MayForce: true}},
		"release":     {ci, forge.Protection{Protected: true, MayPush: true, StatusList: []string{"garrison/build"}}},
		"guarded":     {ci, forge.Protection{Protected: true, NeedsPull: true}},
		"ours":        {owner, forge.Protection{Protected: true, MayPush: true, MayForce: true}},
	} {
		if got, err := c.f.Protection(t.Context(), name); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %v, %+v", name, err, got)
		}
	}
	if got, err := owner.Protection(t.Context(), "guarded"); err != nil || !got.NeedsPull || got.MayPush {
		t.Errorf("of the owner: %v, %+v", err, got)
	}
	if _, err := ci.Protection(t.Context(), "gone"); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(err.Error(), "branch gone") {
		t.Errorf("%v", err)
	}
}

// TestGiteaRefusals: what is missing is named, and the token is not.
func TestGiteaRefusals(t *testing.T) {
	s := newSite(t)
	s.file(t, "x", "topic", "main")
	n := s.Pull(t, "topic", "main", "a change")
	status := func(f forge.Forge) error { return f.SetStatus(t.Context(), s.commit, aStatus) }
	comment := func(f forge.Forge) error { return f.Comment(t.Context(), n, "<!-- x -->", "x") }
	reader := s.g.User(t, "reader")
	s.Collaborator(t, reader, "read")
	for name, c := range map[string]struct {
		token, what, hint string
		code              fleet.Code
		do                func(forge.Forge) error
	}{
		"scope":     {s.g.Token(t, s.ci, "read:repository"), "lacks the scope write:repository", "add it", fleet.CodeUnauthorized, status},
		"comment":   {s.g.Token(t, s.ci, "write:repository"), "lacks the scope", "add it", fleet.CodeUnauthorized, comment},
		"wrong":     {"0123456789012345678901234567890123456789", "does not know the token", "revoked", fleet.CodeUnauthorized, status},
		"read only": {s.g.Token(t, reader, "all"), "the token's user may not do that", "write:repository", fleet.CodeUnauthorized, status},
		"stranger":  {s.g.Token(t, s.g.User(t, "stranger"), "all"), "no such commit", "the repository is private and the token", fleet.CodeNotFound, status},
		"nobody":    {"", "", "a token", "", status},
	} {
		err := c.do(s.open(t, c.token))
		if c.code == "" {
			c.code = fleet.CodeOf(err) // Gitea says 404, other versions 401
		}
		if err == nil || fleet.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.what) || !strings.Contains(hintOf(err), c.hint) || c.token != "" && strings.Contains(err.Error()+hintOf(err), c.token) {
			t.Errorf("%s: %v; %s", name, err, hintOf(err))
		}
	}
}

// TestGiteaMoved: what was renamed is read all the same; who writes is told the new name.
func TestGiteaMoved(t *testing.T) {
	s := newSite(t)
	f := s.with(t, "write:repository")
	s.API(t, http.MethodPatch, "", map[string]string{"name": s.Name + "-new"}, nil)
	if got, err := f.Access(t.Context()); err != nil || !got.Write {
		t.Errorf("%v, %+v", err, got)
	}
	if err := f.SetStatus(t.Context(), s.commit, aStatus); fleet.CodeOf(err) != fleet.CodeNotFound || !strings.Contains(hintOf(err), s.Name+"-new") {
		t.Errorf("%v; %s", err, hintOf(err))
	}
}

// TestGiteaHook: what a real one delivers is read, with the secret it was given and no other.
func TestGiteaHook(t *testing.T) {
	s := newSite(t)
	type delivery struct {
		header http.Header
		body   []byte
	}
	got := make(chan delivery, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- delivery{r.Header, b}
	}))
	defer srv.Close()
	s.Hook(t, srv.URL, secret)
	commit := s.file(t, "web1", "web1-test", "main")
	s.API(t, http.MethodDelete, "/branches/web1-test", nil, nil)
	want := map[forge.Hook]bool{
		{Kind: forge.Gitea, Event: "create", Repo: s.Full(), Ref: "refs/heads/web1-test", Commit: commit}: true,
		{Kind: forge.Gitea, Event: "delete", Repo: s.Full(), Ref: "refs/heads/web1-test"}:                 true,
		{Kind: forge.Gitea, Event: "push", Repo: s.Full(), Ref: "refs/heads/web1-test", Commit: commit}:   true,
	}
	deadline := time.After(time.Minute)
	for len(want) > 0 {
		select {
		case d := <-got:
			h, err := forge.ReadHook(d.header, d.body, []string{"new", secret})
			if err != nil || h.Delivery == "" {
				t.Fatalf("%v, %+v", err, h)
			}
			if _, err := forge.ReadHook(d.header, d.body, []string{"new"}); fleet.CodeOf(err) != fleet.CodeSignature {
				t.Errorf("%v", err)
			}
			h.Delivery = ""
			delete(want, h)
		case <-deadline:
			t.Fatalf("these did not come: %+v", want)
		}
	}
}

// TestStagesOnGitea: a real one, which goes down in the middle of a run.
func TestStagesOnGitea(t *testing.T) {
	s := newSite(t)
	f := s.with(t, "write:repository")
	st := forge.NewStages(f, s.commit, "https://hub.example/runs/1", nil)
	if err := play(st, nil, all[:3]...); err != nil {
		t.Fatal(err)
	}
	s.g.Stop(t)
	up := make(chan struct{})
	go func() { defer close(up); time.Sleep(500 * time.Millisecond); s.g.Start(t) }()
	st.Close(t.Context(), fleet.Errorf(fleet.Bad, fleet.CodeSecret, "wg.age cannot be re-keyed"))
	<-up
	got, err := f.Statuses(t.Context(), s.commit)
	slices.SortFunc(got, func(a, b forge.Status) int { return strings.Compare(a.Context, b.Context) })
	if err != nil || len(got) != 2 || got[0].State != forge.Success || got[1].State != forge.Failure || got[1].Text != "wg.age cannot be re-keyed" || got[1].URL != "https://hub.example/runs/1" {
		t.Errorf("%v, %s", err, fmt.Sprint(got))
	}
}
