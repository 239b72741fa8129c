package comin

import (
	"fmt"
	"net"
	"path"
	"strconv"
	"strings"
	"time"
)

// topKeys are comin's keys: as YAML has them, and as options of its NixOS module are called.
var topKeys = keys{
	"hostname": func(p *planner, v value) { p.Agent.Host = p.text(v) },
	"remotes":  (*planner).remotes,

	"post_deployment_command": (*planner).postDeployment, "postDeploymentCommand": (*planner).postDeployment,
	"post_build_command": lost("only CI builds; there is no command after it"),

	"gpg_public_key_paths": (*planner).gpg, "gpgPublicKeyPaths": (*planner).gpg,
	"ssh_allowed_signers_path": (*planner).signers, "sshAllowedSignersPath": (*planner).signers,

	"deploy_confirmer": (*planner).confirmer, "deployConfirmer": (*planner).confirmer,
	"build_confirmer": (*planner).buildConfirmer, "buildConfirmer": (*planner).buildConfirmer,

	"repository_type": (*planner).repositoryType, "repositoryType": (*planner).repositoryType,
	"repository_subdir": (*planner).subdir, "repositorySubdir": (*planner).subdir, "flake_subdirectory": (*planner).subdir, "flakeSubdirectory": (*planner).subdir,
	"system_attr": lost("a host is nixosConfigurations.<name> of a flake"), "systemAttr": lost("a host is nixosConfigurations.<name> of a flake"),
	"submodules": when(lost("releases of flakes with submodules have not been tried")),

	"exporter": (*planner).exporter,
	"state_dir": func(p *planner, v value) {
		p.note(v, Changed, "the agent's state is in /var/lib/garrison. Leave %s: it is the way back", p.text(v))
	},
	"state_filepath": lost("the agent's state is in /var/lib/garrison"),
	"retention":      lost("profiles are kept until Nix collects them (nix.gc, nix-env --delete-generations); boot entries are the boot loader's"),
	"executor":       (*planner).executor,
	"machine_id":     (*planner).machineID, "machineId": (*planner).machineID,
	"allow_force_push_main": when(lost("a release branch that was force-pushed is refused, until somebody puts it back")),
	"allowForcePushMain":    when(lost("a release branch that was force-pushed is refused, until somebody puts it back")),
	"api_server":            lost("the agent answers on /run/garrison/agent.sock only: garrison status, garrison history"),
	"grpc":                  lost("the agent answers on /run/garrison/agent.sock only: garrison status, garrison history"),
	"debug":                 when(lost("garrison -v agent logs more")),
	"desktop":               desktop,
	"package":               ignored,
	"enable": func(p *planner, v value) {
		if !p.truth(v) {
			p.note(v, Changed, "comin was not enabled here; what was made enables Garrison's agent")
		}
	},
	// Older files have one of each for all remotes.
	"branches": (*planner).branchTable,
	"poller":   func(p *planner, v value) { p.walk(p.table(v), pollerKeys) },
}

func ignored(*planner, value) {}

func lost(why string) func(*planner, value) {
	return func(p *planner, v value) { p.note(v, Lost, "%s", why) }
}

// when does something only for true.
func when(do func(*planner, value)) func(*planner, value) {
	return func(p *planner, v value) {
		if p.truth(v) {
			do(p, v)
		}
	}
}

var desktop = func(p *planner, v value) {
	if e, ok := p.table(v).values["enable"]; ok && p.truth(e) {
		p.note(v, Lost, "there are no desktop notifications; afterDeploy could make some")
	}
}

func (p *planner) remotes(v value) {
	for _, r := range p.list(v) {
		p.Agent.Remotes = append(p.Agent.Remotes, Remote{})
		p.walk(p.table(r), remoteKeys)
		switch last := p.remote(); {
		case p.err != nil:
		case last.URL == "":
			p.err = bad(p.name, "%s has no url", r.where)
		case last.Name == "":
			last.Name = fmt.Sprintf("remote%d", len(p.Agent.Remotes))
		}
	}
}

// remote is the one that is being read.
func (p *planner) remote() *Remote { return &p.Agent.Remotes[len(p.Agent.Remotes)-1] }

var remoteKeys = keys{
	"name": func(p *planner, v value) { p.remote().Name = p.text(v) },
	"url": func(p *planner, v value) {
		p.remote().URL = p.text(v)
		if strings.HasPrefix(p.remote().URL, "/") {
			p.remote().URL = "file://" + p.remote().URL
		}
	},
	"type":     ignored, // of old files; the URL says it
	"auth":     func(p *planner, v value) { p.walk(p.table(v), authKeys) },
	"branches": (*planner).branchTable,
	"poller":   func(p *planner, v value) { p.walk(p.table(v), pollerKeys) },
	"timeout": func(p *planner, v value) {
		if s := p.number(v); s != 300 {
			p.note(v, Lost, "how long git may take is not configurable; one slow remote does not delay the others")
		}
	},
}

var authKeys = keys{
	"access_token_path": func(p *planner, v value) {
		if p.remote().CredentialsFile = p.text(v); p.remote().CredentialsFile != "" {
			p.note(v, Changed, "it is this remote's credentialsFile; see in docs/FORMATS.md whether its content has the form that is wanted there")
		}
	},
	"access_token": func(p *planner, v value) {
		if p.text(v) != "" {
			p.note(v, Todo, "a token must not stand in a configuration; write it into a file that root alone can read, and name that as credentialsFile")
		}
	},
	"username": func(p *planner, v value) {
		if u := p.text(v); u != "" && u != "comin" {
			p.note(v, Todo, "the user %q belongs into the credentialsFile", u)
		}
	},
	"ssh_deploy_key_path":  func(p *planner, v value) { p.remote().SSHKeyFile = p.text(v) },
	"ssh_known_hosts_path": func(p *planner, v value) { p.remote().KnownHostsFile = p.text(v) },
}

