package cli

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/fleet"
)

// hubMeans are what a hub cannot do without: space, and tokens and keys that end.
type hubMeans struct {
	config HubFile
	watch  *watchers // nil when it follows no repository

	mu    sync.Mutex
	at    time.Time // when they were looked at last
	known []fleet.Credential
}

// meansEvery is how long what was found out of credentials is believed.
const meansEvery = 10 * time.Minute

// credentials are those whose end is known.
func (m *hubMeans) credentials(ctx context.Context) []fleet.Credential {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.at) < meansEvery {
		return m.known
	}
	m.at, m.known = time.Now(), nil
	add := func(name, token string) {
		if ends, ok := fleet.TokenEnds(token); ok {
			m.known = append(m.known, fleet.Credential{Name: name, Ends: ends})
		}
	}
	if file := m.config.Forge.TokenFile; file != "" {
		if token, err := tokenFrom(file)(); err == nil { // that it cannot be read is said where it is used
			add("the hub's token for the forge in "+file, token)
		}
	}
	for _, file := range []string{m.config.CI.CredentialsFile, m.config.Follow.CredentialsFile} {
		if file == "" {
			continue
		}
		all, _ := readCredentials(file, "the hub's credentials")
		for _, u := range all {
			token, _ := u.User.Password()
			add("the hub's token for "+u.Host+" in "+file, token)
		}
	}
	if m.watch != nil {
		if c, ok := m.watch.follower.Signer(ctx); ok {
			m.known = append(m.known, c)
		}
	}
	return m.known
}

// disks are those of the hub's folder, and of the cache's where that is on another one.
func (m *hubMeans) disks() (list []fleet.Disk) {
	for _, p := range [][2]string{{"the hub's data", m.config.DataDir}, {"the cache", orElse(m.config.Cache.Dir, filepath.Join(m.config.DataDir, "cache"))}} {
		d, ok := agent.DiskOf(p[0], p[1])
		if ok && (len(list) == 0 || d.TotalBytes != list[0].TotalBytes || d.FreeBytes != list[0].FreeBytes) {
			list = append(list, d)
		}
	}
	return list
}
