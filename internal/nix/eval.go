package nix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/garrison-nix/garrison/internal/fleet"
)

// maxEvalMessage bounds what is kept of Nix's complaint about one host, in bytes.
const maxEvalMessage = 8 << 10

// Flake is one commit of a flake in a repository on this machine.
type Flake struct {
	GitDir string
	Ref    string // a ref that leads to Commit, full name
	Commit string
	Dir    string // of a sub-flake, relative to the repository's root; "" for the root

	Submodules bool // with the files of submodules
	// LFS is one of the files that git-lfs keeps, if they are to be evaluated with their contents, and LFSHash that one's SHA-256 in hex.
	LFS, LFSHash string
}

// Name is what a person calls the flake: its folder, or "the flake".
func (f Flake) Name() string {
	if f.Dir == "" {
		return "the flake"
	}
	return "the flake in " + f.Dir
}

// URL is the flake reference: locked, hence pure. self.rev is Commit.
func (f Flake) URL() string {
	u := url.URL{Scheme: "git+file", Path: filepath.Clean(f.GitDir), RawQuery: "ref=" + f.Ref + "&rev=" + f.Commit}
	if f.Submodules {
		u.RawQuery += "&submodules=1"
	}
	if f.LFS != "" {
		u.RawQuery += "&lfs=1"
	}
	if f.Dir != "" {
		u.RawQuery += "&dir=" + url.QueryEscape(f.Dir)
	}
	return u.String()
}

// Kind says what a host runs.
type Kind string

// The kinds of hosts.
const (
	NixOS  Kind = "nixos"  // nixosConfigurations
	Darwin Kind = "darwin" // darwinConfigurations: evaluated, never built or deployed here
)

// Contents is what a flake holds.
type Contents struct {
	Source string   `json:"source"` // the store path of the repository's tree
	NixOS  []string `json:"nixos"`  // names of nixosConfigurations, sorted
	Darwin []string `json:"darwin"`
	Checks []string `json:"checks"` // names of checks for the system asked for
	LFS    string   `json:"lfs"`    // SHA-256 of what Nix sees of Flake.LFS
}

// Contents lists a flake's hosts, and its checks for a system, without evaluating any of them.
func (n *Nix) Contents(ctx context.Context, f Flake, system string) (Contents, error) {
	var c Contents
	lfs := `""`
	if f.LFS != "" {
		if n.older(needLFS) {
			return c, n.noLFS(f)
		}
		lfs = `builtins.hashFile "sha256" (f.sourceInfo.outPath + ` + quote("/"+f.LFS) + `)`
	}
	err := n.eval(ctx, &c, `let
		f = builtins.getFlake `+quote(f.URL())+`;
		names = set: builtins.attrNames (f.${set} or { });
	in {
		source = f.sourceInfo.outPath;
		nixos = names "nixosConfigurations";
		darwin = names "darwinConfigurations";
		checks = builtins.attrNames (f.checks.${`+quote(system)+`} or { });
		lfs = `+lfs+`;
	}`)
	if err != nil {
		return c, evalError(ctx, err, "%s does not evaluate", f.Name())
	}
	if c.LFS != f.LFSHash {
		return c, n.noLFS(f)
	}
	return c, nil
}

// needLFS is the first Nix that evaluates what git-lfs keeps.
var needLFS = [2]int{2, 27}

// noLFS is for a Nix that evaluates pointers in place of what git-lfs keeps.
func (n *Nix) noLFS(f Flake) error {
	return fleet.Errorf(fleet.Local, fleet.CodeNixTooOld, "git-lfs keeps %s, and this Nix (%s) would evaluate the pointer in its place", f.LFS, n.Version).
		WithHint("upgrade Nix on this machine to %d.%d or newer", needLFS[0], needLFS[1])
}

// evalError classifies a failed evaluation and takes Nix's complaint along.
func evalError(ctx context.Context, err error, format string, args ...any) error {
	if ctx.Err() != nil || errors.As(err, new(*fleet.Error)) { // nix did not run
		return err
	}
	message := Message(err, maxEvalMessage)
	e := fleet.Errorf(classOf(err, fleet.Bad), fleet.CodeEvaluate, format+":\n%s", append(args, message)...)
	for _, s := range []string{"Out of memory", "out of memory", "std::bad_alloc", "Too many heap sections"} {
		if strings.Contains(message, s) {
			e.Class = fleet.Local
			return e.WithHint("it needs more memory than one evaluation may take: raise --eval-memory, or lower --jobs")
		}
	}
	return e
}

