package release

import (
	"context"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
	"github.com/garrison-nix/garrison/internal/secret"
)

// HostKey is a host's private key, to see with what the host can decrypt.
type HostKey struct {
	Host       string // "" for the host whose public key it fits
	File       string // where it came from
	Identities []age.Identity
}

// keysOfHosts says which host has which private keys, given the hosts' public keys and names.
func keysOfHosts(keys []HostKey, public map[string][]string, names []string) (map[string][]age.Identity, error) {
	of := map[string][]age.Identity{}
	for _, k := range keys {
		owners := []string{k.Host}
		switch {
		case k.Host == "":
			if owners = secret.OwnersOf(k.Identities, public); owners == nil {
				return nil, fleet.Errorf(fleet.Local, fleet.CodeKey, "%s is the private key of none of the hosts", k.File).
					WithHint("name the host: --verify-with HOST=%s; its public key is another than the flake or %s says", k.File, ConfigPath)
			}
		case !slices.Contains(names, k.Host):
			return nil, fleet.Errorf("", fleet.CodeNoSuchHost, "there is no host %s to verify with %s for", k.Host, k.File).
				WithHint("its nixosConfigurations are: %s", strings.Join(names, ", "))
		}
		for _, host := range owners {
			of[host] = append(of[host], k.Identities...)
		}
	}
	return of, nil
}

// verify decrypts what is about to be published with the hosts' private keys that were given: theirs must open, others' must not.
func (s *state) verify(ctx context.Context, in secret.Input, names []string) error {
	keys := s.only(s.VerifyWith, in)
	if len(keys) == 0 {
		return nil
	}
	identities, err := keysOfHosts(keys, in.HostKeys, names)
	if err != nil {
		return err
	}
	released := map[string]string{}
	var ids []string
	for path, r := range s.secrets.Files {
		released[path] = r.Released
		ids = append(ids, r.Released)
	}
	blobs, err := s.Repo.ReadBlobs(ctx, ids)
	if err != nil {
		return err
	}
	answers, err := secret.VerifyReleased(ctx, secret.VerifyInput{
		Files: in.Files, Released: released, Records: &s.secrets, HostKeys: in.HostKeys, HostIdentities: identities, Read: s.readFrom(blobs),
	})
	if err != nil {
		return err
	}
	var wrong []string
	tried := 0
	for _, a := range answers {
		wrong = append(wrong, a.Reasons...)
		tried += a.Decrypted
	}
	if wrong != nil {
		return fleet.Errorf(fleet.Bad, fleet.CodeSecret, "what was re-keyed is not what hosts need: %s", strings.Join(wrong, "; ")).
			WithHint("compare the public keys of these hosts with the private ones given (garrison secrets scan-host reads them from a host)")
	}
	s.Log.Info("verified by decrypting", "tried", tried)
	return nil
}

// readFrom reads blobs that were read already.
func (s *state) readFrom(blobs map[string][]byte) func(string) ([]byte, error) {
	return func(blob string) ([]byte, error) {
		if data, ok := blobs[blob]; ok {
			return data, nil
		}
		return nil, fleet.Errorf(fleet.Local, fleet.CodeGit, "the blob %s is missing in %s", blob, s.Repo.Dir)
	}
}
