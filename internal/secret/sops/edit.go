package sops

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// formatVersion is the version of sops whose format new files claim: the first that has all of it.
const formatVersion = "3.9.0"

// Plain returns the file decrypted and without metadata, as a person edits it and Encrypt reads it. A binary file's is
// what it stands for. Whoever has it overwrites it.
func (u *Unlocked) Plain(as Format) ([]byte, error) {
	f := u.file
	if as == Binary && f.isBinary() {
		if len(f.leaves) == 0 {
			return nil, nil
		}
		if text, ok := f.leaves[0].in.(string); ok && !f.leaves[0].secret {
			return []byte(text), nil
		}
		return slices.Clone(u.values[0].data), nil
	}
	switch f.format {
	case JSON:
		return u.plainJSON()
	case YAML:
		return u.plainYAML()
	case Dotenv:
		return u.plainDotenv()
	default:
		return nil, errINI
	}
}

func (u *Unlocked) plainJSON() ([]byte, error) {
	r, err := readJSON(u.file.src, u.file.meta.rule)
	if err != nil {
		return nil, err
	}
	edits := []edit{r.without(metaKey)}
	for i, l := range u.file.leaves {
		if !l.secret || l.in == "" {
			continue
		}
		v, err := u.values[i].typed()
		if err != nil {
			return nil, l.err(err)
		}
		edits = append(edits, edit{l.at, jsonText(v, "", "")})
	}
	return apply(u.file.src, edits)
}

func (u *Unlocked) plainDotenv() ([]byte, error) {
	var edits []edit
	for _, at := range u.file.metaAt {
		edits = append(edits, edit{at, ""})
	}
	for i, l := range u.file.leaves {
		if l.secret && l.in != "" {
			edits = append(edits, edit{l.at, strings.ReplaceAll(string(u.values[i].data), "\n", `\n`)})
		}
	}
	return apply(u.file.src, edits)
}

// plainYAML puts the values into the parsed file. It parses it again, because it changes what it works on.
func (u *Unlocked) plainYAML() ([]byte, error) {
	docs, err := yamlDocs(u.file.src)
	if err != nil {
		return nil, err
	}
	leaves, err := readYAML(docs, u.file.meta.rule)
	if err != nil {
		return nil, err
	}
	for i, l := range leaves {
		if !l.secret {
			continue
		}
		text := string(u.values[i].data)
		switch {
		case l.comment:
			*l.field = strings.Replace(*l.field, "#"+l.in.(string), "#"+text, 1)
		case u.values[i].kind == typeComment: // sops makes comments in lists items
			l.node.Tag, l.node.Value = commentTag, text
		default:
			v, err := u.values[i].typed()
			if err == nil {
				err = setNode(l.node, v)
			}
			if err != nil {
				return nil, l.err(err)
			}
		}
	}
	for _, doc := range docs {
		listComments(doc)
		if at := yamlMember(doc, metaKey); at >= 0 {
			root := doc.Content[0]
			if head := root.Content[at].HeadComment; head != "" {
				doc.FootComment = strings.TrimPrefix(doc.FootComment+"\n"+head, "\n")
			}
			root.Content = slices.Delete(root.Content, at, at+2)
		}
	}
	return yamlText(docs...)
}

// commentTag marks items of lists that are comments.
const commentTag = "!garrison-comment"

// listComments makes items that are comments comments of the item that follows.
func listComments(node *yaml.Node) {
	for _, n := range node.Content {
		listComments(n)
	}
	if node.Kind != yaml.SequenceNode {
		return
	}
	var kept []*yaml.Node
	waiting := ""
	for _, n := range node.Content {
		switch {
		case n.Tag == commentTag:
			waiting += "#" + n.Value + "\n"
			continue
		case waiting != "":
			n.HeadComment, waiting = waiting+n.HeadComment, ""
		}
		kept = append(kept, n)
	}
	if waiting != "" && len(kept) > 0 {
		kept[len(kept)-1].FootComment += "\n" + waiting
	}
	node.Content = kept
}

// setNode gives a node a value and leaves its comments.
func setNode(node *yaml.Node, v any) error {
	was := *node
	if t, ok := v.(time.Time); ok {
		*node = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!timestamp", Value: t.Format(time.RFC3339Nano)}
	} else if err := node.Encode(v); err != nil {
		return err
	}
	node.HeadComment, node.LineComment, node.FootComment = was.HeadComment, was.LineComment, was.FootComment
	return nil
}

// Like is the rule of a file that exists, to encrypt a changed version of it by.
type Like struct {
	Rule             Rule
	MACOnlyEncrypted bool
}

// Like returns how f is encrypted.
func (f *File) Like() Like { return Like{f.meta.rule, f.meta.macEncrypted} }

// Encrypt makes a sops file of a plaintext. The result was read back and verified.
func Encrypt(format Format, plain []byte, recipients []Recipient, like Like, now time.Time) ([]byte, error) {
	meta := metadata{rule: like.Rule, macEncrypted: like.MACOnlyEncrypted, modified: now.UTC().Format(time.RFC3339), version: formatVersion}
	if format != Binary && meta.rule == (Rule{}) {
		meta.rule = Rule{ruleUnencryptedSuffix, defaultSuffix} // as sops writes it
	}
	d := draft{meta: &meta, recipients: recipients}
	switch format {
	case JSON:
		return d.json(plain)
	case Binary:
		return d.binary(plain)
	case YAML:
		return d.yaml(plain)
	case Dotenv:
		return d.dotenv(plain)
	default:
		return nil, errINI
	}
}

