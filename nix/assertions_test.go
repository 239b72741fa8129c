package modules_test

import (
	"strings"
	"testing"

	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
)

// hosts whose definitions contradict themselves: the options of an agent or a hub that is fine, and what makes it bad; then what it is told.
var contradictions = map[string][]struct{ definitions, says string }{
	least: {
		{`remote = lib.mkForce null;`, `remote is not set. Set it to the URL of the fleet's repository`},
		{`remotes = [ { name = "a"; url = "u"; } ];`, `remote and services.garrison.agent.remotes are both set. Keep one`},
		{`allowedSigners = lib.mkForce [ ];`, `allowedSigners is empty: no release could be accepted. Give the release key's public half`},
		{`allowedSigners = [ "release-key.pub" ];`, `allowedSigners: "release-key.pub" is not an SSH public key. Give what stands in the release key's .pub file`},
		{`allowedSignersFile = "/etc/signers";`, `allowedSignersFile is a file on the host, so services.garrison.agent.allowedSigners cannot be added to it`},
		{`allowedSignersFile = "signers"; allowedSigners = lib.mkForce [ ];`, `allowedSignersFile is "signers". It must be an absolute path`},
		{`hub.url = "https://hub.example.org";`, `hub needs both url and tokenFile`},
		{`hub.tokenFile = "/run/token";`, `hub needs both url and tokenFile`},
		{`hub = { url = "hub.example.org"; tokenFile = "/run/token"; };`, `hub.url is "hub.example.org". It must be an http or https URL`},
		{`hub = { url = "https://h"; tokenFile = ./token; };`, `hub.tokenFile is in the Nix store, where everybody can read it`},
		{`hub = { url = "https://h"; tokenFile = "/nix/store/x-token"; };`, `hub.tokenFile is in the Nix store, where everybody can read it`},
		{`hub = { url = "https://h"; tokenFile = "token"; };`, `hub.tokenFile is "token". It must be an absolute path`},
		{`host = "joker.example.org";`, `host is "joker.example.org", which cannot be a host's name. Give its name in nixosConfigurations`},
		{`poll = "60";`, `poll is "60". It must be a duration like "90s"`},
		{`checkTime = "1 h";`, `checkTime is "1 h". It must be a duration`},
		{`fetchTime = "-1s";`, `fetchTime is "-1s". It must be a duration`},
		{`afterDeployTime = "x";`, `afterDeployTime is "x". It must be a duration`},
		{`afterDeploy = [ "notify" ];`, `afterDeploy must begin with a program's absolute path`},
		{`windows = [ "Saturday 2-5" ];`, `windows: "Saturday 2-5" is not a window of time. Write days and hours like`},
		{`windows = [ "Sat 25:00-26:00" ];`, `"Sat 25:00-26:00" is not a window`},
		{`reboot = { when = "window"; windows = [ "at night" ]; };`, `reboot.windows: "at night" is not a window of time`},
		{`reboot.when = "window";`, `reboot.windows belongs to services.garrison.agent.reboot.when = "window", which needs it, or "ring": set both or none`},
		{`reboot = { when = "never"; windows = [ "Sun 03:00-04:00" ]; };`, `reboot.windows belongs to services.garrison.agent.reboot.when = "window"`},
		{`prefetch.rate = "10";`, `prefetch.rate is "10". It must be so much a second, like "500KB"`},
		{`metrics.listen = "9110";`, `metrics.listen is "9110". It must be HOST:PORT`},
		{`caches = [ { url = "https://c"; publicKey = "AAAA"; } ];`, `caches: the publicKey of https://c must have the form name:base64`},
		{`remote = lib.mkForce null; remotes = [ { name = "a"; url = "u"; } { name = "a"; url = "v"; } ];`, `remotes: two have the same name. Give each a name of its own`},
		{`remote = lib.mkForce null; remotes = [ { name = "a"; url = "u"; credentialsFile = "/nix/store/x"; } ];`, `the credentialsFile of a is in the Nix store`},
		{`remote = lib.mkForce null; remotes = [ { name = "a"; url = "u"; sshKeyFile = "/nix/store/x"; } ];`, `the sshKeyFile of a is in the Nix store`},
		{`remote = lib.mkForce null; remotes = [ { name = "a"; url = "u"; sshKeyFile = "key"; } ];`, `the sshKeyFile of a is "key". It must be an absolute path`},
		{`remote = lib.mkForce null; remotes = [ { name = "a"; url = "u"; credentialsFile = "c"; } ];`, `the credentialsFile of a is "c". It must be an absolute path`},
	},
	`services.garrison.hub = { enable = true; tokensFile = "/run/tokens"; ci = { remote = "u"; signingKeyFile = "/run/key"; }; };`: {
		{`tokensFile = lib.mkForce null;`, `hub.tokensFile is not set: nobody could upload, report or wake`},
		{`tokensFile = lib.mkForce "tokens";`, `the file of tokens is "tokens". It must be an absolute path`},
		{`ci.signingKeyFile = lib.mkForce null;`, `ci.signingKeyFile is not set: a release must be signed. Make a key: ssh-keygen`},
		{`ci.remote = lib.mkForce null;`, `hub.ci has keys but no remote, so no CI would run`},
		{`ci.signingKeyFile = lib.mkForce ./key;`, `ci.signingKeyFile is in the Nix store`},
		{`ci.identityFile = ./key;`, `ci.identityFile is in the Nix store`},
		{`ci.sshKeyFile = "/nix/store/x";`, `ci.sshKeyFile is in the Nix store`},
		{`ci.cacheTokenFile = "/run/t";`, `hub.ci.cacheTokenFile is set, and no services.garrison.hub.ci.cache`},
		{`ci = { cache = "https://c/fleet"; cacheTokenFile = "/nix/store/x"; };`, `ci.cacheTokenFile is in the Nix store`},
		{`ci.poll = "often";`, `ci.poll is "often". It must be a duration`},
		{`ci.allowedSigners = [ "x" ];`, `ci.allowedSigners: "x" is not an SSH public key`},
		{`listen = "localhost";`, `listen is "localhost". It must be HOST:PORT`},
		{`forge = { kind = "gitea"; url = "https://h"; repo = "o/r"; };`, `hub.forge has neither tokenFile nor webhookSecretFile`},
		{`forge = { kind = "gitea"; tokenFile = "/run/t"; };`, `hub.forge needs kind, url and repo`},
		{`web.proxy.header = "Remote-User";`, `hub.web.proxy needs header and from`},
		{`forge.tokenFile = "/run/t";`, `hub.forge needs kind, url and repo`},
		{`notify.senders.chat = { type = "slack"; urlFile = ./token; };`, `hub.notify.senders.chat.urlFile is in the Nix store, where everybody can read it`},
		{`notify.senders."a b" = { type = "slack"; urlFile = "/run/u"; };`, `hub.notify.senders."a b": a sender's name has letters`},
		{`notify.limits.fetch = "soon";`, `hub.notify.limits.fetch is "soon". It must be a duration`},
		{`ci.remote = lib.mkForce null; ci.signingKeyFile = lib.mkForce null; forge = { kind = "gitea"; url = "https://h"; repo = "o/r"; tokenFile = "/run/t"; };`, `hub.follow.remote is not set`},
		{`forge = { kind = "gitea"; url = "https://h"; repo = "o/r"; tokenFile = ./t; };`, `forge.tokenFile is in the Nix store`},
		{`forge = { kind = "gitea"; url = "https://h"; repo = "o/r"; webhookSecretFile = ./t; };`, `forge.webhookSecretFile is in the Nix store`},
		{`follow.credentialsFile = ./t;`, `follow.credentialsFile is in the Nix store`},
		{`follow.sshKeyFile = "/nix/store/x";`, `follow.sshKeyFile is in the Nix store`},
		{`follow.poll = "often";`, `follow.poll is "often". It must be a duration`},
		{`follow.silent = "long";`, `follow.silent is "long". It must be a duration`},
		{`follow.allowedSigners = [ "x" ];`, `follow.allowedSigners: "x" is not an SSH public key`},
		{`cache.tokenKeyFiles = [ ./secret ];`, `cache.tokenKeyFiles is in the Nix store`},
		{`cache.name = "my fleet";`, `cache.name is "my fleet". A cache's name has letters`},
	},
	`services.garrison.cache = { enable = true; tokenKeyFiles = [ "/run/secret" ]; };`: {
		{`tokenKeyFiles = lib.mkForce [ ];`, `tokenKeyFiles is empty: nobody could make a cache`},
		{`tokenKeyFiles = [ "/nix/store/x" ];`, `tokenKeyFiles is in the Nix store`},
		{`tokenKeyFiles = [ "secret" ];`, `the file of token-key-1 is "secret". It must be an absolute path`},
		{`listen = "localhost";`, `listen is "localhost". It must be HOST:PORT`},
		{`baseUrl = "cache.example.org";`, `baseUrl is "cache.example.org". It must be an http or https URL`},
		{`s3.bucket = "b";`, `s3 needs endpoint, bucket and credentialsFile, or none`},
		{`metrics.listen = "9102";`, `metrics.listen is "9102". It must be HOST:PORT`},
		{`postgres.urlFile = ./url;`, `postgres.urlFile is in the Nix store`},
	},
	`services.garrison.push = { enable = true; url = "https://cache.example.org/fleet"; tokenFile = "/run/token"; };`: {
		{`url = lib.mkForce "lab:fleet";`, `push.url is "lab:fleet". It must be the URL of a cache`},
		{`url = lib.mkForce "https://c/f --jobs 1";`, `It must be the URL of a cache`},
		{`tokenFile = lib.mkForce ./token;`, `push.tokenFile is in the Nix store`},
		{`tokenFile = lib.mkForce "token";`, `push.tokenFile is "token". It must be an absolute path`},
	},
	`services.garrison.drill.nightly = { enable = true; host = "ratched"; repository = "https://forge.example.org/fleet.git"; };`: {
		{`host = lib.mkForce "ratched; rm";`, `nightly.host is "ratched; rm", which cannot be an argument`},
		{`repository = lib.mkForce "https://$HOME/";`, `nightly.repository is "https://$HOME/", which cannot be an argument`},
		{`only = [ "happy path" ];`, `nightly.only is "happy path", which cannot be an argument`},
		{`limit = "10";`, `nightly.limit is "10". It must be a duration`},
		{`hub = "hub.example.org";`, `nightly.hub is "hub.example.org". It must be an http or https URL`},
		{`repeat = 0;`, `nightly.repeat is 0. It must be a number from 1 to 100`},
		{`author = "a\"b";`, `a name and an address, without quotes and backslashes`},
		{`sshKeyFile = ./key;`, `nightly.sshKeyFile is in the Nix store`},
		{`hubTokenFile = "token";`, `nightly.hubTokenFile is "token". It must be an absolute path`},
	},
	"": {
		{`checks.a = { };`, `checks.a must be exactly one of command, http, tcp and unit; it is none`},
		{`checks.a = { tcp = "h:1"; unit = "x.service"; };`, `checks.a must be exactly one of command, http, tcp and unit; it is tcp and unit. For two things to look at, declare two checks`},
		{`checks.a.command = [ ];`, `checks.a.command is empty`},
		{`checks.a.tcp = "localhost";`, `checks.a.tcp is "localhost". It must be HOST:PORT`},
		{`checks.a.unit = "nginx";`, `checks.a.unit is "nginx". It must be a unit's name with its kind`},
		{`checks.a.http.url = "localhost";`, `checks.a.http.url is not an http or https URL`},
		{`checks.a = { tcp = "h:1"; timeout = 0; };`, `checks.a: timeout must be at least 1`},
		{`checks.a = { tcp = "h:1"; retries = -1; };`, `retries and interval at least 0`},
		{`hostKeys = [ "host.pub" ];`, `hostKeys: "host.pub" is not a public key`},
		{`tags = [ "web" "tag:eu" ];`, `tags: "tag:eu" is not a tag. Write small letters`},
	},
}

