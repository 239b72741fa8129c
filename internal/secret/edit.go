package secret

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/plugin"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// Editors are those who may read secrets on the source branch.
type Editors struct {
	names      []string // normalised keys
	recipients []age.Recipient
	by         string // the file with the rule that names them; "" if garrison.toml does
	armor      bool   // new age files are to be text
}

// ParseEditors reads public keys of editors. Besides what ParseRecipient reads, they may be those of age plugins
// (age1yubikey1…), which are run when something is encrypted; ui is what they ask through, nil for nobody.
func ParseEditors(keys []string, ui *plugin.ClientUI) (Editors, error) {
	if ui == nil {
		ui = silentUI()
	}
	var e Editors
	var probs problems
	for i, k := range keys {
		r, name, err := parseEditor(k, ui)
		if err != nil {
			probs.add(fleet.CodeKey, "", "key %d of the editors cannot be used: %v", i+1, err)
			continue
		}
		e.names, e.recipients = append(e.names, name), append(e.recipients, r)
	}
	if len(keys) == 0 {
		probs.add(fleet.CodeKey, "list the editors' public keys in garrison.toml: secrets.editors", "there are no editors to encrypt for")
	}
	return e, probs.err("the editors' keys cannot be used")
}

func parseEditor(key string, ui *plugin.ClientUI) (age.Recipient, string, error) {
	key = strings.TrimSpace(key)
	if ofPlugin(key) {
		r, err := plugin.NewRecipient(key, ui)
		if err != nil {
			return nil, "", errors.New("the key of an age plugin is mistyped or cut short")
		}
		return r, key, nil
	}
	return ParseRecipient(key)
}

// Opened is a secret file decrypted for an editor. Whoever has it calls Wipe.
type Opened struct {
	Data []byte // what to edit: the secret of an age file; the text of a sops file without its metadata

	path    string
	file    []byte
	kind    Kind
	armored bool
	like    sops.Like
	entries []sops.Entry
}

// Wipe overwrites the plaintext.
func (o *Opened) Wipe() { clear(o.Data[:cap(o.Data)]) }

// Open decrypts a file for an editor, in memory. Its kind and format are told by its content, and for binary sops files
// by its path. Errors are fleet.Errors with class Bad and CodeSecret, and repeat nothing of the file.
func Open(path string, file []byte, ids []age.Identity) (*Opened, error) {
	o := &Opened{path: path, file: file, kind: KindOf(file)}
	if o.kind == KindAuto {
		o.kind = KindAuto.or(path)
	}
	plain, problem := decrypt(Rekeyed{Path: path, Kind: o.kind}, file, ids)
	if problem != nil {
		return nil, problem
	}
	defer plain.wipe()
	if o.kind == KindAge {
		o.Data, o.armored = bytes.Clone(plain.data), plain.armored
		return o, nil
	}
	f, err := sops.Parse(file)
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be read: %v", path, err)
	}
	if others := f.OtherKeys(); len(others) > 0 {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s is also encrypted for keys of kind %s, which would be lost", path, list(others)).
			WithHint("edit it with sops")
	}
	if o.Data, err = plain.sops.Plain(sops.FormatOf(path)); err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be edited: %v", path, err)
	}
	o.like, o.entries = f.Like(), f.Entries()
	return o, nil
}

// Seal encrypts data for the editors in the form that the file had. If nothing changed, neither data
// nor for whom, the bytes of the file are the same.
func (o *Opened) Seal(data []byte, to Editors, now time.Time) ([]byte, error) {
	if bytes.Equal(data, o.Data) && CheckStanzas(o.file, to.names) == nil {
		return o.file, nil
	}
	return encryptFor(o.path, o.kind, data, preferred(to, o.entries), o.armored, o.like, now)
}

// preferred writes SSH keys as a sops file already has them: as they are, or as the age keys made of them.
func preferred(to Editors, entries []sops.Entry) Editors {
	out := Editors{by: to.by, armor: to.armor}
	for i, name := range to.names {
		r := to.recipients[i]
		for _, e := range entries {
			if converted := namesOf(name); len(converted) == 2 && e.Recipient == converted[1] {
				if other, _, err := ParseRecipient(converted[1]); err == nil {
					name, r = converted[1], other
				}
				break
			}
		}
		out.names, out.recipients = append(out.names, name), append(out.recipients, r)
	}
	return out
}

// EncryptFor makes a new secret file for the editors. With KindAuto the path tells whether it is an age or a sops
// file; of a sops file, also its format.
func EncryptFor(path string, kind Kind, data []byte, to Editors, now time.Time) ([]byte, error) {
	return encryptFor(path, kind.or(path), data, to, to.armor, sops.Like{}, now)
}

func encryptFor(path string, kind Kind, data []byte, to Editors, armored bool, like sops.Like, now time.Time) (file []byte, err error) {
	switch {
	case len(to.names) == 0:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeKey, "there are no editors to encrypt %s for", path)
	case len(data) == 0:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s would be empty", path).WithHint("give it a value, or delete it")
	case len(data) > MaxFileBytes:
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s would have %d bytes, at most %d are allowed", path, len(data), MaxFileBytes)
	case kind == KindSops:
		var recipients []sops.Recipient
		for i, r := range to.recipients {
			recipients = append(recipients, sops.Recipient{Name: to.names[i], Recipient: r})
		}
		file, err = sops.Encrypt(sops.FormatOf(path), data, recipients, like, now)
	default:
		file, err = seal(plaintext{data: data, armored: armored}, to.recipients)
		if err != nil { // what a plugin says may be anything
			err = fmt.Errorf("not for all of the %d editors: is a plugin missing?", len(to.names))
		}
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be encrypted: %v", path, err)
	}
	return file, nil
}
