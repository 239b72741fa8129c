package nix

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// maxEvalMessage bounds what is kept of Nix's complaint about one host, in bytes.
const maxEvalMessage = 8 << 10

// Flake is one commit of a flake in a repository on this machine.
type Flake struct {
	GitDir string
	Ref    string // a ref that leads to Commit, full name
	Commit string
}

// URL is the flake reference: locked, hence pure. self.rev is Commit.
func (f Flake) URL() string {
	u := url.URL{Scheme: "git+file", Path: filepath.Clean(f.GitDir), RawQuery: "ref=" + f.Ref + "&rev=" + f.Commit}
	return u.String()
}

// Contents is what a flake holds.
type Contents struct {
	OutPath string   `json:"source"` // an attribute set with an outPath would become a mere string in JSON
	Hosts   []string `json:"hosts"`  // of nixosConfigurations, sorted
	Any     bool     `json:"any"`    // there is a nixosConfigurations at all
}

// Contents lists a flake's hosts, without evaluating any of them.
func (n *Nix) Contents(ctx context.Context, f Flake) (Contents, error) {
	var c Contents
	err := n.eval(ctx, &c, `let f = builtins.getFlake `+quote(f.URL())+`; in {
		source = f.outPath;
		any = f ? nixosConfigurations;
		hosts = builtins.attrNames (f.nixosConfigurations or { });
	}`)
	if err != nil {
		if ctx.Err() != nil {
			return c, err
		}
		return c, fleet.Errorf(classOf(err, fleet.Bad), fleet.CodeEvaluate, "the flake does not evaluate:\n%s", Message(err, maxEvalMessage))
	}
	if !c.Any || len(c.Hosts) == 0 {
		return c, fleet.Errorf(fleet.Bad, fleet.CodeNoHosts, "the flake has no nixosConfigurations").
			WithHint("declare each host in flake.nix as nixosConfigurations.<name>")
	}
	return c, nil
}

// Host is all that one evaluation says of a host.
type Host struct {
	Name      string
	DrvPath   string            `json:"drv"`
	OutPath   string            `json:"out"`
	System    string            `json:"system"`
	Secrets   map[string]string `json:"secrets"`   // name → file, as the flake says (a path in the store)
	PublicKey string            `json:"publicKey"` // age.rekey.hostPubkey, "" when not declared
}

// Host evaluates one host, once, and writes its derivations to the store. What may stand in it:
// config.system.build.toplevel as in NixOS, config.age.secrets as in agenix, config.age.rekey.hostPubkey as in agenix-rekey.
func (n *Nix) Host(ctx context.Context, f Flake, name string) (Host, error) {
	h := Host{Name: name}
	err := n.eval(ctx, &h, `let
		host = (builtins.getFlake `+quote(f.URL())+`).nixosConfigurations.${`+quote(name)+`};
		top = host.config.system.build.toplevel;
		key = host.config.age.rekey.hostPubkey or "";
	in {
		drv = top.drvPath;
		out = top.outPath;
		inherit (top) system;
		secrets = builtins.mapAttrs (_: s: toString s.file) (host.config.age.secrets or { });
		publicKey = if builtins.isPath key then builtins.readFile key else toString key;
	}`)
	if err != nil {
		if ctx.Err() != nil {
			return h, err
		}
		return h, fleet.Errorf(classOf(err, fleet.Bad), fleet.CodeEvaluate, "host %s does not evaluate:\n%s", name, Message(err, maxEvalMessage))
	}
	if !fleet.ValidStorePath(h.OutPath) || !fleet.ValidStorePath(h.DrvPath) {
		return h, fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "host %s: its toplevel is not a derivation in /nix/store (outPath %q)", name, h.OutPath)
	}
	h.PublicKey = strings.TrimSpace(h.PublicKey)
	return h, nil
}

// SecretPath is the path in the repository of a file that an evaluation names: what stands
// behind the flake's own outPath. It is false for a file from anywhere else.
func (c Contents) SecretPath(file string) (string, bool) {
	_, path, ok := strings.Cut(file, c.OutPath+"/")
	return path, ok && path != ""
}

func (n *Nix) eval(ctx context.Context, into any, expr string) error {
	out, err := n.run(ctx, "nix", "eval", "--json", "--no-write-lock-file", "--option", "warn-dirty", "false", "--expr", expr)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("nix eval printed what is not JSON of the form asked for: %w", err)
	}
	return nil
}

// quote writes s as a string of the Nix language. A bare carriage return would be read as a line feed.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "\r", `\r`).Replace(s) + `"`
}
