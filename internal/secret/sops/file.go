package sops

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"

	"filippo.io/age/armor"
)

// MaxBytes bounds a file.
const MaxBytes = 16 << 20

// ErrNotSops says that bytes are not a sops file at all.
var ErrNotSops = errors.New("not a sops file")

// Format is how a file holds its values.
type Format string

// The formats. Binary is one value in JSON.
const (
	YAML   Format = "yaml"
	JSON   Format = "json"
	Dotenv Format = "dotenv"
	INI    Format = "ini"
	Binary Format = "binary"
)

// FormatOf tells the format of a path as sops does: what is none of the others is binary.
func FormatOf(name string) Format {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml":
		return YAML
	case ".json":
		return JSON
	case ".env":
		return Dotenv
	case ".ini":
		return INI
	default:
		return Binary
	}
}

// File is a sops file, read but not decrypted.
type File struct {
	format Format // never Binary: that is JSON
	src    []byte
	meta   metadata
	metaAt []span // where the metadata stand; in each of several YAML documents
	leaves []leaf
}

// Parse reads a sops file. Its format is told by its content. The error is ErrNotSops, or says
// what is wrong; it never repeats values.
func Parse(src []byte) (*File, error) {
	if len(src) > MaxBytes {
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(src), MaxBytes)
	}
	f := &File{format: Sniff(src), src: src}
	var err error
	switch f.format {
	case JSON:
		err = f.parseJSON()
	case YAML:
		err = f.parseYAML()
	case Dotenv:
		err = f.parseDotenv()
	case INI:
		err = f.parseINI()
	default:
		return nil, ErrNotSops
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Sniff tells the format of a sops file by where its metadata stand; it is empty for what is none.
func Sniff(src []byte) Format {
	text := bytes.TrimLeft(src, " \t\r\n\ufeff")
	switch {
	case bytes.HasPrefix(text, []byte("{")):
		if bytes.Contains(text, []byte(`"sops"`)) {
			return JSON
		}
	case lineWith(src, "sops:"):
		return YAML
	case lineWith(src, "sops_mac="):
		return Dotenv
	case lineWith(src, "[sops]"):
		return INI
	}
	return ""
}

// lineWith says whether a line of src begins with text.
func lineWith(src []byte, text string) bool {
	return bytes.HasPrefix(src, []byte(text)) || bytes.Contains(src, []byte("\n"+text))
}

// Entries are the recipients and the data key encrypted for each.
func (f *File) Entries() []Entry { return f.meta.age }

// OtherKeys are the kinds of keys besides age that can decrypt the file: pgp, kms, ….
func (f *File) OtherKeys() []string { return f.meta.others }

// Empty says whether nothing of the file is encrypted.
func (f *File) Empty() bool {
	for _, l := range f.leaves {
		if l.secret && !l.comment && l.in != "" {
			return false
		}
	}
	return true
}

// Check says whether every value that the file's rule calls secret looks encrypted, and names
// those that do not.
func (f *File) Check() error {
	var open []string
	for _, l := range f.leaves {
		text, isText := l.in.(string)
		if l.secret && !l.comment && text != "" || l.secret && !isText {
			if _, _, _, _, ok := cut(text); !ok {
				open = append(open, l.name())
			}
		}
	}
	if open != nil {
		return fmt.Errorf("what stands at %s is not encrypted", strings.Join(open, ", "))
	}
	return nil
}

// Has says whether the file has the key, written as sops-nix has it: the names on the way to it,
// with slashes between. A key of a map counts; the empty key is the whole file.
func (f *File) Has(key string) bool {
	if key == "" {
		return true
	}
	for _, l := range f.leaves {
		if full := strings.Join(l.path, "/"); !l.comment && (full == key || strings.HasPrefix(full, key+"/")) {
			return true
		}
	}
	return false
}

// armored says whether an entry holds an age file.
func (e Entry) armored() bool {
	return strings.HasPrefix(strings.TrimSpace(e.Enc), armor.Header)
}
