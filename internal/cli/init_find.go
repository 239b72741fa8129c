package cli

import (
	"context"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/secret"
)

// foundEditors are the public keys of those who can read the secrets on the source branch.
type foundEditors struct {
	keys    []string
	why     string // where they are from; "" if they are not known
	unknown int    // recipients that nothing here is the public key of
}

// foundHostKeys are public keys of hosts whose flake declares none.
type foundHostKeys struct {
	keys    map[string]string
	missing []string // hosts with secrets, of which no key was found
}

// maxKeyFile bounds files that are looked through for public keys, in bytes.
const maxKeyFile = 64 << 10

// publicKeys are what looks like one.
var publicKeys = regexp.MustCompile(`\b(age1[0-9a-z]{20,}|ssh-(ed25519|rsa) AAAA[A-Za-z0-9+/=]+)`)

// findEditors finds out for whom secrets are encrypted: by agenix's rules, by the metadata of sops files, or by which public keys that are about fit
// the headers of age files. And it looks for the keys of hosts that declare none.
func (i *fleetInit) findEditors(ctx context.Context) error {
	i.hosts.keys = map[string]string{}
	if len(i.said.Hosts) == 0 {
		i.tell("secrets", "none are declared")
		return nil
	}
	blobs, err := i.repo.Blobs(ctx, i.commit)
	if err != nil {
		return err
	}
	texts, err := i.texts(ctx, blobs)
	if err != nil {
		return err
	}
	i.findHostKeys(texts)
	i.tell("secrets", "%d files that hosts declare", len(i.said.Hosts))
	switch {
	case len(i.said.Config.Secrets.Editors) > 0:
		i.editors = foundEditors{keys: i.said.Config.Secrets.Editors, why: "garrison.toml"}
	case i.said.Rules != nil:
		i.editors = foundEditors{why: "agenix's rules: garrison.toml need not name them"}
	default:
		if err := i.guessEditors(ctx, blobs, texts); err != nil {
			return err
		}
	}
	if i.editors.why != "" {
		i.tell("editors", "%s", strings.TrimPrefix(shortKeys(i.editors.keys)+", by "+i.editors.why, ", by "))
	} else {
		i.tell("editors", "not known: no public key that was found here fits what the secrets are encrypted for")
	}
	return nil
}

// texts are small files of the commit in which public keys may stand, by path.
func (i *fleetInit) texts(ctx context.Context, blobs map[string]string) (map[string]string, error) {
	var ids []string
	for file, id := range blobs {
		if slices.Contains([]string{".pub", ".nix", ".toml", ".yaml", ".yml", ".json", ".txt", ".keys"}, path.Ext(file)) {
			ids = append(ids, id)
		}
	}
	read, err := i.repo.ReadBlobs(ctx, ids)
	if err != nil {
		return nil, err
	}
	texts := map[string]string{}
	for file, id := range blobs {
		if b, ok := read[id]; ok && len(b) <= maxKeyFile {
			texts[file] = string(b)
		}
	}
	return texts, nil
}

// findHostKeys takes the one public key that stands in files which are named after a host, or lie in a folder which is.
func (i *fleetInit) findHostKeys(texts map[string]string) {
	wanting := map[string]bool{}
	for _, hosts := range i.said.Hosts {
		for _, h := range hosts {
			if len(i.said.HostKeys[h]) == 0 {
				wanting[h] = true
			}
		}
	}
	for _, h := range slices.Sorted(maps.Keys(wanting)) {
		found := map[string]bool{}
		for file, text := range texts {
			parts := strings.Split(strings.TrimSuffix(file, ".pub"), "/")
			if path.Ext(file) == ".pub" && slices.Contains(parts, h) {
				if _, key, err := secret.ParseRecipient(text); err == nil {
					found[key] = true
				}
			}
		}
		if len(found) != 1 {
			i.hosts.missing = append(i.hosts.missing, h)
			continue
		}
		for key := range found {
			i.hosts.keys[h] = key
			i.said.HostKeys[h] = []string{key}
		}
	}
}

