package secret

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// decryptSops opens the source of item, or says why that is not possible.
func decryptSops(item Rekeyed, file []byte, ids []age.Identity, about string) (plaintext, *fleet.Error) {
	bad := func(format string, args ...any) *fleet.Error {
		return fleet.Errorf(fleet.Bad, fleet.CodeSecret, format, args...)
	}
	f, err := sops.Parse(file)
	switch {
	case errors.Is(err, sops.ErrNotSops) && KindOf(file) == KindAge:
		return plaintext{}, bad("%s is an age file, but is declared as one of sops", about)
	case errors.Is(err, sops.ErrNotSops):
		return plaintext{}, bad("%s is not a sops file", about).
			WithHint("if it was committed unencrypted, encrypt it and change the values: they are in git's history")
	case err != nil:
		return plaintext{}, bad("%s cannot be read: %v", about, err)
	case f.Empty():
		return plaintext{}, bad("%s has no value that is encrypted", about).WithHint("give it one, or no longer declare it")
	}
	if missing := slices.DeleteFunc(slices.Clone(item.Keys), f.Has); len(missing) > 0 {
		return plaintext{}, bad("%s does not have the key %s", about, list(missing)).WithHint("add it, or correct sops.secrets.<name>.key")
	}
	u, err := f.Unlock(ids)
	switch {
	case errors.Is(err, sops.ErrNoIdentity):
		return plaintext{}, bad("%s can be decrypted by none of the %d identities given: it is encrypted for %s", about, len(ids), list(sopsReaders(f))).
			WithHint("encrypt it again, also for an age key that re-keys")
	case err != nil:
		return plaintext{}, bad("%s cannot be decrypted: %v", about, err)
	}
	if empty := slices.DeleteFunc(slices.Clone(item.Keys), u.HasValue); len(empty) > 0 {
		u.Wipe()
		return plaintext{}, bad("%s has nothing under the key %s", about, list(empty)).WithHint("give it a value, or no longer declare it")
	}
	return plaintext{sops: u}, nil
}

// sopsReaders names for whom a file is encrypted.
func sopsReaders(f *sops.File) []string {
	var names []string
	for _, e := range f.Entries() {
		names = append(names, short(e.Recipient))
	}
	for _, kind := range f.OtherKeys() {
		names = append(names, "keys of kind "+kind)
	}
	return names
}

// sealSops encrypts for the recipients, which a plan has as age1… keys.
func sealSops(u *sops.Unlocked, names []string, to []age.Recipient) ([]byte, error) {
	var recipients []sops.Recipient
	for i, r := range to {
		recipients = append(recipients, sops.Recipient{Name: names[i], Recipient: r})
	}
	return u.Rekey(recipients)
}

// checkSops is CheckStanzas for a sops file: it names its recipients, and each of their headers must fit its name.
func checkSops(file []byte, recipients []string) error {
	f, err := sops.Parse(file)
	if err != nil {
		return err
	}
	if others := f.OtherKeys(); len(others) > 0 {
		return fmt.Errorf("it is also encrypted for keys of kind %s", strings.Join(others, ", "))
	}
	due := make(map[string]int) // the names that the file should have, each once
	for _, r := range recipients {
		due[r]++
	}
	count := make(map[string]int)
	for _, e := range f.Entries() {
		name := e.Recipient
		if due[name] == 0 {
			name = nameOf(name)
		}
		if err := CheckStanzas([]byte(e.Enc), []string{name}); err != nil {
			return fmt.Errorf("the data key for %s: %w", short(name), err)
		}
		count[name]++
	}
	var missing, extra []string
	for _, r := range recipients {
		if count[r] > 0 {
			count[r]--
		} else if i := slices.IndexFunc(namesOf(nameOf(r)), func(n string) bool { return count[n] > 0 }); i >= 0 {
			count[namesOf(nameOf(r))[i]]--
		} else {
			missing = append(missing, short(r))
		}
	}
	for _, name := range sortedKeys(count) {
		if count[name] > 0 {
			extra = append(extra, short(name))
		}
	}
	if err := surplus(missing, extra); err != nil {
		return err
	}
	return f.Check()
}

// nameOf is a key in its normal form, if it is one that can be parsed.
func nameOf(key string) string {
	if _, normal, err := ParseRecipient(key); err == nil {
		return normal
	}
	return key
}