// Host is all that one evaluation says of a host.
type Host struct {
	Name  string `json:"-"`
	Kind  Kind   `json:"-"`
	Flake Flake  `json:"-"`
	// Took is how long its evaluation did; an even share of it for each host that was evaluated in the same process.
	Took     time.Duration `json:"-"`
	DrvPath  string        `json:"drv"`
	OutPath  string        `json:"out"`
	System   string        `json:"system"`
	Secrets  []SecretFile  `json:"secrets"`
	HostKeys []string      `json:"hostKeys"` // services.garrison.hostKeys, else age.rekey.hostPubkey; none when not declared
	// Checks are services.garrison.checks, sorted by name.
	Checks []fleet.HealthCheck `json:"-"`
	Agent  Agent               `json:"agent"`
	Tags   []string            `json:"tags"` // services.garrison.tags
}

// Agent is what Garrison's module says of a host; the zero value where the host does not have it.
type Agent struct {
	Enable  bool   `json:"enable"`
	Rings   bool   `json:"rings"`   // it is of a Garrison that knows rings
	Signers string `json:"signers"` // the text of its allowed-signers file, "" where that is not made by the flake
	Caches  []struct {
		URL       string `json:"url"`
		PublicKey string `json:"publicKey"`
	} `json:"caches"`
}

// SecretFile is a secret that a host declares.
type SecretFile struct {
	Name string `json:"name"` // as the option that declares it: age.secrets.x, sops.secrets.y
	Kind string `json:"kind"` // "age" or "sops"
	File string `json:"file"` // as the flake says: a path in the store
	Key  string `json:"key"`  // within a sops file; "" means all of it
}

// Host evaluates one host, as Hosts does.
func (n *Nix) Host(ctx context.Context, f Flake, kind Kind, name string) (Host, error) {
	one := []Host{{Name: name, Kind: kind, Flake: f}}
	err := n.Hosts(ctx, one)
	return one[0], err
}

// Hosts evaluates hosts of which Name, Kind and Flake are known, each once and all in one process, writes their derivations to the store,
// and fills in the rest; after an error nothing but Took counts. What may stand in a host:
// config.system.build.toplevel as in NixOS, config.age.secrets as in agenix, rekeyFile and config.age.rekey.hostPubkey
// as in agenix-rekey, config.sops.secrets as in sops-nix; and our own config.services.garrison.hostKeys, a key or a list of them,
// config.services.garrison.checks and tags, and what Agent is made of.
func (n *Nix) Hosts(ctx context.Context, hosts []Host) error {
	began := time.Now()
	var flakes []Flake
	var bindings, list strings.Builder
	for _, h := range hosts {
		f := slices.Index(flakes, h.Flake)
		if f < 0 {
			f = len(flakes)
			flakes = append(flakes, h.Flake)
			fmt.Fprintf(&bindings, "flake%d = builtins.getFlake %s;\n", f, quote(h.Flake.URL()))
		}
		fmt.Fprintf(&list, "flake%d.%sConfigurations.${%s}\n", f, h.Kind, quote(h.Name))
	}
	said := make([]struct {
		Host
		Checks map[string]json.RawMessage `json:"checks"`
	}, 1)
	var into any = &said
	in := "map ask [\n" + list.String() + "]"
	if len(hosts) == 1 { // what Nix says of it is then of no list
		into, in = &said[0], "ask "+list.String()
	}
	err := n.eval(ctx, into, "let\n"+bindings.String()+"ask = "+askHost+";\nin "+in)
	for i := range hosts {
		hosts[i].Took = time.Since(began) / time.Duration(len(hosts))
	}
	if err != nil {
		return evalError(ctx, err, "%s does not evaluate", hostsName(hosts))
	}
	for i, h := range hosts {
		got := said[i].Host
		got.Name, got.Kind, got.Flake, got.Took = h.Name, h.Kind, h.Flake, h.Took
		if err := got.settle(said[i].Checks); err != nil {
			return err
		}
		hosts[i] = got
	}
	return nil
}

// hostsName is what a person calls some hosts.
func hostsName(hosts []Host) string {
	if len(hosts) == 1 {
		return "host " + hosts[0].Name
	}
	return fmt.Sprintf("one of %d hosts", len(hosts))
}

