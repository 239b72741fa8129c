package comin

import (
	"encoding/json"
	"fmt"
	"strings"
)

// lone is the URL of an agent's only remote, if there is nothing else to say of it.
func (a Agent) lone() string {
	if len(a.Remotes) != 1 {
		return ""
	}
	if r := a.Remotes[0]; r.CredentialsFile+r.SSHKeyFile+r.KnownHostsFile == "" {
		return r.URL
	}
	return ""
}

// pairs are the keys of a remote that are set.
func (r Remote) pairs() (pairs [][2]string) {
	for _, p := range [][2]string{{"name", r.Name}, {"url", r.URL}, {"credentialsFile", r.CredentialsFile}, {"sshKeyFile", r.SSHKeyFile}, {"knownHostsFile", r.KnownHostsFile}} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// plain are the options that are strings, in order.
func (a Agent) plain() (pairs [][2]string) {
	poll := ""
	if a.Poll > 0 {
		poll = fmt.Sprintf("%ds", int(a.Poll.Seconds()))
	}
	for _, p := range [][2]string{{"host", a.Host}, {"remote", a.lone()}, {"poll", poll}, {"confirm", a.Confirm}} {
		if p[1] != "" {
			pairs = append(pairs, p)
		}
	}
	return pairs
}

// Explain writes the notes, one a line.
func (p Plan) Explain(prefix string) string {
	var b strings.Builder
	for _, n := range p.Notes {
		// Neither a comment's end nor a terminal's command may come from the file.
		fmt.Fprintf(&b, "%s%-8s %s: %s\n", prefix, n.Kind, oneLine(n.Key), oneLine(n.Text))
	}
	return b.String()
}

func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return ' '
		}
		return r
	}, s)
}

// Nix is a NixOS module with the options that carry over; the notes are its first lines.
func (p Plan) Nix() string {
	var b strings.Builder
	a := p.Agent
	b.WriteString("# Made of a configuration of comin by garrison init --from-comin. What is not in the options below:\n#\n")
	b.WriteString(p.Explain("# "))
	b.WriteString("{\n  services.garrison.agent = {\n    enable = true;\n")
	for _, s := range a.plain() {
		fmt.Fprintf(&b, "    %s = %s;\n", s[0], nixString(s[1]))
	}
	if a.lone() == "" && len(a.Remotes) > 0 {
		b.WriteString("    remotes = [\n")
		for _, r := range a.Remotes {
			b.WriteString("      {")
			for _, s := range r.pairs() {
				fmt.Fprintf(&b, " %s = %s;", s[0], nixString(s[1]))
			}
			b.WriteString(" }\n")
		}
		b.WriteString("    ];\n")
	}
	b.WriteString("    allowedSigners = [ ]; # the release key's public half\n")
	if a.MetricsListen != "" {
		fmt.Fprintf(&b, "    metrics.listen = %s;\n", nixString(a.MetricsListen))
	}
	if len(a.AfterDeploy) > 0 {
		b.WriteString("    afterDeploy = [")
		for _, s := range a.AfterDeploy {
			b.WriteString(" " + nixString(s))
		}
		b.WriteString(" ];\n")
	}
	b.WriteString("  };\n}\n")
	return b.String()
}

// nixString writes s as a string of the Nix language.
func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\x00", "").Replace(s) + `"`
}

// TOML is an agent.toml with what carries over, for a host that is configured without the NixOS module.
func (p Plan) TOML() string {
	var b strings.Builder
	a := p.Agent
	b.WriteString("# Made of a configuration of comin by garrison init --from-comin. What is not in it:\n#\n" + p.Explain("# "))
	for _, s := range a.plain() {
		fmt.Fprintf(&b, "%s = %s\n", s[0], tomlString(s[1]))
	}
	b.WriteString("allowedSigners = \"/etc/garrison/allowed-signers\" # a line: garrison namespaces=\"git\" ssh-ed25519 AAAA…\n")
	if len(a.AfterDeploy) > 0 {
		var words []string
		for _, s := range a.AfterDeploy {
			words = append(words, tomlString(s))
		}
		fmt.Fprintf(&b, "afterDeploy = [%s]\n", strings.Join(words, ", "))
	}
	if a.MetricsListen != "" {
		fmt.Fprintf(&b, "\n[metrics]\nlisten = %s\n", tomlString(a.MetricsListen))
	}
	if a.lone() == "" {
		for _, r := range a.Remotes {
			b.WriteString("\n[[remotes]]\n")
			for _, s := range r.pairs() {
				fmt.Fprintf(&b, "%s = %s\n", s[0], tomlString(s[1]))
			}
		}
	}
	return b.String()
}

// tomlString writes s as a string of TOML: one of JSON is, but for the delete character.
func tomlString(s string) string {
	text, _ := json.Marshal(s) // of a string it does not fail
	return strings.ReplaceAll(string(text), "\x7f", `\u007f`)
}
