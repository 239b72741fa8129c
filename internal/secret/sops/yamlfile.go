package sops

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// yamlIndent is how sops indents.
const yamlIndent = 4

var errYAML = errors.New("it is not well-formed YAML")

// parseYAML reads one or several documents; the metadata of the first count. sops uses the same library,
// so comments belong to the same places.
func (f *File) parseYAML() error {
	docs, err := yamlDocs(f.src)
	if err != nil {
		return err
	}
	for i, doc := range docs {
		at := yamlMember(doc, metaKey)
		if at < 0 {
			if i == 0 {
				return ErrNotSops
			}
			continue
		}
		root := doc.Content[0]
		f.metaAt = append(f.metaAt, yamlBlock(f.src, root.Content[at].Line))
		if i == 0 {
			var s stored
			if err := root.Content[at+1].Decode(&s); err != nil {
				return errors.New("its metadata are damaged")
			}
			if f.meta, err = s.metadata(); err != nil {
				return err
			}
		}
	}
	if f.leaves, err = readYAML(docs, f.meta.rule); err != nil {
		return err
	}
	f.locate()
	return nil
}

// yamlDocs parses src. Each document has a map, or nothing.
func yamlDocs(src []byte) ([]*yaml.Node, error) {
	var docs []*yaml.Node
	for d := yaml.NewDecoder(bytes.NewReader(src)); ; {
		var doc yaml.Node
		err := d.Decode(&doc)
		if err == io.EOF {
			return docs, nil
		}
		if err != nil {
			return nil, errYAML // the library's errors may quote
		}
		if len(doc.Content) != 1 {
			return nil, errYAML
		}
		if root := doc.Content[0]; root.Kind != yaml.MappingNode && root.ShortTag() != "!!null" {
			return nil, errors.New("a YAML document of it is not a map")
		}
		docs = append(docs, &doc)
	}
}

// yamlMember is where a key of the outermost map stands in its content; -1 if nowhere.
func yamlMember(doc *yaml.Node, key string) int {
	root := doc.Content[0]
	if root.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(root.Content); i += 2 {
			if root.Content[i].Value == key {
				return i
			}
		}
	}
	return -1
}

// yamlBlock is the text of a member of the outermost map: its line, and those indented below it.
func yamlBlock(src []byte, number int) span {
	at := span{-1, -1}
	for i, l := range linesOf(src) {
		switch {
		case i+1 == number:
			at = l.at
		case i+1 > number && (strings.TrimSpace(l.text) == "" || l.text[0] == ' '):
			at.to = l.at.to
		case i+1 > number:
			return at
		}
	}
	return at
}

type yamlReader struct{ w *walker }

func readYAML(docs []*yaml.Node, rule Rule) ([]leaf, error) {
	m, err := rule.matcher()
	if err != nil {
		return nil, err
	}
	r := yamlReader{&walker{rule: m}}
	for _, doc := range docs {
		root := doc.Content[0]
		if root.Kind != yaml.MappingNode {
			continue
		}
		r.w.stack = nil
		if err := r.w.enter(nil); err != nil {
			return nil, err
		}
		r.comments(nil, &doc.HeadComment, &doc.LineComment, &root.HeadComment, &root.LineComment)
		if err := r.members(root, nil); err != nil {
			return nil, err
		}
		r.comments(nil, &root.FootComment, &doc.FootComment)
	}
	return r.w.leaves, nil
}

// comments notes each line of the given comments.
func (r yamlReader) comments(path []string, fields ...*string) {
	for _, field := range fields {
		for text := range strings.SplitSeq(*field, "\n") {
			if text = strings.TrimPrefix(strings.TrimLeft(text, " \t"), "#"); text != "" {
				r.w.comment(path, text, leaf{field: field})
			}
		}
	}
}

// members walks over a map. Where comments belong is what sops decides: those of a scalar to
// the map, those of a map or list inside of it.
func (r yamlReader) members(node *yaml.Node, path []string) error {
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" && key.ShortTag() != "!!merge" {
			return fmt.Errorf("a key in %s is not text", placeOf(path))
		}
		if err := unique(seen, path, key.Value); err != nil {
			return err
		}
		r.comments(path, &key.HeadComment, &key.LineComment)
		if len(path) == 0 && key.Value == metaKey { // comments around it are the file's, what is in it is not
			r.comments(path, &key.FootComment)
			continue
		}
		inner := append(path, key.Value)
		if value.Kind == yaml.ScalarNode {
			r.comments(path, &value.HeadComment, &value.LineComment)
			if err := r.scalar(value, inner); err != nil {
				return err
			}
			r.comments(path, &value.FootComment)
		} else if err := r.inside(value, inner, true); err != nil {
			return err
		}
		r.comments(path, &key.FootComment)
	}
	return nil
}

