package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/garrison-nix/garrison/internal/forge"
	"github.com/garrison-nix/garrison/internal/release"
	"github.com/garrison-nix/garrison/internal/wiring"
)

// config writes garrison.toml. One that is there, and says all that was found out, stays without a word of blame.
func (i *fleetInit) config(ctx context.Context) error {
	text := i.configText()
	if _, err := release.ParseConfig(release.ConfigPath, []byte(text)); err != nil {
		return fmt.Errorf("init would write a %s that cannot be read: %w", release.ConfigPath, err)
	}
	there, err := readConf(filepath.Join(i.top, release.ConfigPath))
	if err != nil {
		return err
	}
	if there != "" && there != text {
		c, err := release.ParseConfig(release.ConfigPath, []byte(there))
		if err != nil {
			return err
		}
		if i.covered(c) {
			i.tell("unchanged", "%s: it says all that is needed", release.ConfigPath)
			return nil
		}
	}
	return i.place(ctx, release.ConfigPath, text)
}

// covered says whether a configuration says what was found out.
func (i *fleetInit) covered(c release.Config) bool {
	for h := range i.hosts.keys {
		if c.HostKeys(h) == nil {
			return false
		}
	}
	return c.Branches.Source == i.source && (i.cache.url == "" || c.Cache.URL == i.cache.url) &&
		(len(i.editors.keys) == 0 || len(c.Secrets.Editors) > 0)
}

// configText is garrison.toml: what differs from the defaults, what must be said, and what it may be good to know.
func (i *fleetInit) configText() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# How Garrison releases this fleet. Everything has a default; docs/FORMATS.md of Garrison lists all keys.")
	line("# garrison check looks at what a release would come to, garrison doctor at what is around it.")
	if i.source != "main" {
		line("\n[branches]\nsource = %q", i.source)
	}
	line("\n[hosts]\n# Evaluated and re-keyed like the others, but deployed by hand: no agent follows these.\n# manual = [%q]", i.said.Names[0])
	secrets := len(i.said.Hosts) > 0 && i.said.Rules == nil
	if secrets {
		line("\n[secrets]\n# Who can read the secrets on %s. A release encrypts each of them for the hosts that declare it, and for nobody else.", i.source)
		switch {
		case i.editors.why != "":
			line("editors = [")
			for _, k := range i.editors.keys {
				line("  %q,", k)
			}
			line("]")
		default:
			line("# Their public keys were not found: put in those that the files are encrypted for.\n# editors = [\"age1…\", \"ssh-ed25519 AAAA…\"]")
		}
	}
	if len(i.hosts.keys)+len(i.hosts.missing) > 0 {
		line("\n[secrets.hostKeys]\n# For whom secrets are encrypted, where the flake does not say it (age.rekey.hostPubkey, services.garrison.hostKeys).")
		for _, h := range i.said.Names {
			if key := i.hosts.keys[h]; key != "" {
				line("%s", release.HostKeysLine(h, []string{key}))
			} else if slices.Contains(i.hosts.missing, h) {
				line("# garrison secrets scan-host %s --write", h)
			}
		}
	}
	if i.cache.url != "" {
		line("\n[cache]\nurl = %q", i.cache.url)
	} else {
		line("\n# [cache]\n# Where releases' closures go, so that hosts need not build: a Garrison or Attic server, s3://…\n# url = \"https://cache.example.org/fleet\"")
	}
	return b.String()
}

// moduleFile is the module that the wiring gives to every host.
const moduleFile = "garrison.nix"

// module is its text.
func (i *fleetInit) module(public string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Garrison's agent, on every host of this fleet. Its options: nix/modules/agent.nix of Garrison.\n{ ... }:\n{\n  services.garrison.agent = {\n    enable = true;")
	web, _ := forge.Detect(i.address)
	switch {
	case strings.HasPrefix(i.address, "http"):
		line("    remote = %s; # where it may only be read by some: remotes, with credentialsFile", nixString(web.URL+"/"+web.Repo+".git"))
	case web.URL != "":
		line("    # By SSH: each host needs a key that may read the repository.\n    remotes = [ { name = \"origin\"; url = %s; sshKeyFile = \"/etc/ssh/ssh_host_ed25519_key\"; } ];", nixString(i.address))
	default:
		line("    remote = %s;", nixString(i.address))
	}
	if b := i.said.Config.Branches.Release; b != "release" {
		line("    branch = %s;", nixString(b))
	}
	line("    allowedSigners = [ %s ]; # the release key's public half", nixString(public))
	if i.cache.url != "" {
		line("    caches = [ { url = %s; publicKey = %s; } ];", nixString(strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(i.cache.url, "attic+"), "nix+"), "garrison+")), nixString(i.cache.key))
	}
	line("  };\n}")
	return b.String()
}

