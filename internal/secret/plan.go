package secret

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Format is the version of how this package writes re-keyed files. A new one makes
// every secret of a fleet be written again; use it only where the old form is wrong.
const Format = 1

// Want is a secret file and the hosts that declare it. Several secrets of one sops file
// are one Want, or several with the same path.
type Want struct {
	Path  string   // in the repository
	Hosts []string // each of them gets to read it
	Kind  Kind     // KindAuto: told by the path
	Keys  []string // of a sops file: what must be in it, as sops.secrets.<name>.key has it
}

// Input is everything that a plan depends on.
type Input struct {
	Files    []Want              // of several with the same path, the hosts are put together
	Blobs    map[string]string   // path → git blob on the source branch; others than of Files are ignored
	HostKeys map[string][]string // host → its public keys; two while a key is being changed
	Rules    *Rules              // who may read what on the source branch; nil if nothing says so
	Previous *fleet.Secrets      // what the previous release recorded; nil if there was none

	// AllowRemoval says of a recipient that would disappear from a file whether that is
	// meant; if not, MakePlan fails. Nil allows every removal. It is not asked about files that are no
	// longer in the source commit: who removes a file means it. See AllowList.
	AllowRemoval func(Drop) bool
}

// Plan says what becomes of each secret file. Equal inputs give equal plans; all
// slices are sorted.
type Plan struct {
	Keep    []Kept    `json:"keep"`
	Rekey   []Rekeyed `json:"rekey"`
	Dropped []Drop    `json:"dropped"`
	Gone    []string  `json:"gone"` // recorded before, declared by no host now
}

// Kept is a file whose released bytes stay, unless they are Damaged: then Plan.Distrust.
type Kept struct {
	Path   string             `json:"path"`
	Hosts  []string           `json:"hosts"`
	Record fleet.SecretRecord `json:"record"`
	Kind   Kind               `json:"kind"`
	Keys   []string           `json:"keys,omitempty"`
}

// Rekeyed is a file to encrypt again.
type Rekeyed struct {
	Path       string   `json:"path"`
	Source     string   `json:"source"`     // git blob on the source branch
	Recipients []string `json:"recipients"` // normalised public keys; of a sops file, age1… only
	Hosts      []string `json:"hosts"`
	Why        Why      `json:"why"`
	Kind       Kind     `json:"kind"`
	Keys       []string `json:"keys,omitempty"` // must be in the file
}

// Why says why a file is encrypted again.
type Why string

// The reasons, the first that holds.
const (
	WhyNew        Why = "new"                // the previous release did not have it
	WhySource     Why = "source changed"     // its blob on the source branch is another
	WhyRecipients Why = "recipients changed" // hosts or their keys are others
	WhyFormat     Why = "format changed"     // another version of Format wrote it
	WhyDamaged    Why = "damaged"            // what was released is lost or not what was recorded
)

// Drop is a recipient that could read a file in the previous release and is not to
// read it any more.
type Drop struct {
	Path      string `json:"path"`
	Recipient string `json:"recipient"`     // normalised public key
	Host      string `json:"host"`          // whose key it is; empty if no host has it now
	NewSource bool   `json:"sourceChanged"` // the file was edited as well, perhaps the value too
}

// String is what to tell an operator.
func (d Drop) String() string {
	who := d.Host
	if who == "" {
		who = short(d.Recipient)
	}
	if d.NewSource {
		return fmt.Sprintf("%s: %s could read it until now; unless this edit changed the value, rotate it", d.Path, who)
	}
	return fmt.Sprintf("%s: rotate this value: %s could read it", d.Path, who)
}

// MakePlan decides for every file of in whether it is kept or re-keyed. It does no
// I/O. Its error is one fleet.Error of class Bad that names all problems found, each
// with its paths and hosts: CodeKey if all of them are about keys, else CodeSecret.
func MakePlan(in Input) (*Plan, error) {
	wants, probs := mergeWants(in.Files)
	keys := parseHostKeys(wants, in.HostKeys, &probs)
	p := &Plan{Keep: []Kept{}, Rekey: []Rekeyed{}, Dropped: []Drop{}, Gone: []string{}} // [], not null, in JSON
	in.Rules.check(wants, keys, in.Blobs, &probs)
	converted := make(map[string]sopsKey)
	for _, w := range wants {
		p.add(w, recipientsOf(w, keys, converted, &probs), in, &probs)
	}
	if err := probs.err("the secrets cannot be re-keyed"); err != nil {
		return nil, err
	}
	p.drop(in, keys)
	if err := p.checkRemovals(in); err != nil {
		return nil, err
	}
	return p, nil
}

