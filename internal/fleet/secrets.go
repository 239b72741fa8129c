package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// SecretsPath is where a release's tree holds its Secrets.
const SecretsPath = ".garrison/secrets.json"

// SecretsSchema is the schema that this version writes and reads.
const SecretsSchema = 1

// Secrets says of each secret file of a release what it was made of, so that
// a secret whose key (source, recipients, format) is unchanged keeps its bytes.
type Secrets struct {
	Schema int                     `json:"schema"`
	Files  map[string]SecretRecord `json:"files"` // by path in the repository
}

// SecretRecord is one file of Secrets.
type SecretRecord struct {
	Source     string   `json:"source"`     // git blob on the source branch
	Recipients []string `json:"recipients"` // public keys, sorted, without comments
	Format     int      `json:"format"`     // version of how we write it
	Released   string   `json:"released"`   // git blob in the release
}

// SameKey says whether r was made of the same source, recipients and format.
func (r SecretRecord) SameKey(o SecretRecord) bool {
	return r.Source == o.Source && r.Format == o.Format && slices.Equal(r.Recipients, o.Recipients)
}

// Encode writes s so that equal values give equal bytes.
func (s *Secrets) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	return append(b, '\n'), err
}

// ParseSecrets reads what Encode wrote.
func ParseSecrets(b []byte) (*Secrets, error) {
	var s Secrets
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("%s: %w", SecretsPath, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: something follows its JSON", SecretsPath)
	}
	if s.Schema != SecretsSchema {
		return nil, fmt.Errorf("%s has schema %d, this Garrison knows %d", SecretsPath, s.Schema, SecretsSchema)
	}
	return &s, nil
}