var pollerKeys = keys{
	"period": func(p *planner, v value) {
		switch d := time.Duration(p.number(v)) * time.Second; {
		case d <= 0 || d > 365*24*time.Hour:
			p.note(v, Lost, "%v is no period to poll with; the agent polls every 60 s unless poll says otherwise", v.v)
		case p.Agent.Poll == 0:
			p.Agent.Poll, p.pollFrom = d, v.where
		case p.Agent.Poll != d:
			p.note(v, Changed, "all remotes are looked at together; the shorter of this and %s is taken", p.pollFrom)
			p.Agent.Poll = min(p.Agent.Poll, d)
		}
	},
}

func (p *planner) branchTable(v value) {
	p.walk(p.table(v), keys{
		"main":    func(p *planner, v value) { p.branch(v, &p.branches, "switch") },
		"testing": func(p *planner, v value) { p.branch(v, &p.tests, "test") },
	})
}

func (p *planner) branch(v value, names *[]string, operation string) {
	p.walk(p.table(v), keys{
		"name": func(p *planner, v value) {
			if name := p.text(v); name != "" {
				*names = append(*names, name)
			}
		},
		"operation": func(p *planner, v value) {
			if op := p.text(v); op != operation {
				p.note(v, Lost, "releases are tested, checked and then committed, and test branches only tested; %q has no counterpart", op)
			}
		},
		"protected": ignored, // comin does not use it
	})
}

func (p *planner) postDeployment(v value) {
	command := p.text(v)
	if command == "" {
		return
	}
	if !path.IsAbs(command) {
		p.wrong(v, "an absolute path")
		return
	}
	p.Agent.AfterDeploy = []string{command}
	if strings.HasPrefix(command, "/nix/store/") {
		p.note(v, Todo, "%s is kept from Nix's garbage collection by comin's configuration alone: give afterDeploy the expression that comin's option had", command)
	}
	p.note(v, Changed, "afterDeploy runs it after every deployment, at most 5 minutes, with the COMIN_* variables: COMIN_GIT_SHA is the commit on the source branch, COMIN_GIT_MSG its subject alone, COMIN_GENERATION release-<n>, COMIN_STATUS done or failed")
}

func (p *planner) gpg(v value) {
	if n := len(p.list(v)); n > 0 {
		p.note(v, Lost, "%d GPG keys of people who sign commits: have the forge or CI check these before a release. Hosts check CI's SSH signature of each release", n)
	}
}

func (p *planner) signers(v value) {
	if p.text(v) != "" {
		p.note(v, Lost, "the people whose commits comin believed: have the forge or CI check these before a release. Hosts check CI's signature of each release, so the release key stands in allowedSigners, and nobody else's")
	}
}

func (p *planner) confirmer(v value) {
	p.walk(p.table(v), keys{
		"mode": func(p *planner, v value) {
			switch mode := p.text(v); mode {
			case "without":
			case "manual":
				p.Agent.Confirm = "manual"
				p.note(v, Changed, "each release waits for garrison confirm on the host")
			case "auto":
				p.Agent.Confirm = "manual"
				p.note(v, Changed, "there is no confirmation by the lapse of time: each release waits for garrison confirm. Drop confirm, or say when with windows")
			default:
				p.note(v, Unknown, "%q is not a mode that comin has", mode)
			}
		},
		"auto_duration": ignored, "autoconfirm_duration": ignored, // the note of mode says it
	})
}

func (p *planner) buildConfirmer(v value) {
	if mode, ok := p.table(v).values["mode"]; ok && p.text(mode) != "without" {
		p.note(v, Lost, "hosts do not build what CI built, so there is nothing to confirm")
	}
}

func (p *planner) repositoryType(v value) {
	if kind := p.text(v); kind != "flake" {
		p.note(v, Todo, "a fleet is a flake here, with nixosConfigurations; a repository of type %q needs a flake.nix", kind)
	}
}

func (p *planner) subdir(v value) {
	if dir := p.text(v); dir != "" && dir != "." {
		p.note(v, Todo, "write flakes = [%s] into garrison.toml: the flake is not at the repository's root", strconv.Quote(dir))
	}
}

func (p *planner) executor(v value) {
	if kind, ok := p.table(v).values["type"]; ok && p.text(kind) != "nix" {
		p.note(v, Changed, "CI builds, and hosts fetch from caches: name the cache in caches instead of the executor %q", kind.v)
	}
}

func (p *planner) machineID(v value) {
	if p.text(v) != "" {
		p.note(v, Lost, "a host is known by its name alone: see to it that only one machine is called so")
	}
}

func (p *planner) exporter(v value) {
	address, port := "", 4243
	p.walk(p.table(v), keys{
		"listen_address": func(p *planner, v value) { address = p.text(v) },
		"port":           func(p *planner, v value) { port = p.number(v) },
		"openFirewall": when(func(p *planner, v value) {
			p.note(v, Todo, "open the port yourself: networking.firewall.allowedTCPPorts")
		}),
	})
	if address == "" {
		p.note(v, Changed, "comin served metrics on all interfaces at port %d; nothing here does so unasked: set metrics.listen. The metrics have other names", port)
		return
	}
	p.Agent.MetricsListen = net.JoinHostPort(address, strconv.Itoa(port))
	p.note(v, Changed, "the metrics have other names")
}