// Records is what to record of the planned release, given the blob that each
// re-keyed file has there. A path without a blob is an error.
func (p *Plan) Records(released map[string]string) (*fleet.Secrets, error) {
	s := &fleet.Secrets{Schema: fleet.SecretsSchema, Files: make(map[string]fleet.SecretRecord)}
	for _, k := range p.Keep {
		s.Files[k.Path] = k.Record
	}
	for _, r := range p.Rekey {
		blob := released[r.Path]
		if !fleet.ValidCommit(blob) {
			return nil, fleet.Errorf(fleet.Bad, fleet.CodeInternal, "%s was re-keyed, but %q is not the blob that it has in the release", r.Path, blob)
		}
		s.Files[r.Path] = fleet.SecretRecord{Source: r.Source, Recipients: r.Recipients, Format: Format, Released: blob}
	}
	return s, nil
}

// Distrust moves a kept file to those that are re-keyed, because its released bytes
// are lost or do not fit their record. A path that is not kept is left alone.
func (p *Plan) Distrust(path string) {
	i := slices.IndexFunc(p.Keep, func(k Kept) bool { return k.Path == path })
	if i < 0 {
		return
	}
	k := p.Keep[i]
	p.Keep = slices.Delete(p.Keep, i, i+1)
	p.Rekey = append(p.Rekey, Rekeyed{k.Path, k.Record.Source, k.Record.Recipients, k.Hosts, WhyDamaged, k.Kind, k.Keys})
	slices.SortFunc(p.Rekey, func(a, b Rekeyed) int { return strings.Compare(a.Path, b.Path) })
}

// Unchanged says whether the planned release has the same secrets for the same
// recipients as the previous one.
func (p *Plan) Unchanged() bool { return len(p.Rekey) == 0 && len(p.Gone) == 0 }

// mergeWants sorts files and their hosts and puts equal ones together.
func mergeWants(files []Want) ([]Want, problems) {
	var probs problems
	merged := make(map[string]*Want)
	for _, f := range files {
		if !validPath(f.Path) {
			probs.add(fleet.CodeSecret, "", "%q, declared by %s, is not the path of a file in the repository", f.Path, list(f.Hosts))
			continue
		}
		if !f.Kind.valid() {
			probs.add(fleet.CodeInternal, "", "%s: there is no kind of secret files %q", f.Path, f.Kind)
		}
		w := merged[f.Path]
		if w == nil {
			w = &Want{Path: f.Path}
			merged[f.Path] = w
		}
		if w.Kind != KindAuto && f.Kind != KindAuto && w.Kind != f.Kind {
			probs.add(fleet.CodeSecret, "declare each file with one of the two", "%s, declared by %s, is used as a file of age and of sops",
				f.Path, list(sortedSet(slices.Concat(w.Hosts, f.Hosts))))
		}
		w.Kind = Kind(cmp.Or(string(w.Kind), string(f.Kind)))
		w.Hosts, w.Keys = append(w.Hosts, f.Hosts...), append(w.Keys, f.Keys...)
	}
	var wants []Want
	for _, p := range sortedKeys(merged) {
		w := merged[p]
		wants = append(wants, Want{p, sortedSet(w.Hosts), w.Kind.or(p), sortedSet(w.Keys)})
	}
	return wants, probs
}

func validPath(p string) bool {
	return p != "." && p == path.Clean(p) && !path.IsAbs(p) && p != ".." && !strings.HasPrefix(p, "../") &&
		p != path.Dir(fleet.SecretsPath) && !strings.HasPrefix(p, path.Dir(fleet.SecretsPath)+"/") && !strings.ContainsAny(p, "\n\x00")
}

// parseHostKeys returns the normalised keys of every host that wants says needs
// one, and notes which have none or a bad one.
func parseHostKeys(wants []Want, given map[string][]string, probs *problems) map[string][]string {
	paths := make(map[string][]string) // host → what it declares
	for _, w := range wants {
		for _, h := range w.Hosts {
			paths[h] = append(paths[h], w.Path)
		}
	}
	keys := make(map[string][]string)
	for _, h := range sortedKeys(paths) {
		if len(given[h]) == 0 {
			probs.add(fleet.CodeKey, "declare the public key of each host (its /etc/ssh/ssh_host_ed25519_key.pub) in its configuration or in garrison.toml",
				"host %s has no public key, but declares %s", h, list(paths[h]))
			continue
		}
		for i, k := range given[h] {
			_, normal, err := ParseRecipient(k)
			if err != nil {
				probs.add(fleet.CodeKey, "", "key %d of host %s (which declares %s) cannot be used: %v", i+1, h, list(paths[h]), err)
				continue
			}
			keys[h] = append(keys[h], normal)
		}
	}
	return keys
}