// TestAssertions has each contradiction told, alone, with what to do.
func TestAssertions(t *testing.T) {
	nixtest.Each(t, func(t *testing.T, _ *nix.Nix) {
		for fine, bad := range contradictions {
			if h, err := eval(t, fine); err != nil || len(h.Failed) > 0 {
				t.Errorf("%s: %v, %q", fine, err, h.Failed)
			}
			of := map[bool]string{true: "services.garrison", false: strings.SplitN(fine, " ", 2)[0]}[fine == ""]
			for _, c := range bad {
				h, err := eval(t, "imports = [ { "+fine+" } ({ lib, ... }: { "+of+" = { "+c.definitions+" }; }) ];")
				if err != nil {
					t.Errorf("%s: %v", c.definitions, err)
				} else if len(h.Failed) != 1 || !strings.Contains(h.Failed[0], c.says) || !strings.HasPrefix(h.Failed[0], "services.garrison.") {
					t.Errorf("%s: it says %q, not %q", c.definitions, h.Failed, c.says)
				}
			}
		}
	})
}

// TestTypes has definitions refused that no module system would take: it shows that the one of these tests looks.
func TestTypes(t *testing.T) {
	for definitions, says := range map[string]string{
		`services.garrison.agent.enable = "yes";`:                                                                                 `services.garrison.agent.enable' is not of type`,
		`services.garrison.agent.remot = "u";`:                                                                                    `services.garrison.agent.remot' does not exist`,
		`services.garrison.agent = { enable = true; confirm = "maybe"; };`:                                                        `services.garrison.agent.confirm' is not of type`,
		`services.garrison.agent = { enable = true; remotes = [ { name = "a"; } ]; };`:                                            `url' is used but not defined`,
		`services.garrison.agent = { enable = true; caches = { }; };`:                                                             `services.garrison.agent.caches' is not of type`,
		`services.garrison.agent = { enable = true; allowedSigners = "key"; };`:                                                   `services.garrison.agent.allowedSigners' is not of type`,
		`services.garrison.checks.a = { http = { url = "u"; code = 1; }; };`:                                                      `services.garrison.checks.a.http.code' does not exist`,
		`services.garrison.checks.a.timeout = "10s";`:                                                                             `services.garrison.checks.a.timeout' is not of type`,
		`services.garrison.hub = { enable = true; listen = 8420; };`:                                                              `services.garrison.hub.listen' is not of type`,
		`imports = [ { services.garrison.agent.poll = "1s"; } ]; ` + `services.garrison.agent = { enable = true; poll = "2s"; };`: `services.garrison.agent.poll' has conflicting definitions`,
	} {
		if h, err := eval(t, definitions); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: it says %v and makes %+v", definitions, err, h.Etc)
		}
	}
}
