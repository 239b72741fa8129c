package agent

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/nar"
	"github.com/garrison-nix/garrison/internal/nix"
)

// TestNamed: who signed what no trusted key did is named, of the cache that has it so; what is about something else is left alone.
func TestNamed(t *testing.T) {
	const path = "/nix/store/00000000000000000000000000000000-x"
	key := func(name string) *nar.PrivateKey {
		k, err := nar.GenerateKey(name)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ours, stranger := key("fleet"), key("stranger-1")
	serve := func(change func(*nar.NarInfo)) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n := nar.NarInfo{PathInfo: nar.PathInfo{StorePath: path, NarHash: nar.Hash{1}, NarSize: 120}, URL: "nar/x.nar", Compression: "none"}
			n.Sigs = []string{ours.Sign(n.Fingerprint())}
			if change != nil {
				change(&n)
			}
			if r.URL.Path != "/00000000000000000000000000000000.narinfo" {
				w.WriteHeader(http.StatusNotFound)
			}
			_, _ = w.Write(n.Encode())
		}))
		t.Cleanup(s.Close)
		return s.URL
	}
	good := serve(nil)
	for name, c := range map[string]struct {
		change func(*nar.NarInfo)
		want   string
	}{
		"another key":             {func(n *nar.NarInfo) { n.Sigs = []string{stranger.Sign(n.Fingerprint())} }, "signed by stranger-1; trusted here is fleet"},
		"another of our name":     {func(n *nar.NarInfo) { n.Sigs = []string{key("fleet").Sign(n.Fingerprint())} }, "signed by fleet (but not by the key of that name"},
		"signed, then changed":    {func(n *nar.NarInfo) { n.NarSize++ }, "signed by fleet (but not by the key of that name"},
		"nobody":                  {func(n *nar.NarInfo) { n.Sigs = nil }, "signed by nobody; trusted"},
		"two":                     {func(n *nar.NarInfo) { n.Sigs = []string{stranger.Sign([]byte("y")), "old:AAAA"} }, "signed by stranger-1, old; trusted"},
		"by ours when it is seen": {nil, "as nix said"},
	} {
		bad := serve(c.change)
		s := nix.Substitution{Caches: []string{"file:///x", "http://127.0.0.1:1/", good, bad + "/"}, PublicKeys: []string{ours.Public().String()}}
		err := (&Agent{}).named(t.Context(), fleet.Errorf(fleet.Local, fleet.CodeSubstitute, "as nix said").WithCause(&nix.Untrusted{Path: path, Said: errors.New("unsigned")}), s)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.change != nil && !strings.Contains(err.Error(), bad) || fleet.ClassOf(err) != fleet.Local {
			t.Errorf("%s: %v", name, err)
		}
	}
	other := errors.New("another")
	if err := (&Agent{}).named(t.Context(), other, nix.Substitution{}); err != other {
		t.Error(err)
	}
}
