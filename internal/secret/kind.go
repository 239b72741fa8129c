package secret

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/secret/sops"
)

// Kind is the program whose files a secret is in the form of.
type Kind string

// The kinds. age is what agenix, agenix-rekey and ragenix use; sops is what sops-nix uses.
const (
	KindAuto Kind = ""
	KindAge  Kind = "age"
	KindSops Kind = "sops"
)

func (k Kind) valid() bool { return k == KindAuto || k == KindAge || k == KindSops }

// sopsExtensions are those of formats that sops knows. A binary sops file may have any other, and needs
// KindSops said.
var sopsExtensions = []string{".yaml", ".yml", ".json", ".env", ".ini", ".sops"}

// or is k, or what the path of the file tells.
func (k Kind) or(file string) Kind {
	switch {
	case k != KindAuto:
		return k
	case slices.Contains(sopsExtensions, strings.ToLower(path.Ext(file))):
		return KindSops
	default:
		return KindAge
	}
}

// KindOf tells the kind of a file by its content; KindAuto if it is neither.
func KindOf(file []byte) Kind {
	if _, _, err := dearmor(bytes.NewReader(file)); err == nil {
		return KindAge
	}
	if sops.Sniff(file) != "" {
		return KindSops
	}
	return KindAuto
}
