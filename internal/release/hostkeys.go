package release

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// DeclaredHostKeys are a host's public keys as the flake of a commit says. It evaluates that host alone. Of o it needs Repo, Source (the commit) and Nix.
func DeclaredHostKeys(ctx context.Context, o Options, host string) ([]string, error) {
	_, found, err := look(ctx, o, host)
	if err != nil {
		return nil, err
	}
	return found.hosts[0].HostKeys, nil
}

// hostKeysHeader is how the table begins that SetHostKeys writes into.
var hostKeysHeader = regexp.MustCompile(`(?m)^[ \t]*\[[ \t]*secrets[ \t]*\.[ \t]*hostKeys[ \t]*\][ \t]*(#.*)?\r?$`)

// nextHeader is where another table begins.
var nextHeader = regexp.MustCompile(`(?m)^[ \t]*\[[ \t]*[A-Za-z"'\[]`)

// HostKeysLine is what to write below [secrets.hostKeys] in garrison.toml.
func HostKeysLine(host string, keys []string) string {
	return fmt.Sprintf("%s = %s", tomlKey(host), tomlKeys(keys))
}

// SetHostKeys writes secrets.hostKeys.<host> into the text of a garrison.toml and leaves every other byte as it is. It refuses
// (CodeConfig) when the file has the table in a form that it does not know how to write into.
func SetHostKeys(name string, data []byte, host string, keys []string) ([]byte, error) {
	before, err := ParseConfig(name, data)
	if err != nil {
		return nil, err
	}
	edited := setHostKeys(data, host, keys)
	after, err := ParseConfig(name, edited)
	if err == nil {
		want := map[string]any{host: tomlValue(keys)}
		for h, v := range before.Secrets.HostKeys {
			if h != host {
				want[h] = v
			}
		}
		before.Secrets.HostKeys = want
	}
	if err != nil || !reflect.DeepEqual(before, after) {
		return nil, fleet.Errorf(fleet.Local, fleet.CodeConfig, "%s has its secrets.hostKeys in a form that cannot be edited here; nothing was changed", name).
			WithHint("put it in by hand: [secrets.hostKeys] %s", HostKeysLine(host, keys))
	}
	return edited, nil
}

// setHostKeys edits the text. Whether it means what it should is seen when it is parsed.
func setHostKeys(data []byte, host string, keys []string) []byte {
	eol := "\n"
	if bytes.Contains(data, []byte("\r\n")) {
		eol = "\r\n"
	}
	line := HostKeysLine(host, keys)
	header := hostKeysHeader.FindIndex(data)
	if header == nil {
		var gap string
		if len(data) > 0 {
			gap = eol
			if data[len(data)-1] != '\n' {
				gap += eol
			}
		}
		return slices.Concat(data, []byte(gap+"[secrets.hostKeys]"+eol+line+eol))
	}
	end := len(data)
	if next := nextHeader.FindIndex(data[header[1]:]); next != nil {
		end = header[1] + next[0]
	}
	entry := regexp.MustCompile(`(?m)^[ \t]*["']?` + regexp.QuoteMeta(host) + `["']?[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*'|\[[^\]]*\])`)
	if at := entry.FindSubmatchIndex(data[header[1]:end]); at != nil {
		from, to := header[1]+at[2], header[1]+at[3]
		return slices.Concat(data[:from], []byte(tomlKeys(keys)), data[to:])
	}
	if at := header[1] + 1; at <= len(data) { // behind the end of the header's line
		return slices.Concat(data[:at], []byte(line+eol), data[at:])
	}
	return slices.Concat(data, []byte(eol+line+eol))
}

var bareKey = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

func tomlKey(host string) string {
	if bareKey.MatchString(host) {
		return host
	}
	return fmt.Sprintf("%q", host)
}

// tomlKeys writes one key as a string, several as a list. Public keys have nothing in them that TOML would escape.
func tomlKeys(keys []string) string {
	if len(keys) == 1 {
		return fmt.Sprintf("%q", keys[0])
	}
	quoted := make([]string, len(keys))
	for i, k := range keys {
		quoted[i] = fmt.Sprintf("%q", k)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// tomlValue is what tomlKeys is read as.
func tomlValue(keys []string) any {
	if len(keys) == 1 {
		return keys[0]
	}
	list := make([]any, len(keys))
	for i, k := range keys {
		list[i] = k
	}
	return list
}