// sopsKey is what sopsName says of a key.
type sopsKey struct {
	name string
	err  error
}

// recipientsOf is the sorted set of the keys of w's hosts. converted remembers keys of sops files: making
// one takes a tenth of what encrypting for it does, and the same hosts come again for every file.
func recipientsOf(w Want, keys map[string][]string, converted map[string]sopsKey, probs *problems) []string {
	var all []string
	for _, h := range w.Hosts {
		for _, k := range keys[h] {
			if w.Kind == KindSops {
				c, done := converted[k]
				if !done {
					c.name, c.err = sopsName(k)
					converted[k] = c
				}
				if k = c.name; c.err != nil {
					probs.add(fleet.CodeKey, "", "%s cannot be encrypted for host %s: %v", w.Path, h, c.err)
					continue
				}
			}
			all = append(all, k)
		}
	}
	if w.Kind == KindSops { // each recipient has a header of its own
		return sortedSet(all)
	}
	if pq := slices.IndexFunc(all, postQuantum); pq >= 0 && !allOf(all, postQuantum) {
		probs.add(fleet.CodeKey, "age refuses to mix them: give either all of these hosts age1pq1… keys or none",
			"%s is for hosts with post-quantum keys and hosts with others: %s", w.Path, list(w.Hosts))
	}
	return sortedSet(all)
}

// add decides about one file.
func (p *Plan) add(w Want, recipients []string, in Input, probs *problems) {
	source, ok := in.Blobs[w.Path]
	switch {
	case len(w.Hosts) == 0:
		probs.add(fleet.CodeSecret, "", "%s is to be re-keyed, but no host declares it", w.Path)
		return
	case !ok:
		probs.add(fleet.CodeSecret, "add it to git, or no longer declare it", "%s, declared by %s, is not in the source commit", w.Path, list(w.Hosts))
		return
	case !fleet.ValidCommit(source):
		probs.add(fleet.CodeInternal, "", "%s: %q is not the name of a git blob", w.Path, source)
		return
	}
	want := fleet.SecretRecord{Source: source, Recipients: recipients, Format: Format}
	was, had := previous(in)[w.Path]
	if why := compare(want, was, had); why != "" {
		p.Rekey = append(p.Rekey, Rekeyed{w.Path, source, recipients, w.Hosts, why, w.Kind, w.Keys})
		return
	}
	p.Keep = append(p.Keep, Kept{w.Path, w.Hosts, was, w.Kind, w.Keys})
}

// compare says why a file recorded as was does not do as want; "" if it does.
func compare(want, was fleet.SecretRecord, had bool) Why {
	switch {
	case !had:
		return WhyNew
	case want.Source != was.Source:
		return WhySource
	case !slices.Equal(want.Recipients, was.Recipients):
		return WhyRecipients
	case want.Format != was.Format:
		return WhyFormat
	case !fleet.ValidCommit(was.Released):
		return WhyDamaged
	default:
		return ""
	}
}

// drop notes who could read what before and is not to any more.
func (p *Plan) drop(in Input, keys map[string][]string) {
	now := make(map[string][]string)
	for _, k := range p.Keep {
		now[k.Path] = k.Record.Recipients
	}
	for _, r := range p.Rekey {
		now[r.Path] = r.Recipients
	}
	for _, path := range sortedKeys(previous(in)) {
		was := previous(in)[path]
		if _, ok := now[path]; !ok {
			p.Gone = append(p.Gone, path)
		}
		source, there := in.Blobs[path]
		for _, r := range sortedSet(was.Recipients) {
			if !slices.Contains(now[path], r) {
				p.Dropped = append(p.Dropped, Drop{Path: path, Recipient: r, NewSource: there && was.Source != source})
			}
		}
	}
	if len(p.Dropped) == 0 {
		return
	}
	owner := owners(in.HostKeys, keys)
	for i := range p.Dropped {
		p.Dropped[i].Host = owner[p.Dropped[i].Recipient]
	}
}

// owners says which host a normalised key belongs to, also for hosts that declare
// no secret now. Of several, the first by name.
func owners(given, parsed map[string][]string) map[string]string {
	of := make(map[string]string)
	for _, h := range sortedKeys(given) {
		normal, done := parsed[h]
		if !done {
			for _, k := range given[h] {
				if _, n, err := ParseRecipient(k); err == nil { // a host without secrets may have a bad key
					normal = append(normal, n)
				}
			}
		}
		for _, k := range normal {
			for _, name := range namesOf(k) {
				if _, taken := of[name]; !taken {
					of[name] = h
				}
			}
		}
	}
	return of
}

func previous(in Input) map[string]fleet.SecretRecord {
	if in.Previous == nil {
		return nil
	}
	return in.Previous.Files
}
