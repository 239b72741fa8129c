package comin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/garrison-nix/garrison/internal/fleet"
)

const (
	// MaxBytes bounds a configuration.
	MaxBytes = 1 << 20
	maxDepth = 20
)

// tree is a configuration as it was written: key by key, in order, each with where it stands.
type tree struct {
	keys   []string
	values map[string]value
}

// value is a string, int, bool, nil, []value or tree; or unknown.
type value struct {
	v     any
	where string // "remotes[0].url"
}

// unknown stands for a value that could not be evaluated; it says why.
type unknown string

func bad(name, format string, args ...any) error {
	return fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%s: %s", name, fmt.Sprintf(format, args...))
}

// readYAML reads the file that comin's NixOS module makes. name stands for it in errors.
func readYAML(name string, data []byte) (tree, error) {
	if len(data) > MaxBytes {
		return tree{}, bad(name, "it has more than %d bytes", MaxBytes)
	}
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, more yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return tree{}, bad(name, "it is empty")
	} else if err != nil {
		return tree{}, bad(name, "it is not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		return tree{}, bad(name, "it holds more than one document")
	}
	v, err := fromYAML(doc.Content[0], "", 0)
	if err != nil {
		return tree{}, bad(name, "%v", err)
	}
	t, ok := v.v.(tree)
	if !ok {
		return t, bad(name, "it is not comin's configuration: keys are wanted at the top")
	}
	return t, nil
}

func fromYAML(n *yaml.Node, where string, depth int) (value, error) {
	fail := func(what string) (value, error) {
		return value{}, fmt.Errorf("line %d: %s", n.Line, what)
	}
	if depth > maxDepth {
		return fail("it is nested too deeply")
	}
	switch n.Kind {
	case yaml.MappingNode:
		t := tree{values: map[string]value{}}
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			if k.Kind != yaml.ScalarNode {
				return fail("a key is not a word")
			}
			if _, twice := t.values[k.Value]; twice {
				return value{}, fmt.Errorf("line %d: %q stands there twice", k.Line, k.Value)
			}
			v, err := fromYAML(n.Content[i+1], join(where, k.Value), depth+1)
			if err != nil {
				return v, err
			}
			t.add(k.Value, v)
		}
		return value{t, where}, nil
	case yaml.SequenceNode:
		var list []value
		for i, c := range n.Content {
			v, err := fromYAML(c, fmt.Sprintf("%s[%d]", where, i), depth+1)
			if err != nil {
				return v, err
			}
			list = append(list, v)
		}
		return value{list, where}, nil
	case yaml.ScalarNode:
		switch n.Tag {
		case "!!null":
			return value{nil, where}, nil
		case "!!bool":
			return value{strings.EqualFold(n.Value, "true"), where}, nil
		case "!!int":
			i, err := strconv.Atoi(n.Value)
			if err != nil {
				return fail(fmt.Sprintf("%q is not a number that can be used", n.Value))
			}
			return value{i, where}, nil
		}
		return value{n.Value, where}, nil
	}
	return fail("anchors and aliases are not read")
}

// readJSON reads what nix made of services.comin. An object {"unknown": "why"} stands for what it could not evaluate.
func readJSON(name string, data []byte) (tree, error) {
	if len(data) > MaxBytes {
		return tree{}, bad(name, "it evaluates to more than %d bytes", MaxBytes)
	}
	var any map[string]any
	d := json.NewDecoder(strings.NewReader(string(data)))
	d.UseNumber()
	if err := d.Decode(&any); err != nil {
		return tree{}, bad(name, "services.comin is not a set of options: %v", err)
	}
	switch v := fromJSON(any, "").v.(type) {
	case tree:
		return v, nil
	case unknown:
		return tree{}, fleet.Errorf(fleet.Local, fleet.CodeInvalid, "%s: services.comin cannot be evaluated: %s", name, v).
			WithHint("give the YAML file that comin runs with: systemctl cat comin names it")
	}
	return tree{}, bad(name, "services.comin is not a set of options")
}

func fromJSON(x any, where string) value {
	switch x := x.(type) {
	case map[string]any:
		if why, ok := x["unknown"].(string); ok && len(x) == 1 {
			return value{unknown(why), where}
		}
		t := tree{values: map[string]value{}}
		for _, k := range sorted(x) {
			t.add(k, fromJSON(x[k], join(where, k)))
		}
		return value{t, where}
	case []any:
		list := []value{}
		for i, e := range x {
			list = append(list, fromJSON(e, fmt.Sprintf("%s[%d]", where, i)))
		}
		return value{list, where}
	case json.Number:
		if i, err := strconv.Atoi(x.String()); err == nil {
			return value{i, where}
		}
		return value{x.String(), where}
	}
	return value{x, where}
}

func sorted(m map[string]any) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (t *tree) add(key string, v value) {
	t.keys = append(t.keys, key)
	t.values[key] = v
}

func join(where, key string) string {
	if where == "" {
		return key
	}
	return where + "." + key
}
