package secret

import (
	"context"
	"fmt"
	"iter"

	"filippo.io/age"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// Question is one that an operator has about a fleet's secrets.
type Question string

// The questions.
const (
	HostsReadTheirs Question = "hosts can decrypt their secrets in the release"
	HostsNotOthers  Question = "hosts cannot decrypt others' secrets in the release"
	HostsNotSource  Question = "hosts cannot decrypt secrets on the source branch"
	EditorsRead     Question = "editors can decrypt secrets on the source branch"
	// HostsNotSourceRules stands in the place of HostsNotSource where agenix's rules say for whom files on the source branch are.
	HostsNotSourceRules Question = "hosts cannot decrypt secrets on the source branch, but for those whose rules name them"
	NoPlaintext         Question = "no secret is in the history unencrypted"
)

// Verdict is an answer.
type Verdict string

// The verdicts. What cannot be told is never yes.
const (
	Yes     Verdict = "yes"
	No      Verdict = "no"
	Unknown Verdict = "unknown"
)

// Answer is a verdict and what it rests on.
type Answer struct {
	Question  Question `json:"question"`
	Verdict   Verdict  `json:"verdict"`
	Reasons   []string `json:"reasons"`   // what is wrong or cannot be told; each names its path and host
	Decrypted int      `json:"decrypted"` // how many pairs of file and reader were tried with the private key
	Headers   int      `json:"headers"`   // how many were told by the files' headers alone
}

// VerifyInput is what Verify looks at.
type VerifyInput struct {
	Files    []Want              // who declares what in the release
	Source   map[string]string   // path → blob on the source branch
	Released map[string]string   // path → blob in the release's tree
	Records  *fleet.Secrets      // what the release says of itself; nil if it says nothing
	HostKeys map[string][]string // host → public keys, also of hosts that declare nothing
	Editors  []string            // public keys
	Rules    *Rules              // agenix's, nil if there are none: where there are no Editors, they say for whom files on the source branch are

	Read func(blob string) ([]byte, error)

	// Private keys, where they are at hand: with them files are decrypted in truth, without them
	// their headers tell.
	HostIdentities   map[string][]age.Identity
	EditorIdentities []age.Identity

	History iter.Seq2[Revision, error] // nil: the last question is not answered
}

// Verify answers the five questions, in their order. Its error is one of reading, of the input, or the end of ctx; what is wrong with
// the secrets stands in the answers.
func Verify(ctx context.Context, in VerifyInput) ([]Answer, error) {
	v, err := newVerifier(in)
	if err != nil {
		return nil, err
	}
	return v.answers(ctx, v.hostsReadTheirs, v.hostsNotOthers, v.hostsNotSource, v.editorsRead, v.noPlaintext)
}

// VerifyReleased answers the first two questions only: those about what is released. It needs no Source, Editors and History.
func VerifyReleased(ctx context.Context, in VerifyInput) ([]Answer, error) {
	v, err := newVerifier(in)
	if err != nil {
		return nil, err
	}
	return v.answers(ctx, v.hostsReadTheirs, v.hostsNotOthers)
}

func newVerifier(in VerifyInput) (*verifier, error) {
	wants, probs := mergeWants(in.Files)
	if err := probs.err("what hosts declare cannot be used"); err != nil {
		return nil, err
	}
	v := &verifier{in: in, wants: wants, hosts: sortedKeys(in.HostKeys), keys: map[string][]string{}, cache: map[string]*looked{}, converted: map[string]sopsKey{}, mine: map[string]bool{}}
	for h, keys := range in.HostKeys {
		for _, k := range keys {
			v.keys[h] = append(v.keys[h], nameOf(k))
		}
	}
	declared := map[string]bool{}
	for _, w := range wants {
		v.hosts = append(v.hosts, w.Hosts...)
		declared[w.Path] = true
	}
	v.sources = wants
	for _, path := range in.Rules.paths() {
		if !declared[path] {
			v.sources = append(v.sources, Want{Path: path, Kind: KindAuto.or(path)})
		}
	}
	v.hosts = sortedSet(v.hosts)
	return v, nil
}

func (v *verifier) answers(ctx context.Context, questions ...func(*Answer) error) ([]Answer, error) {
	var answers []Answer
	for _, ask := range questions {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		a := Answer{Verdict: Yes, Reasons: []string{}}
		if err := ask(&a); err != nil {
			return nil, err
		}
		answers = append(answers, a)
	}
	return answers, nil
}

func (a *Answer) no(format string, args ...any) {
	a.Verdict = No
	a.Reasons = append(a.Reasons, fmt.Sprintf(format, args...))
}

func (a *Answer) unknown(format string, args ...any) {
	if a.Verdict == Yes {
		a.Verdict = Unknown
	}
	a.Reasons = append(a.Reasons, fmt.Sprintf(format, args...))
}

type verifier struct {
	in    VerifyInput
	wants []Want
	hosts []string
	cache map[string]*looked // by blob

	keys      map[string][]string // of hosts, normalised
	sources   []Want              // on the source branch: wants, and what only rules name
	converted map[string]sopsKey
	mine      map[string]bool // public key → whether one of EditorIdentities fits it
}

// readers are the normalised keys that a file on the source branch should be for.
func (v *verifier) readers(path string) []string {
	var keys []string
	for _, k := range v.in.Rules.Readers(v.in.Editors, path) {
		keys = append(keys, nameOf(k))
	}
	return keys
}

// byRules says whether rules say for whom files on the source branch are.
func (v *verifier) byRules() bool { return v.in.Rules != nil && len(v.in.Editors) == 0 }
