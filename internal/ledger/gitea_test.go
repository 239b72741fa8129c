package ledger_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/forge/forgetest"
	"github.com/garrison-nix/garrison/internal/ledger"
)

// TestGitea: a real forge with release* protected takes whole acts by who may push there, and no part of anybody else's.
func TestGitea(t *testing.T) {
	g := forgetest.Start(t)
	owner, writer, operator := g.User(t, "owner"), g.User(t, "writer"), g.User(t, "operator")
	repo := g.Repo(t, owner, "fleet")
	repo.Private(t)
	repo.Collaborator(t, writer, "write")
	repo.Collaborator(t, operator, "write")
	o := newOrigin(t)
	do(t, o.dir, "git", "push", "--quiet", repo.Push, "refs/heads/main:refs/heads/main", "refs/heads/release:refs/heads/release")
	repo.Protect(t, "release*", forgetest.Protection{Push: []string{owner, operator}})
	as := func(user string) ledger.Book {
		b := newBook(t, repo.URL+".git")
		b.Remote.CredentialsFile = filepath.Join(t.TempDir(), "credentials")
		must(t, os.WriteFile(b.Remote.CredentialsFile, []byte(user+":"+g.Token(t, user, "write:repository")), 0o600))
		return b
	}
	refs := func() string { return do(t, "", "git", "ls-remote", repo.Push, "refs/heads/release-r*") }

	before := refs()
	_, err := act(t, as(writer), o.releases[0], 1)
	wantCode(t, err, fleet.CodeUnauthorized)
	for _, want := range []string{"release-ring-canary", "release-rollout", "protected branch"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("nothing is said of %s: %v", want, err)
		}
	}
	var e *fleet.Error
	if !errors.As(err, &e) || !strings.Contains(e.Hint, "write to them") {
		t.Errorf("it does not say what to change: %+v", e)
	}
	if refs() != before {
		t.Errorf("a part of it is there: %s", refs())
	}
	p, err := act(t, as(operator), o.releases[0], 1)
	must(t, err)
	if got := refs(); !strings.Contains(got, o.releases[0]+"\trefs/heads/release-ring-canary") || !strings.Contains(got, p.Tip+"\trefs/heads/release-rollout") {
		t.Errorf("after it: %s", got)
	}

	// Both at once: one after the other, and nothing is lost.
	var both sync.WaitGroup
	for i, b := range []ledger.Book{as(operator), as(owner)} {
		both.Go(func() {
			_, err := b.Change(t.Context(), func(p ledger.Page) (*ledger.Entry, error) {
				l := p.Ledger
				l.Approved = append(l.Approved[:len(l.Approved):len(l.Approved)], fleet.RolloutOrder{By: fmt.Sprint(i)})
				return &ledger.Entry{By: "Ann <ann@example.org>", Summary: fmt.Sprint("approve ", i), Ledger: l}, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	p, err = as(writer).Read(t.Context()) // may read
	must(t, err)
	if len(p.Ledger.Approved) != 2 || p.Rings["release-ring-canary"] != o.releases[0] {
		t.Errorf("after both: %+v", p)
	}
	_, err = as(g.User(t, "stranger")).Read(t.Context())
	if code := fleet.CodeOf(err); code != fleet.CodeUnauthorized && code != fleet.CodeRemote {
		t.Errorf("a stranger: %v", err)
	}
}
