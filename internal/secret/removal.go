package secret

import (
	"fmt"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// AllowList makes an Input.AllowRemoval of garrison.toml's secrets.allowRemoval: names of hosts, and public keys,
// in any form that ParseRecipient reads. An SSH key stands also for the age key that is made of it.
func AllowList(entries []string) func(Drop) bool {
	allowed := make(map[string]bool)
	for _, e := range entries {
		allowed[e] = true
		if _, normal, err := ParseRecipient(e); err == nil {
			for _, name := range namesOf(normal) {
				allowed[name] = true
			}
		}
	}
	return func(d Drop) bool { return allowed[d.Recipient] || d.Host != "" && allowed[d.Host] }
}

// checkRemovals refuses recipients that would disappear without being allowed to. An evaluation
// that came out short reads just like a host that no longer wants its secrets.
func (p *Plan) checkRemovals(in Input) error {
	if in.AllowRemoval == nil {
		return nil
	}
	hosts := make(map[string][]string) // path → who declares it now
	for _, k := range p.Keep {
		hosts[k.Path] = k.Hosts
	}
	for _, r := range p.Rekey {
		hosts[r.Path] = r.Hosts
	}
	paths := make(map[string][]string) // who → what they would lose
	for _, d := range p.Dropped {
		if _, there := in.Blobs[d.Path]; there && !in.AllowRemoval(d) {
			paths[d.who()] = append(paths[d.who()], fmt.Sprintf("%s (now for %s)", d.Path, list(hosts[d.Path])))
		}
	}
	var probs problems
	for _, who := range sortedKeys(paths) {
		probs.add(fleet.CodeSecret, "", "%s would no longer be able to read %s", who, list(paths[who]))
	}
	if probs == nil {
		return nil
	}
	probs[0].Hint = fmt.Sprintf("if that is meant, say so in garrison.toml: secrets.allowRemoval = [%s]", quoted(sortedKeys(paths)))
	return probs.err("recipients would disappear")
}

func quoted(names []string) string {
	out := slices.Clone(names)
	for i, n := range out {
		out[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(out, ", ")
}

// who is the host whose key it is, or the key.
func (d Drop) who() string {
	if d.Host != "" {
		return d.Host
	}
	return d.Recipient
}