// guessEditors holds public keys that are about against the secrets.
func (i *fleetInit) guessEditors(ctx context.Context, blobs, texts map[string]string) error {
	candidates, err := i.candidates(ctx, texts)
	if err != nil {
		return err
	}
	ring := secret.NewKeyring(i.said.HostKeys, candidates)
	var ids []string
	for file := range i.said.Hosts {
		ids = append(ids, blobs[file])
	}
	files, err := i.repo.ReadBlobs(ctx, ids)
	if err != nil {
		return err
	}
	editors, anonymous := map[string]bool{}, 0
	for _, file := range slices.Sorted(maps.Keys(i.said.Hosts)) {
		readers, err := secret.ReadersOf(files[blobs[file]], ring)
		if err != nil {
			return fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be read", file).WithCause(err)
		}
		hidden := 0
		for _, r := range readers {
			switch {
			case len(r.Editors) > 0 && len(r.Hosts) == 0:
				editors[r.Recipient] = true
			case len(r.Hosts) == 0 && r.Anonymous():
				hidden++
			case len(r.Hosts) == 0:
				i.editors.unknown++
			}
		}
		anonymous = max(anonymous, hidden)
	}
	var hidden []string // age keys leave nothing of them in a header: as many as there are recipients must they be
	for _, c := range candidates {
		if strings.HasPrefix(c, "age1") && !editors[c] {
			hidden = append(hidden, c)
		}
	}
	if anonymous > 0 && len(hidden) == anonymous {
		for _, c := range hidden {
			editors[c] = true
		}
	} else if anonymous > 0 {
		i.editors.unknown += anonymous
	}
	if i.editors.keys = slices.Sorted(maps.Keys(editors)); len(editors) > 0 && i.editors.unknown == 0 {
		i.editors.why = "what the secrets are encrypted for"
	}
	return nil
}

// candidates are public keys of the repository and of whoever runs this, but for the hosts', each once.
func (i *fleetInit) candidates(ctx context.Context, texts map[string]string) ([]string, error) {
	var words []string
	for _, text := range texts {
		words = append(words, publicKeys.FindAllString(text, -1)...)
	}
	if home, err := os.UserHomeDir(); err == nil {
		own, _ := filepath.Glob(filepath.Join(home, ".ssh", "*.pub"))
		for _, file := range own {
			if b, err := readSmall(file); err == nil {
				words = append(words, strings.TrimSpace(string(b)))
			}
		}
	}
	if i.identity != "" {
		keys, err := publicHalves(ctx, i.identity)
		if err != nil {
			return nil, err
		}
		words = append(words, keys...)
	}
	taken := map[string]bool{}
	for _, keys := range i.said.HostKeys {
		for _, k := range keys {
			if _, key, err := secret.ParseRecipient(k); err == nil {
				taken[key] = true
			}
		}
	}
	var found []string
	for _, w := range words {
		if _, key, err := secret.ParseRecipient(w); err == nil && !taken[key] {
			taken[key] = true
			found = append(found, key)
		}
	}
	return found, nil
}

// publicHalves are those of the private keys in a file.
func publicHalves(ctx context.Context, file string) ([]string, error) {
	ids, err := secret.LoadIdentities(file)
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, id := range ids {
		switch id := id.(type) {
		case *age.X25519Identity:
			keys = append(keys, id.Recipient().String())
		case *age.HybridIdentity:
			keys = append(keys, id.Recipient().String())
		default: // OpenSSH's, or a plugin's, which has no public half here
			if key, err := release.PublicKey(ctx, file); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys, nil
}

// shortKeys are keys as a person tells them apart.
func shortKeys(keys []string) string {
	short := make([]string, len(keys))
	for n, k := range keys {
		if short[n] = k; len(k) > 40 {
			short[n] = k[:24] + "…" + k[len(k)-8:]
		}
	}
	return strings.Join(short, ", ")
}
