package secret

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// SourceFile is a secret file of the source branch.
type SourceFile struct {
	Path string
	Data []byte
	For  Editors
}

// Resealed is a file of the source branch to be encrypted for others than it is.
type Resealed struct {
	Path  string   `json:"path"`
	Why   string   `json:"why"`
	Gains []string `json:"gains"` // who can read it then, as far as that can be told of a header
	Loses []string `json:"loses"` // who can read it until then

	file []byte
	kind Kind
	to   Editors
}

// PlanReseal says which files are not encrypted for exactly the editors that they are to be for. It decrypts nothing. An age file shows of
// age1… keys only how many there are, and of a plugin's not even that: with such editors it is always in the plan. Its error
// names every file that is not encrypted at all, or for keys that would be lost.
func PlanReseal(files []SourceFile, keys *Keyring) ([]Resealed, error) {
	plan := []Resealed{}
	var probs problems
	for _, f := range files {
		r := Resealed{Path: f.Path, file: f.Data, kind: KindOf(f.Data), to: f.For}
		if err := r.look(keys); err != nil {
			probs.add(fleet.CodeSecret, "", "%s %v", f.Path, err)
		} else if r.Why != "" {
			plan = append(plan, r)
		}
	}
	return plan, probs.err("the secrets cannot be encrypted again")
}

// look fills in what the file shows. Why stays empty when it is for the editors.
func (r *Resealed) look(keys *Keyring) error {
	readers, err := ReadersOf(r.file, keys)
	switch {
	case r.kind == KindAuto:
		return errors.New("is not encrypted: encrypt it and change the value if it was ever committed so")
	case err != nil:
		return fmt.Errorf("cannot be read: %w", err)
	case len(r.file) > MaxFileBytes:
		return fmt.Errorf("has %d bytes, at most %d are allowed", len(r.file), MaxFileBytes)
	case r.kind == KindSops:
		f, err := sops.Parse(r.file)
		if err != nil {
			return fmt.Errorf("cannot be read: %w", err)
		}
		if others := f.OtherKeys(); len(others) > 0 {
			return fmt.Errorf("is also encrypted for keys of kind %s, which would be lost: use sops updatekeys", list(others))
		}
		r.to = preferred(r.to, f.Entries())
	}
	r.compare(readers, keys)
	return nil
}

// compare says who gains and who loses, and why the file is not for the editors.
func (r *Resealed) compare(readers []Reader, keys *Keyring) {
	var before, after []string
	for _, reader := range readers {
		if !reader.anonymous {
			before = append(before, reader.Name())
		}
	}
	told := true // whether each editor can be recognised
	for _, name := range r.to.names {
		s, err := stanzaFor(name)
		told = told && err == nil && (r.kind == KindSops || tagged(s.Type))
		if r.kind == KindSops || err == nil && tagged(s.Type) {
			after = append(after, keys.reader(name).Name())
		}
	}
	r.Gains = slices.DeleteFunc(append([]string{}, sortedSet(after)...), func(n string) bool { return slices.Contains(before, n) })
	r.Loses = slices.DeleteFunc(append([]string{}, sortedSet(before)...), func(n string) bool { return slices.Contains(after, n) })
	switch err := CheckStanzas(r.file, r.to.names); {
	case err == nil && told:
	case err == nil || !told && len(r.Gains)+len(r.Loses) == 0:
		r.Why = "its header does not tell whether it is for " + r.to.who()
	default:
		r.Why = "it is not for " + r.to.who()
	}
}

// who says who they are.
func (e Editors) who() string {
	if e.by != "" {
		return "those whom " + e.by + " names"
	}
	return "the editors that there are now"
}

// Reseal decrypts what the plan lists and encrypts it for the editors: all of it, or none and an error that names every
// file that cannot be. Everything is done in memory. A sops file keeps all but its values and recipients.
func Reseal(ctx context.Context, plan []Resealed, ids []age.Identity) (map[string][]byte, error) {
	done := make(map[string][]byte)
	var probs problems
	for _, r := range plan {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		file, problem := r.seal(ids)
		if problem != nil {
			probs = append(probs, problem)
			continue
		}
		done[r.Path] = file
	}
	if err := probs.err("the secrets cannot be encrypted again"); err != nil {
		return nil, err
	}
	return done, nil
}

func (r Resealed) seal(ids []age.Identity) ([]byte, *fleet.Error) {
	plain, problem := decrypt(Rekeyed{Path: r.Path, Kind: r.kind}, r.file, ids)
	if problem != nil {
		return nil, problem
	}
	defer plain.wipe()
	var file []byte
	var err error
	if r.kind == KindSops {
		file, err = sealSops(plain.sops, r.to.names, r.to.recipients)
	} else {
		file, err = seal(plain, r.to.recipients)
	}
	switch {
	case err != nil && slices.ContainsFunc(r.to.names, ofPlugin): // what a plugin says may be anything
		err = fmt.Errorf("not for all of the %d editors: is a plugin missing?", len(r.to.names))
	case err == nil && !slices.ContainsFunc(r.to.names, ofPlugin):
		err = CheckStanzas(file, r.to.names)
	case err == nil && bytes.Equal(file, r.file):
		err = errors.New("it came out as it was")
	}
	if err != nil {
		return nil, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be encrypted: %v", r.Path, err)
	}
	return file, nil
}
