package cli

import (
	"net/url"
	"testing"
)

func TestCredentialsLetIn(t *testing.T) {
	user := url.UserPassword("garrison", "secret")
	all := credentials{
		{User: user}, // which must fit nothing, not even a folder
		{Scheme: "https", Host: "git.example.org", User: user},
		{Scheme: "https", Host: "example.org", Path: "/forge/", User: user},
	}
	for address, want := range map[string]string{
		"https://git.example.org/fleet.git":      "https://garrison:secret@git.example.org/fleet.git",
		"https://me@git.example.org/fleet.git":   "https://me@git.example.org/fleet.git",
		"http://git.example.org/fleet.git":       "http://git.example.org/fleet.git",
		"https://git.example.org:8443/fleet.git": "https://git.example.org:8443/fleet.git",
		"ssh://git.example.org/fleet.git":        "ssh://git.example.org/fleet.git",
		"git@git.example.org:fleet.git":          "git@git.example.org:fleet.git",
		"/srv/git/fleet.git":                     "/srv/git/fleet.git",
		"https://example.org/forge/ops/fleet":    "https://garrison:secret@example.org/forge/ops/fleet",
		"https://example.org/forgery/ops/fleet":  "https://example.org/forgery/ops/fleet",
	} {
		if got := all.letIn(address); got != want {
			t.Errorf("%s: %s, not %s", address, got, want)
		}
	}
}
