package nar

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// PathInfo describes a store path, as `nix path-info --json` does.
type PathInfo struct {
	StorePath  string   // full path
	NarHash    Hash     // of the uncompressed archive
	NarSize    int64    // bytes of the uncompressed archive
	References []string // full paths, any order; may include StorePath itself
	Deriver    string   // full path of a .drv, or ""
	CA         string   // content address, or "" for what was built or is trusted by signature
	Sigs       []string // "key name:base64"
}

// Validate checks what every reader of a PathInfo relies on: well-formed paths
// of one store, a hash, a size, no reference twice.
func (p *PathInfo) Validate() error {
	dir, _, _, err := SplitStorePath(p.StorePath)
	if err != nil {
		return err
	}
	if p.NarHash.IsZero() {
		return fmt.Errorf("%s has no NarHash", p.StorePath)
	}
	if p.NarSize <= 0 {
		return fmt.Errorf("%s has NarSize %d, it must be above 0", p.StorePath, p.NarSize)
	}
	seen := make(map[string]bool, len(p.References))
	for _, r := range p.References {
		rdir, _, _, err := SplitStorePath(r)
		if err != nil {
			return fmt.Errorf("reference of %s: %w", p.StorePath, err)
		}
		if rdir != dir {
			return fmt.Errorf("reference %s of %s is in another store", r, p.StorePath)
		}
		if seen[r] {
			return fmt.Errorf("%s has the reference %s twice", p.StorePath, r)
		}
		seen[r] = true
	}
	return p.validateRest(dir)
}

func (p *PathInfo) validateRest(dir string) error {
	if p.Deriver != "" {
		ddir, _, name, err := SplitStorePath(p.Deriver)
		if err != nil {
			return fmt.Errorf("deriver of %s: %w", p.StorePath, err)
		}
		if ddir != dir || !strings.HasSuffix(name, ".drv") {
			return fmt.Errorf("deriver %s of %s is not a derivation of the same store", p.Deriver, p.StorePath)
		}
	}
	if !oneWord(p.CA) {
		return fmt.Errorf("content address of %s has blanks or unprintable characters", p.StorePath)
	}
	for _, s := range p.Sigs {
		if s == "" || !oneWord(s) {
			return fmt.Errorf("a signature of %s is empty or has blanks or unprintable characters", p.StorePath)
		}
	}
	return nil
}

// oneWord guards the narinfo's lines: what has no blanks and no control
// characters cannot forge another line.
func oneWord(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII || r <= ' ' || r == 0x7f })
}

// Fingerprint is the text that a key signs for a path:
// 1;<storePath>;<NarHash>;<NarSize>;<references, sorted, joined by ",">.
func (p *PathInfo) Fingerprint() []byte {
	refs := slices.Sorted(slices.Values(p.References))
	return []byte("1;" + p.StorePath + ";" + p.NarHash.String() + ";" +
		strconv.FormatInt(p.NarSize, 10) + ";" + strings.Join(refs, ","))
}

// SignedBy returns whether one of p's signatures is valid for one of the keys.
func (p *PathInfo) SignedBy(keys ...PublicKey) bool {
	_, ok := p.Signer(keys...)
	return ok
}

// Signer returns the first of the keys that one of p's signatures is valid for.
func (p *PathInfo) Signer(keys ...PublicKey) (PublicKey, bool) {
	fp := p.Fingerprint()
	for _, k := range keys {
		if slices.ContainsFunc(p.Sigs, func(s string) bool { return k.Verify(fp, s) }) {
			return k, true
		}
	}
	return PublicKey{}, false
}

// sortedBases returns the base names of references, sorted.
func (p *PathInfo) sortedBases() []string {
	bases := make([]string, 0, len(p.References))
	for _, r := range p.References {
		bases = append(bases, path.Base(r))
	}
	slices.Sort(bases)
	return bases
}