func nixString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", `\${`).Replace(s) + `"`
}

// wired is what of the wiring is still to be done, and how.
type wired struct {
	file    string // of the patch; "" if there is nothing that could be patched
	missing []wiring.Missing
}

// wire writes the patch that puts Garrison's module into flake.nix, and shows it.
func (i *fleetInit) wire(ctx context.Context, public string) (w wired, err error) {
	before, after := map[string]string{}, map[string]string{}
	flake, there, err := i.repo.ReadFile(ctx, i.commit, "flake.nix")
	if err != nil {
		return w, err
	}
	if there && len(flake) <= wiring.MaxBytes {
		edited := wiring.Flake(string(flake), i.moduleURL, "./"+moduleFile)
		if err := i.nix.Parses(ctx, edited.Text); err != nil { // it was written in a way that is not understood: by hand, then
			edited = wiring.Flake("", i.moduleURL, "./"+moduleFile)
			edited.Text = string(flake)
		}
		before["flake.nix"], after["flake.nix"], w.missing = string(flake), edited.Text, edited.Missing
	}
	module, err := readConf(filepath.Join(i.top, moduleFile))
	if err != nil {
		return w, err
	}
	if module == "" {
		after[moduleFile] = i.module(public)
	}
	patch, err := i.repo.Diff(ctx, i.commit, before, after)
	if err != nil || patch == "" {
		if err == nil {
			i.tell("unchanged", "flake.nix and %s", moduleFile)
		}
		return w, err
	}
	w.file = i.keys.file(patchFile)
	old, err := readConf(w.file)
	switch {
	case err != nil:
		return w, err
	case old == patch:
		i.tell("unchanged", "%s", w.file)
		return w, nil
	case i.dryRun:
		i.wrote++
		i.tell("would write", "%s", w.file)
	default: // an older one fitted an older flake.nix
		if err := i.put(w.file, w.file, patch, 0o644); err != nil {
			return w, err
		}
	}
	fmt.Fprintln(i.Out, indented(patch))
	return w, nil
}

// next prints what a person is to do now.
func (i *fleetInit) next(w wired) {
	line := func(format string, args ...any) { fmt.Fprintf(i.Out, format+"\n", args...) }
	line("\nNext:\n")
	switch {
	case w.file != "":
		line("1. Have every host run the agent. Look at the patch, then:\n       git apply --index %s && nix flake lock && git add flake.lock", w.file)
	case len(w.missing) > 0:
		line("1. Have every host run the agent:")
	default:
		line("1. Every host has the agent's module: garrison check evaluates them.")
	}
	for _, m := range w.missing {
		line("   By hand, into %s:\n%s", m.What, indented(indented(m.Lines)))
	}
	if len(i.hosts.missing) > 0 {
		line("   Keys of hosts with secrets are missing: garrison secrets scan-host %s --write", strings.Join(i.hosts.missing, " (or "))
	}
	if i.editors.why == "" && len(i.said.Hosts) > 0 {
		line("   Name the editors in garrison.toml: the public keys that the secrets on %s are encrypted for.", i.source)
	}
	i.nextSecrets(line)
	line("3. garrison check; then commit, push to %s, and garrison doctor says what is still missing. The first release follows;", i.source)
	line("   bring its system to each host once by hand (nixos-rebuild switch). From then on the agents follow.")
	line("   Rings in garrison.toml have a bad release stop at the first hosts: docs/ROLLOUT.md.")
}

// nextSecrets is the second step: CI's keys.
func (i *fleetInit) nextSecrets(line func(string, ...any)) {
	switch {
	case i.actions == "":
		line("2. Have releases made: by a hub's own CI (services.garrison.hub.ci), or in any CI:\n       garrison release --key %s", i.keys.file(releaseKeyFile))
	case i.setSecrets && !i.dryRun:
		line("2. CI's secrets are set. Those without a file above are still to be made.")
	case i.forge.Kind == forge.GitHub:
		line("2. Give CI its secrets:")
		for _, s := range i.secrets() {
			line("       gh secret set %-20s < %s   # %s", s.name, orElse(s.file, "FILE"), s.what)
		}
	default:
		place := "in the repository's settings, under Actions"
		if i.forge.URL != "" {
			place = fmt.Sprintf("at %s/%s/settings/actions/secrets", i.forge.URL, i.forge.Repo)
		}
		line("2. Give CI its secrets, %s:", place)
		for _, s := range i.secrets() {
			line("       %-20s %s: %s", s.name, orElse(s.file, "(to be made)"), s.what)
		}
		line("   or: garrison init --set-secrets --forge-token-file FILE   # a token of the scope write:repository")
	}
	if i.cache.url != "" && !i.cache.known {
		file := i.keys.file(cacheKeyFile)
		if i.cache.plain {
			line("   Who pushes to the cache signs with %s: add secret-key=FILE to cache.url, where CI has it.", file)
		} else {
			line("   Make the cache with its key: garrison cache create %s --key-file %s", i.cache.name, file)
		}
	}
}
