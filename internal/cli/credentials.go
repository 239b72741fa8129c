package cli

import (
	"net/url"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// credentials let in to servers of repositories, or to what is below a folder of one: URLs like https://user:token@host.
type credentials []*url.URL

// readCredentials reads lines as git-credential-store(1) has them; what says what they are.
func readCredentials(file, what string) (credentials, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "cannot read %s", what).WithHint("they must be a file with lines like https://user:token@host").WithCause(err)
	}
	var all credentials
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		u, err := url.Parse(line)
		if err != nil || u.User == nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "%s have a line that is not like https://user:token@host", what) // which is not shown
		}
		all = append(all, u)
	}
	return all, nil
}

// letIn is a repository's URL with what lets us in to its host; git gets it from there by its environment alone.
func (c credentials) letIn(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.User != nil || u.Host == "" { // a folder has no host: nothing lets in to it
		return address
	}
	for _, m := range c {
		if m.Scheme == u.Scheme && m.Host == u.Host && strings.HasPrefix(u.Path, strings.TrimRight(m.Path, "/")+"/") {
			u.User = m.User
			return u.String()
		}
	}
	return address
}
