package sops

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Entry is a data key encrypted for one recipient.
type Entry struct {
	Recipient string `json:"recipient" yaml:"recipient"` // as the file names it
	Enc       string `json:"enc" yaml:"enc"`             // an armored age file
}

// metadata is what a file says of itself under the key sops.
type metadata struct {
	age          []Entry
	others       []string // kinds of keys besides age
	groups       bool     // the data key is split among groups of keys
	rule         Rule
	macEncrypted bool // only encrypted values count for the MAC
	modified     string
	mac          string
	version      string
}

// stored is metadata as YAML and JSON hold it.
type stored struct {
	Threshold    int     `json:"shamir_threshold" yaml:"shamir_threshold"`
	Groups       []any   `json:"key_groups" yaml:"key_groups"`
	KMS          []any   `json:"kms" yaml:"kms"`
	GCP          []any   `json:"gcp_kms" yaml:"gcp_kms"`
	HC           []any   `json:"hckms" yaml:"hckms"`
	Azure        []any   `json:"azure_kv" yaml:"azure_kv"`
	Vault        []any   `json:"hc_vault" yaml:"hc_vault"`
	PGP          []any   `json:"pgp" yaml:"pgp"`
	Age          []Entry `json:"age" yaml:"age"`
	Modified     string  `json:"lastmodified" yaml:"lastmodified"`
	MAC          string  `json:"mac" yaml:"mac"`
	MACEncrypted bool    `json:"mac_only_encrypted" yaml:"mac_only_encrypted"`
	Version      string  `json:"version" yaml:"version"`

	UnencryptedSuffix  string `json:"unencrypted_suffix" yaml:"unencrypted_suffix"`
	EncryptedSuffix    string `json:"encrypted_suffix" yaml:"encrypted_suffix"`
	UnencryptedRegex   string `json:"unencrypted_regex" yaml:"unencrypted_regex"`
	EncryptedRegex     string `json:"encrypted_regex" yaml:"encrypted_regex"`
	UnencryptedComment string `json:"unencrypted_comment_regex" yaml:"unencrypted_comment_regex"`
	EncryptedComment   string `json:"encrypted_comment_regex" yaml:"encrypted_comment_regex"`
}

func (s stored) metadata() (metadata, error) {
	m := metadata{age: s.Age, macEncrypted: s.MACEncrypted, modified: s.Modified, mac: s.MAC, version: s.Version, groups: len(s.Groups) > 0}
	for kind, keys := range map[string][]any{"kms": s.KMS, "gcp_kms": s.GCP, "hckms": s.HC, "azure_kv": s.Azure, "hc_vault": s.Vault, "pgp": s.PGP} {
		if len(keys) > 0 {
			m.others = append(m.others, kind)
		}
	}
	slices.Sort(m.others)
	for i, text := range []string{s.UnencryptedSuffix, s.EncryptedSuffix, s.UnencryptedRegex, s.EncryptedRegex, s.UnencryptedComment, s.EncryptedComment} {
		if err := m.setRule(ruleNames[i], text); err != nil {
			return m, err
		}
	}
	return m, m.check()
}

func (m *metadata) setRule(name, text string) error {
	if text == "" {
		return nil
	}
	if m.rule != (Rule{}) {
		return fmt.Errorf("its metadata have both %s and %s", m.rule.Name, name)
	}
	m.rule = Rule{name, text}
	return nil
}

// check holds what every file must have.
func (m *metadata) check() error {
	if _, err := m.rule.matcher(); err != nil {
		return fmt.Errorf("its metadata are damaged: %w", err)
	}
	if _, err := time.Parse(time.RFC3339, m.modified); err != nil {
		return errors.New("its metadata are damaged: lastmodified is not a time")
	}
	if m.mac == "" {
		return errors.New("its metadata have no mac")
	}
	if m.groups {
		return errors.New("its data key is split among groups of keys (key_groups), which is not supported; re-create it with one group")
	}
	if len(m.age) == 0 && len(m.others) == 0 {
		return errors.New("its metadata name no key at all")
	}
	return nil
}

// macPlace is the additional data of the MAC.
func (m *metadata) macPlace() string {
	t, _ := time.Parse(time.RFC3339, m.modified) // check was happy with it
	return t.Format(time.RFC3339)
}

// field is an entry of the metadata as files hold it: text, a bool or []Entry.
type field struct {
	name  string
	value any
}

// fields are those that are written, in the order that sops writes them.
func (m *metadata) fields() []field {
	f := []field{{"age", m.age}, {"lastmodified", m.modified}, {"mac", m.mac}, {"version", m.version}}
	if m.macEncrypted {
		f = append(f, field{"mac_only_encrypted", true})
	}
	if m.rule != (Rule{}) {
		f = append(f, field{m.rule.Name, m.rule.Text})
	}
	slices.SortFunc(f, func(a, b field) int { return cmp.Compare(a.name, b.name) })
	return f
}

// flat are the fields as formats without structure hold them: lists and maps are spelled out in the
// names, and newlines are \n.
func (m *metadata) flat() [][2]string {
	var out [][2]string
	for _, f := range m.fields() {
		switch v := f.value.(type) {
		case []Entry:
			for i, e := range v {
				name := fmt.Sprintf("%s__list_%d__map_", f.name, i)
				out = append(out, [2]string{name + "enc", strings.ReplaceAll(e.Enc, "\n", `\n`)}, [2]string{name + "recipient", e.Recipient})
			}
		default:
			out = append(out, [2]string{f.name, fmt.Sprint(v)})
		}
	}
	return out
}

// unflatten reads what flat writes.
func unflatten(flat [][2]string) (metadata, error) {
	var m metadata
	entries := make(map[string]*Entry)
	var order []string
	for _, f := range flat {
		name, text := f[0], strings.ReplaceAll(f[1], `\n`, "\n")
		kind, rest, inList := strings.Cut(name, "__list_")
		if inList {
			index, part, _ := strings.Cut(rest, "__map_")
			switch {
			case kind == "key_groups":
				m.groups = true
			case kind != "age" && !slices.Contains(m.others, kind):
				m.others = append(m.others, kind)
			case kind == "age":
				if entries[index] == nil {
					entries[index] = new(Entry)
					order = append(order, index)
				}
				switch part {
				case "enc":
					entries[index].Enc = text
				case "recipient":
					entries[index].Recipient = text
				}
			}
			continue
		}
		if err := m.setFlat(name, text); err != nil {
			return m, err
		}
	}
	for _, i := range order {
		m.age = append(m.age, *entries[i])
	}
	slices.Sort(m.others)
	return m, m.check()
}

func (m *metadata) setFlat(name, text string) error {
	switch name {
	case "lastmodified":
		m.modified = text
	case "mac":
		m.mac = text
	case "version":
		m.version = text
	case "mac_only_encrypted":
		m.macEncrypted = strings.EqualFold(text, "true") || text == "1"
	default:
		if slices.Contains(ruleNames, name) {
			return m.setRule(name, text)
		}
	}
	return nil
}
