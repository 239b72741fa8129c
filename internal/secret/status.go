package secret

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// Keyring knows whose a public key is.
type Keyring struct {
	hosts, editors map[string][]string // key, in each form that files have it in → names
}

// NewKeyring makes a Keyring of the hosts' and the editors' public keys. An editor is called as the comment of the SSH
// key says, else as the key. Keys that cannot be parsed are left out.
func NewKeyring(hosts map[string][]string, editors []string) *Keyring {
	k := &Keyring{map[string][]string{}, map[string][]string{}}
	for _, h := range sortedKeys(hosts) {
		for _, key := range hosts[h] {
			note(k.hosts, key, h)
		}
	}
	for _, key := range editors {
		name := short(nameOf(key))
		if fields := strings.Fields(key); len(fields) > 2 {
			name = strings.Join(fields[2:], " ")
		}
		note(k.editors, key, name)
	}
	return k
}

func note(of map[string][]string, key, name string) {
	for _, n := range namesOf(nameOf(key)) {
		if !slices.Contains(of[n], name) {
			of[n] = append(of[n], name)
		}
	}
}

// Reader is a recipient of a file, and whose key it is.
type Reader struct {
	Recipient string   `json:"recipient"` // a public key, or of an age file's header what it shows of one
	Hosts     []string `json:"hosts,omitempty"`
	Editors   []string `json:"editors,omitempty"`

	anonymous bool // the header does not say whose key it is
}

// Name is who it is, as a person says it.
func (r Reader) Name() string {
	if names := slices.Concat(r.Hosts, r.Editors); names != nil {
		return strings.Join(names, ", ")
	}
	return "somebody unknown: " + short(r.Recipient)
}

// Access says who can read a file.
type Access struct {
	Path    string   `json:"path"`
	Kind    Kind     `json:"kind"`
	Readers []Reader `json:"readers"`
}

// Status says who can read what in a release, by its record. It is sorted by path.
func Status(released *fleet.Secrets, keys *Keyring) []Access {
	out := []Access{}
	if released == nil {
		return out
	}
	for _, path := range sortedKeys(released.Files) {
		a := Access{Path: path, Kind: KindAuto.or(path)}
		for _, r := range released.Files[path].Recipients {
			a.Readers = append(a.Readers, keys.reader(r))
		}
		out = append(out, a)
	}
	return out
}

func (k *Keyring) reader(key string) Reader {
	return Reader{Recipient: key, Hosts: k.hosts[nameOf(key)], Editors: k.editors[nameOf(key)]}
}

// ReadersOf says who can read a file, by its header or metadata. Age keys in the header of an age file are anonymous:
// their Reader has neither hosts nor editors.
func ReadersOf(file []byte, keys *Keyring) ([]Reader, error) {
	if KindOf(file) == KindSops {
		f, err := sops.Parse(file)
		if err != nil {
			return nil, err
		}
		var out []Reader
		for _, e := range f.Entries() {
			out = append(out, keys.reader(e.Recipient))
		}
		for _, kind := range f.OtherKeys() {
			out = append(out, Reader{Recipient: kind})
		}
		return out, nil
	}
	stanzas, err := Stanzas(bytes.NewReader(file))
	if err != nil {
		return nil, err
	}
	tags := keys.tags()
	var out []Reader
	for _, s := range stanzas {
		r := Reader{Recipient: s.String()}
		if key, ok := tags[s]; ok && tagged(s.Type) {
			r = keys.reader(key)
		} else if s.Tag == "" {
			r.Recipient, r.anonymous = fmt.Sprintf("%s (anonymous)", s.Type), true
		}
		out = append(out, r)
	}
	return out, nil
}

// tags says which key a stanza with a tag is for.
func (k *Keyring) tags() map[Stanza]string {
	tags := make(map[Stanza]string)
	for _, of := range []map[string][]string{k.editors, k.hosts} {
		for key := range of {
			if s, err := stanzaFor(key); err == nil && tagged(s.Type) {
				tags[s] = key
			}
		}
	}
	return tags
}

// Anonymous says that the file does not tell whose key it is.
func (r Reader) Anonymous() bool { return r.anonymous }