// draft is a file being made: first with a mark for each value, so that it looks as it will in the end and every
// comment stands where a reader will see it, then with what belongs there.
type draft struct {
	meta       *metadata
	recipients []Recipient
	values     []value // by number of their mark
}

// mark stands for a value. It looks encrypted.
func (d *draft) mark(v value) string {
	if len(v.data) == 0 {
		return ""
	}
	d.values = append(d.values, v)
	return encPrefix + strconv.Itoa(len(d.values)-1) + "]"
}

// binary makes an object of one value. Its bytes never become JSON themselves: they need not be UTF-8.
func (d *draft) binary(plain []byte) ([]byte, error) {
	member := `"data": ` + jsonText(d.mark(value{typeString, slices.Clone(plain)}), "", "")
	meta := d.place(func(m *metadata) string { return jsonMeta(m, "\t") })
	return d.finish([]byte("{\n\t"+member+",\n\t\"sops\": "+meta+"\n}\n"), nil)
}

func (d *draft) json(plain []byte) ([]byte, error) {
	r, err := readJSON(plain, d.meta.rule)
	if err != nil {
		return nil, err
	}
	if _, has := r.top[metaKey]; has {
		return nil, errHasMeta
	}
	if r.last == 0 {
		return nil, errors.New("it has no values")
	}
	edits, err := d.marks(r.w.leaves, func(s string) string { return jsonText(s, "", "") })
	if err != nil {
		return nil, err
	}
	indent, sep := indentOf(plain, r.open), ","
	if indent != "" {
		sep = ",\n" + indent
	}
	member := func(m *metadata) string { return sep + jsonText(metaKey, "", "") + ": " + jsonMeta(m, indent) }
	edits = append(edits, edit{span{r.last, r.last}, d.place(member)})
	return d.finish(plain, edits)
}

func (d *draft) dotenv(plain []byte) ([]byte, error) {
	lines := linesOf(plain)
	for _, l := range lines {
		if strings.HasPrefix(l.text, flatPrefix) {
			return nil, errHasMeta
		}
	}
	leaves, err := readDotenv(lines, d.meta.rule)
	if err != nil {
		return nil, err
	}
	edits, err := d.marks(leaves, func(s string) string { return s })
	if err != nil {
		return nil, err
	}
	end := ""
	if len(plain) > 0 && plain[len(plain)-1] != '\n' {
		end = "\n"
	}
	edits = append(edits, edit{span{len(plain), len(plain)}, end + d.place(dotenvMeta)})
	return d.finish(plain, edits)
}

func (d *draft) yaml(plain []byte) ([]byte, error) {
	docs, err := yamlDocs(plain)
	if err != nil {
		return nil, err
	}
	if len(docs) != 1 {
		return nil, errors.New("it has not one YAML document")
	}
	if yamlMember(docs[0], metaKey) >= 0 {
		return nil, errHasMeta
	}
	docs[0].Content[0].Style &^= yaml.FlowStyle // the metadata go in a line of their own
	leaves, err := readYAML(docs, d.meta.rule)
	if err != nil {
		return nil, err
	}
	for _, l := range leaves {
		if !l.secret {
			continue
		}
		if l.comment {
			*l.field = strings.Replace(*l.field, "#"+l.in.(string), "#"+d.mark(value{typeComment, []byte(l.in.(string))}), 1)
			continue
		}
		v, err := canonical(l.in)
		if err != nil {
			return nil, l.err(err)
		}
		if err := setNode(l.node, d.mark(v)); err != nil {
			return nil, l.err(err)
		}
	}
	text, err := yamlText(docs...)
	if err != nil {
		return nil, err
	}
	var failed error
	member := d.place(func(m *metadata) string {
		text, err := yamlMeta(m)
		failed = errors.Join(failed, err)
		return text
	})
	if failed != nil {
		return nil, failed
	}
	return d.finish(append(text, member...), nil)
}

var errHasMeta = fmt.Errorf("it has a key %q, where sops keeps its metadata", metaKey)

// marks puts marks in the place of secret values. quote writes text as the format has it.
func (d *draft) marks(leaves []leaf, quote func(string) string) ([]edit, error) {
	var edits []edit
	for i := range leaves {
		l := &leaves[i]
		if !l.secret {
			continue
		}
		v, err := canonical(l.in)
		if err != nil {
			return nil, l.err(err)
		}
		if l.comment {
			v.kind = typeComment
		}
		edits = append(edits, edit{l.at, quote(d.mark(v))})
	}
	return edits, nil
}

// place is the metadata of the draft: complete but for what is not known yet.
func (d *draft) place(write func(*metadata) string) string {
	m := *d.meta
	m.mac, m.age = "-", []Entry{{Recipient: "-", Enc: "-"}}
	return write(&m)
}

// finish reads the draft as everybody will, and encrypts what it finds marks for.
func (d *draft) finish(plain []byte, edits []edit) ([]byte, error) {
	text, err := apply(plain, edits)
	if err != nil {
		return nil, err
	}
	f, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errWritten, err)
	}
	u := &Unlocked{f, make([]value, len(f.leaves))}
	defer u.Wipe()
	for i, l := range f.leaves {
		if !l.secret {
			continue
		}
		text, _ := l.in.(string)
		if text == "" {
			u.values[i] = value{kind: typeString}
			continue
		}
		n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(text, encPrefix), "]"))
		if err != nil || n < 0 || n >= len(d.values) || l.at == (span{}) && f.format == YAML {
			return nil, errWritten
		}
		u.values[i] = d.values[n]
	}
	if len(d.values) != bytes.Count(text, []byte(encPrefix)) {
		return nil, errWritten // a mark where no reader looks, or a value that looks like one
	}
	return u.Rekey(d.recipients)
}
