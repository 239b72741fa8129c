package secret

import (
	"bytes"
	"errors"
	"slices"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// looked is a file and what can be told of it without a key.
type looked struct {
	file    []byte
	kind    Kind
	broken  error           // it cannot be read at all
	stanzas map[Stanza]bool // of an age file
	names   map[string]bool // recipients of a sops file
}

func (v *verifier) look(path, blob string) (*looked, error) {
	if l := v.cache[blob]; l != nil {
		return l, nil
	}
	file, err := v.in.Read(blob)
	if err != nil {
		return nil, fleet.Errorf(fleet.ClassOf(err), fleet.CodeOf(err), "cannot read %s from git", path).WithCause(err)
	}
	l := &looked{file: file, kind: KindOf(file), stanzas: map[Stanza]bool{}, names: map[string]bool{}}
	v.cache[blob] = l
	if l.kind == KindSops {
		f, err := sops.Parse(file)
		if err != nil {
			l.broken = err
			return l, nil
		}
		for _, e := range f.Entries() {
			l.names[nameOf(e.Recipient)] = true
		}
		return l, nil
	}
	found, err := Stanzas(bytes.NewReader(file))
	l.broken = err
	for _, s := range found {
		l.stanzas[s] = true
	}
	return l, nil
}

// opens says whether somebody can decrypt a file: by their identities if there are some, else by their public keys.
// Where only the number of anonymous recipients is known, exact must be all recipients that the file should have.
func (l *looked) opens(a *Answer, ids []age.Identity, keys, exact []string) (Verdict, error) {
	if l.broken != nil {
		return Unknown, l.broken
	}
	if len(ids) > 0 {
		a.Decrypted++
		return l.decrypts(ids)
	}
	a.Headers++
	no, anonymous := No, false
	for _, k := range keys {
		if l.kind == KindSops {
			if slices.ContainsFunc(namesOf(k), func(n string) bool { return l.names[n] }) {
				return Yes, nil
			}
			continue
		}
		s, err := stanzaFor(k)
		switch {
		case err != nil:
			no = Unknown
		case l.stanzas[s] && tagged(s.Type):
			return Yes, nil
		case l.stanzas[s]:
			anonymous = true
		}
	}
	switch {
	case !anonymous:
		return no, nil
	case CheckStanzas(l.file, exact) != nil:
		return Unknown, nil
	case slices.ContainsFunc(keys, func(k string) bool { return slices.Contains(exact, k) }):
		return Yes, nil
	default:
		return No, nil
	}
}

func (l *looked) decrypts(ids []age.Identity) (Verdict, error) {
	if l.kind == KindSops {
		f, err := sops.Parse(l.file)
		if err != nil {
			return Unknown, err
		}
		u, err := f.Unlock(ids)
		if err == nil {
			u.Wipe()
			return Yes, nil
		}
		if errors.Is(err, sops.ErrNoIdentity) {
			return No, nil
		}
		return Unknown, err
	}
	p, err := open(l.file, ids)
	if err == nil {
		p.wipe()
		return Yes, nil
	}
	if errors.Is(err, errNoIdentity) {
		return No, nil
	}
	return Unknown, err
}