// inside walks over a map or list, with its own comments unless they belong to what it stands in.
func (r yamlReader) inside(node *yaml.Node, path []string, comments bool) error {
	if node.Kind != yaml.MappingNode && node.Kind != yaml.SequenceNode {
		return fmt.Errorf("what stands at %s is an alias; write it out", placeOf(path))
	}
	if err := r.w.enter(path); err != nil {
		return err
	}
	if comments {
		r.comments(path, &node.HeadComment, &node.LineComment)
	}
	if node.Kind == yaml.MappingNode {
		if err := r.members(node, path); err != nil {
			return err
		}
	} else if err := r.items(node, path); err != nil {
		return err
	}
	if comments {
		r.comments(path, &node.FootComment)
	}
	r.w.leave()
	return nil
}

func (r yamlReader) items(node *yaml.Node, path []string) error {
	for _, item := range node.Content {
		r.comments(path, &item.HeadComment, &item.LineComment)
		if item.Kind == yaml.ScalarNode {
			if err := r.scalar(item, path); err != nil {
				return err
			}
		} else if err := r.inside(item, path, false); err != nil {
			return err
		}
		r.comments(path, &item.FootComment)
	}
	return nil
}

func (r yamlReader) scalar(node *yaml.Node, path []string) error {
	var v any
	if err := node.Decode(&v); err != nil {
		return fmt.Errorf("the value at %s does not fit its tag", placeOf(path))
	}
	r.w.value(path, v, leaf{node: node})
	return nil
}

// locate finds encrypted values in the text: no two are equal, for each has a nonce of its own.
// What is there twice, or folded over lines, has no place.
func (f *File) locate() {
	found := make(map[string]span)
	for _, at := range encrypted(f.src) {
		text := string(f.src[at.from:at.to])
		if _, twice := found[text]; twice {
			at = span{}
		}
		found[text] = at
	}
	for i, l := range f.leaves {
		if text, ok := l.in.(string); ok && l.secret {
			f.leaves[i].at = found[text]
		}
	}
}

// encrypted finds everything in src that looks encrypted.
func encrypted(src []byte) []span {
	var all []span
	for pos := 0; ; {
		i := bytes.Index(src[pos:], []byte(encPrefix))
		if i < 0 {
			return all
		}
		from := pos + i
		pos = from + len(encPrefix)
		if n := bytes.IndexAny(src[pos:], "]\n"); n >= 0 && src[pos+n] == ']' {
			all = append(all, span{from, pos + n + 1})
		}
	}
}

// yamlText writes documents as sops does.
func yamlText(docs ...*yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(yamlIndent)
	for _, d := range docs {
		if err := e.Encode(d); err != nil {
			return nil, errYAML
		}
	}
	err := e.Close()
	return out.Bytes(), err
}

// yamlMeta is the metadata as a member of the outermost map.
func yamlMeta(m *metadata) (string, error) {
	inner := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range m.fields() {
		value := new(yaml.Node)
		entries, ok := f.value.([]Entry)
		if !ok {
			if err := value.Encode(f.value); err != nil {
				return "", err
			}
		} else {
			value.Kind = yaml.SequenceNode
			for _, e := range entries {
				value.Content = append(value.Content, yamlMap(yamlString("enc"), yamlString(e.Enc), yamlString("recipient"), yamlString(e.Recipient)))
			}
		}
		inner.Content = append(inner.Content, yamlString(f.name), value)
	}
	text, err := yamlText(yamlMap(yamlString(metaKey), inner))
	return string(text), err
}

func yamlMap(content ...*yaml.Node) *yaml.Node {
	return &yaml.Node{Kind: yaml.MappingNode, Content: content}
}

func yamlString(s string) *yaml.Node {
	n := new(yaml.Node)
	n.SetString(s)
	return n
}