// askHost is the function of the Nix language from a host to what is asked of it.
const askHost = `host: let
	top = host.config.system.build.toplevel;
	listed = host.config.services.garrison.hostKeys or [ ];
	own = builtins.filter (k: k != "") (if builtins.isList listed then listed else [ listed ]);
	each = f: set: builtins.attrValues (builtins.mapAttrs f set);
	secrets = each (name: s: {
		name = "age.secrets.${name}"; kind = "age"; key = "";
		file = toString (if s.rekeyFile or null != null then s.rekeyFile else s.file);
	}) (host.config.age.secrets or { }) ++ each (name: s: {
		name = "sops.secrets.${name}"; kind = "sops";
		file = toString (s.sopsFile or host.config.sops.defaultSopsFile);
		key = if builtins.elem (s.format or host.config.sops.defaultSopsFormat or "yaml") [ "yaml" "json" ] then s.key or name else "";
	}) (host.config.sops.secrets or { });
	plain = v: # what a command names is in the system's closure: Garrison's module puts it there
		if builtins.isString v || v ? outPath then builtins.unsafeDiscardStringContext "${v}"
		else if builtins.isList v then map plain v
		else if builtins.isAttrs v then builtins.mapAttrs (_: plain) v
		else v;
in {
	drv = top.drvPath;
	out = top.outPath;
	inherit (top) system;
	inherit secrets;
	agent = {
		enable = host.config.services.garrison.agent.enable or false;
		rings = host.config.services.garrison or { } ? tags;
		signers = host.config.environment.etc."garrison/allowed-signers".text or "";
		caches = map (c: { inherit (c) url publicKey; }) (host.config.services.garrison.agent.caches or [ ]);
	};
	tags = map toString (host.config.services.garrison.tags or [ ]);
	checks = plain (host.config.services.garrison.checks or { });
	hostKeys = map (k: if builtins.isPath k then builtins.readFile k else toString k)
		(if own != [ ] then own else [ (host.config.age.rekey.hostPubkey or "") ]);
}`

// settle checks and tidies what an evaluation said of the host.
func (h *Host) settle(checks map[string]json.RawMessage) (err error) {
	if !fleet.ValidStorePath(h.OutPath) || !fleet.ValidStorePath(h.DrvPath) {
		return fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "host %s: its toplevel is not a derivation in /nix/store (outPath %q)", h.Name, h.OutPath)
	}
	for i, k := range h.HostKeys {
		h.HostKeys[i] = strings.TrimSpace(k)
	}
	h.HostKeys = slices.DeleteFunc(h.HostKeys, func(k string) bool { return k == "" })
	if h.Checks, err = fleet.ParseChecks(checks); err != nil {
		return fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "host %s: services.garrison.checks: %s", h.Name, err).
			WithHint("docs/FORMATS.md lists what a check may be")
	}
	return nil
}

// SecretPath is the path in the repository of a file that an evaluation names: what stands
// behind the store path of the repository's tree. It is false for a file from anywhere else.
func (c Contents) SecretPath(file string) (string, bool) {
	_, path, ok := strings.Cut(file, c.Source+"/")
	return path, ok && path != ""
}

// Check is the derivation of one of a flake's checks.
func (n *Nix) Check(ctx context.Context, f Flake, system, name string) (drvPath string, err error) {
	var c struct {
		Drv string `json:"drv"`
	}
	err = n.eval(ctx, &c, `{ drv = (builtins.getFlake `+quote(f.URL())+`).checks.${`+quote(system)+`}.${`+quote(name)+`}.drvPath; }`)
	if err != nil {
		return "", evalError(ctx, err, "check %s does not evaluate", name)
	}
	if !fleet.ValidStorePath(c.Drv) {
		return "", fleet.Errorf(fleet.Bad, fleet.CodeEvaluate, "check %s is not a derivation", name)
	}
	return c.Drv, nil
}

func (n *Nix) eval(ctx context.Context, into any, expr string) error {
	temp, held, done, err := tempFolder()
	if err != nil {
		return err
	}
	defer done()
	own := *n
	own.Env, own.held = append(slices.Clip(n.Env), "TMPDIR="+temp), held
	out, err := own.run(ctx, "nix", "eval", "--json", "--no-write-lock-file", "--option", "warn-dirty", "false", "--expr", expr)
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
