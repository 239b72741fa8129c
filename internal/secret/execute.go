package secret

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// MaxFileBytes bounds a secret file. Two for each processor are in memory at once.
const MaxFileBytes = 16 << 20

// Execute re-keys the files that plan.Rekey lists and returns their new bytes by
// path: all of them, each checked with CheckStanzas, or none and an error. read
// returns the bytes of a git blob; it and identities are used by the calling
// goroutine alone, in the order of the plan.
//
// Errors are fleet.Errors. One that is about files (CodeSecret, class Bad) names
// all files in question and their hosts; read's keep their class and code; no identities
// at all are CodeKey. When ctx ends, its cause is returned.
func Execute(ctx context.Context, plan *Plan, identities []age.Identity, read func(blob string) ([]byte, error)) (map[string][]byte, error) {
	if len(plan.Rekey) == 0 {
		return map[string][]byte{}, nil
	}
	if len(identities) == 0 {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "%d secret files are to be re-keyed, but there is no identity to decrypt them with", len(plan.Rekey)).
			WithHint("give the file of a private key that the editors encrypt for")
	}
	recipients, err := parseAll(plan.Rekey)
	if err != nil {
		return nil, err
	}
	s := startSealers(recipients)
	err = decryptAll(ctx, plan.Rekey, identities, read, s)
	return s.finish(err)
}

// decryptAll hands the plaintext of every item to s. A file that cannot be decrypted
// does not stop the search for others; an error of read or the end of ctx does.
func decryptAll(ctx context.Context, items []Rekeyed, ids []age.Identity, read func(string) ([]byte, error), s *sealers) error {
	for _, item := range items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		file, err := read(item.Source)
		if err != nil {
			return fleet.Errorf(fleet.ClassOf(err), fleet.CodeOf(err), "cannot read %s (for %s) from git", item.Path, list(item.Hosts)).WithCause(err)
		}
		plain, problem := decrypt(item, file, ids)
		if problem != nil {
			s.fail(problem)
			continue
		}
		s.jobs <- job{item, plain}
	}
	return nil
}

// decrypt opens the source of item, or says why that is not possible.
func decrypt(item Rekeyed, file []byte, ids []age.Identity) (plaintext, *fleet.Error) {
	about := item.Path
	if len(item.Hosts) > 0 { // else it is an editor who opens it
		about = fmt.Sprintf("%s (for %s)", item.Path, list(item.Hosts))
	}
	if len(file) > MaxFileBytes {
		return plaintext{}, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s has %d bytes, at most %d are allowed", about, len(file), MaxFileBytes)
	}
	if item.Kind.or(item.Path) == KindSops {
		return decryptSops(item, file, ids, about)
	}
	plain, err := open(file, ids)
	switch {
	case errors.Is(err, ErrNotAge) && KindOf(file) == KindSops:
		return plain, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s is a sops file, but is declared as one of age", about)
	case errors.Is(err, ErrNotAge):
		return plain, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s is not an age file", about).
			WithHint("if it was committed unencrypted, encrypt it and change the value: it is in git's history")
	case errors.Is(err, errNoIdentity):
		return plain, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s can be decrypted by none of the %d identities given: it is encrypted for %s", about, len(ids), stanzaList(file)).
			WithHint("encrypt it again, also for the key that re-keys")
	case err != nil:
		return plain, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be decrypted: %v", about, err)
	case len(plain.data) == 0:
		return plain, fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s decrypts to nothing", about).
			WithHint("give it a value, or no longer declare it")
	}
	return plain, nil
}

// stanzaList names for whom a file is encrypted.
func stanzaList(file []byte) string {
	stanzas, err := Stanzas(strings.NewReader(string(file)))
	if err != nil {
		return "keys that cannot be told"
	}
	const most = 8
	var names []string
	for _, s := range stanzas[:min(len(stanzas), most)] {
		names = append(names, s.String())
	}
	if len(stanzas) > most {
		names = append(names, fmt.Sprintf("%d more", len(stanzas)-most))
	}
	return list(names)
}

// parseAll parses each distinct recipient of items once.
func parseAll(items []Rekeyed) (map[string]age.Recipient, error) {
	parsed := make(map[string]age.Recipient)
	var probs problems
	for _, item := range items {
		for _, r := range item.Recipients {
			if _, done := parsed[r]; done {
				continue
			}
			recipient, _, err := ParseRecipient(r)
			if err != nil { // MakePlan gives no such plan
				probs.add(fleet.CodeKey, "", "a recipient of %s (for %s) cannot be used: %v", item.Path, list(item.Hosts), err)
			}
			parsed[r] = recipient
		}
	}
	return parsed, probs.err("the secrets cannot be re-keyed")
}

type job struct {
	item  Rekeyed
	plain plaintext
}

// sealers encrypt on all processors.
type sealers struct {
	recipients map[string]age.Recipient
	jobs       chan job
	wg         sync.WaitGroup

	mu    sync.Mutex
	done  map[string][]byte
	probs problems
}

func startSealers(recipients map[string]age.Recipient) *sealers {
	s := &sealers{recipients: recipients, jobs: make(chan job), done: make(map[string][]byte)}
	for range runtime.GOMAXPROCS(0) {
		s.wg.Go(func() {
			for j := range s.jobs {
				s.seal(j)
			}
		})
	}
	return s
}

// finish waits for the work handed out and returns all of it, or what went wrong: err if there is one.
func (s *sealers) finish(err error) (map[string][]byte, error) {
	close(s.jobs)
	s.wg.Wait()
	if err != nil {
		return nil, err
	}
	slices.SortFunc(s.probs, func(a, b *fleet.Error) int { return strings.Compare(a.What, b.What) })
	if err := s.probs.err("the secrets cannot be re-keyed"); err != nil {
		return nil, err
	}
	return s.done, nil
}

func (s *sealers) fail(problem *fleet.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.probs = append(s.probs, problem)
}

// seal encrypts one file and verifies the result.
func (s *sealers) seal(j job) {
	var to []age.Recipient
	for _, r := range j.item.Recipients {
		to = append(to, s.recipients[r])
	}
	var file []byte
	var err error
	if j.plain.sops != nil {
		file, err = sealSops(j.plain.sops, j.item.Recipients, to)
	} else {
		file, err = seal(j.plain, to)
	}
	j.plain.wipe()
	if err == nil {
		err = CheckStanzas(file, j.item.Recipients)
	}
	if err != nil {
		s.fail(fleet.Errorf(fleet.Bad, fleet.CodeSecret, "%s cannot be encrypted for %s: %v", j.item.Path, list(j.item.Hosts), err))
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[j.item.Path] = file
}
