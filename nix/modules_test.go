package modules_test

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/garrison-nix/garrison/internal/agent"
	"github.com/garrison-nix/garrison/internal/cli"
	"github.com/garrison-nix/garrison/internal/hub"
	"github.com/garrison-nix/garrison/internal/nix"
	"github.com/garrison-nix/garrison/internal/nix/nixtest"
	"github.com/garrison-nix/garrison/nix/modulestest"
)

func TestMain(m *testing.M) { os.Exit(nixtest.Main(m)) }

var update = flag.Bool("update", false, "write what the modules make of testdata into it")

// key is a public key in form.
const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGdhcnJpc29uZ2Fycmlzb25nYXJyaXNvbmdhcnJpc29u"

// eval evaluates definitions, the inside of an attribute set.
func eval(t *testing.T, definitions string) (modulestest.Host, error) {
	t.Helper()
	return modulestest.Eval(t.Context(), nil, "{ services.garrison.package = \"/nix/store/00000000000000000000000000000000-garrison\";\n"+definitions+"\n}")
}

func must(t *testing.T, definitions string) modulestest.Host {
	t.Helper()
	h, err := eval(t, definitions)
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Failed) > 0 {
		t.Fatalf("assertions: %q", h.Failed)
	}
	return h
}

// TestGolden has hosts in testdata, each with its definitions and all that comes of them, on the oldest and the newest Nix.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no hosts in testdata: %v", err)
	}
	nixtest.Each(t, func(t *testing.T, _ *nix.Nix) {
		for _, file := range files {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			h := must(t, string(a.Files[0].Data))
			got := &txtar.Archive{Comment: a.Comment, Files: append(a.Files[:1:1], filesOf(h)...)}
			if want := txtar.Format(a); !bytes.Equal(txtar.Format(got), want) {
				if *update {
					if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
						t.Fatal(err)
					}
					continue
				}
				t.Errorf("%s makes\n%s\nnot\n%s", file, txtar.Format(got), want)
			}
		}
	})
}

// filesOf lists what the modules made.
func filesOf(h modulestest.Host) (files []txtar.File) {
	for _, name := range slices.Sorted(maps.Keys(h.Etc)) {
		files = append(files, txtar.File{Name: "/etc/" + name, Data: []byte(h.Etc[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Units)) {
		files = append(files, txtar.File{Name: name + ".service", Data: []byte(h.Units[name].Text())})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Paths)) {
		files = append(files, txtar.File{Name: name + ".path", Data: []byte(h.Paths[name].Text())})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Timers)) {
		files = append(files, txtar.File{Name: name + ".timer", Data: []byte(h.Timers[name].Text())})
	}
	if len(h.Nix) > 0 {
		files = append(files, txtar.File{Name: "nix.settings", Data: fmt.Appendf(nil, "%v\n", h.Nix)})
	}
	return append(files, txtar.File{Name: "system", Data: fmt.Appendf(nil, "packages %v\ngroups %v\nhostKeys %v\n", h.Packages, h.Groups, h.HostKeys)})
}

// write writes a file out of the evaluation for one of our readers.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const least = "services.garrison.agent = { enable = true; remote = \"https://forge.example.org/fleet.git\"; allowedSigners = [ \"" + key + "\" ]; };\n"

// pending are the keys that the agent of this tree cannot read yet. Whoever teaches it one takes it off the list; the test says so.
var pending = map[string]string{
	"settings": `settings.keyToCome = 1;`, // never on the way to become known: it shows that the list is looked at
}

// TestAgentReadsIt has the agent read what each option makes.
func TestAgentReadsIt(t *testing.T) {
	h := must(t, `imports = [ { `+least+`} ]; services.garrison.agent = {
		host = "ratched"; branch = "release-ring-1"; poll = "90s"; checkTime = "3m"; fetchTime = "1h30m";
		caches = [ { url = "https://cache.example.org/fleet"; publicKey = "fleet:AAAA="; pushTokenFile = "/run/push"; } ];
		hub = { url = "https://hub.example.org"; tokenFile = "/run/token"; };
		afterDeploy = [ "/bin/sh" "-c" "echo \"a\tb\" $x" ]; afterDeployTime = "10s";
		confirm = "manual"; windows = [ "Sat 02:00-05:00" ]; onDrift = "correct"; correctAfter = "45s"; metrics.listen = "127.0.0.1:9110";
		reboot = { when = "ring"; windows = [ "Sun 03:00-04:00" ]; }; prefetch = { enable = false; rate = "500KB"; }; build = { when = "never"; time = "2h"; after = "1m"; };
		settings.profile = "/nix/var/nix/profiles/other";
	};`)
	c, err := agent.ReadConfig(write(t, h.Etc["garrison/agent.toml"]))
	if err != nil {
		t.Fatalf("%v\n%s", err, h.Etc["garrison/agent.toml"])
	}
	if c.Host != "ratched" || c.Remote != "https://forge.example.org/fleet.git" || c.Branch != "release-ring-1" || c.AllowedSigners != "/etc/garrison/allowed-signers" ||
		time.Duration(c.Poll) != 90*time.Second || time.Duration(c.CheckTime) != 3*time.Minute || time.Duration(c.FetchTime) != 90*time.Minute ||
		len(c.Caches) != 1 || c.Caches[0].URL != "https://cache.example.org/fleet" || c.Caches[0].PublicKey != "fleet:AAAA=" ||
		c.Caches[0].PushTokenFile != "/run/push" || c.Confirm != "manual" || len(c.Windows) != 1 || c.OnDrift != "correct" || time.Duration(c.CorrectAfter) != 45*time.Second ||
		c.Metrics.Listen != "127.0.0.1:9110" || c.Reboot.When != "ring" || len(c.Reboot.Windows) != 1 || c.Prefetch.Enable == nil || *c.Prefetch.Enable || c.Prefetch.Rate != 500_000 ||
		c.Build.When != "never" || time.Duration(c.Build.Time) != 2*time.Hour || time.Duration(c.Build.After) != time.Minute ||
		c.Hub.URL != "https://hub.example.org" || c.Hub.TokenFile != "/run/token" || c.Profile != "/nix/var/nix/profiles/other" ||
		!slices.Equal(c.AfterDeploy, []string{"/bin/sh", "-c", "echo \"a\tb\" $x"}) || time.Duration(c.AfterDeployTime) != 10*time.Second {
		t.Errorf("read: %+v\n%s", c, h.Etc["garrison/agent.toml"])
	}

	several := must(t, `services.garrison.agent = { enable = true; allowedSigners = [ "`+key+`" ];
		remotes = [ { name = "a"; url = "https://a.example.org/fleet.git"; credentialsFile = "/run/credentials"; } ]; };`)
	c, err = agent.ReadConfig(write(t, several.Etc["garrison/agent.toml"]))
	if err != nil || len(c.Remotes) != 1 || c.Remotes[0].Name != "a" || c.Remotes[0].CredentialsFile != "/run/credentials" {
		t.Errorf("%+v, %v", c.Remotes, err)
	}

	for name, option := range pending {
		h, err := modulestest.Eval(t.Context(), nil, "{ lib, ... }: { services.garrison.package = \"/nix/store/x\"; imports = [ { "+least+" } { services.garrison.agent = { "+option+" }; } ]; }")
		if err != nil || len(h.Failed) > 0 {
			t.Errorf("%s: %v, %q", name, err, h.Failed)
			continue
		}
		_, err = agent.ReadConfig(write(t, h.Etc["garrison/agent.toml"]))
		if err == nil || !strings.Contains(err.Error(), "unknown key") {
			t.Errorf("%s: the agent says %v of\n%s\nif it can read that now, take it off the list of pending", name, err, h.Etc["garrison/agent.toml"])
		}
	}
}

// TestHubReadsIt has the hub read what its options make.
func TestHubReadsIt(t *testing.T) {
	h := must(t, `services.garrison.hub = {
		enable = true; listen = "127.0.0.1:8421"; tokensFile = "/run/tokens"; cache.name = "fleet2";
		ci = { remote = "ssh://git@forge.example.org/fleet.git"; poll = "5m"; signingKeyFile = "/run/key"; identityFile = "/run/identity"; sshKeyFile = "/run/ssh"; credentialsFile = "/run/credentials"; cache = "https://cache.example.org/fleet"; cacheTokenFile = "/run/cache-token"; allowedSigners = [ "`+key+`" ]; sourceSigners = [ "`+key+`" ]; };
	};`)
	c, err := cli.ReadHubFile(write(t, h.Etc["garrison/hub.toml"]))
	if err != nil {
		t.Fatalf("%v\n%s", err, h.Etc["garrison/hub.toml"])
	}
	const credentials = "/run/credentials/garrison-hub.service/"
	if c.Listen != "127.0.0.1:8421" || c.Tokens != credentials+"tokens" || c.Cache.Name != "fleet2" || c.DataDir != "/var/lib/garrison-hub" || c.CI.Remote != "ssh://git@forge.example.org/fleet.git" ||
		time.Duration(c.CI.Poll) != 5*time.Minute || c.CI.SigningKey != credentials+"signing-key" || c.CI.Identity != credentials+"identity" || c.CI.AllowedSigners != "/etc/garrison/hub-allowed-signers" ||
		c.CI.CredentialsFile != credentials+"ci-credentials" || c.CI.Cache != "https://cache.example.org/fleet" || c.CI.CacheTokenFile != credentials+"ci-cache-token" || c.CI.SourceSigners != "/etc/garrison/hub-source-signers" {
		t.Errorf("read: %+v\n%s", c, h.Etc["garrison/hub.toml"])
	}
	h = must(t, `services.garrison.hub = {
		enable = true; tokensFile = "/run/tokens";
		follow = { remote = "https://git.example.org/ops/fleet.git"; silent = "1h"; allowedSigners = [ "`+key+`" ]; };
		forge = { kind = "gitea"; url = "https://git.example.org"; repo = "ops/fleet"; tokenFile = "/run/forge"; webhookSecretFile = "/run/webhook"; };
		web = { loopback = true; proxy = { header = "Remote-User"; from = [ "127.0.0.1" ]; }; };
		metrics.listen = "127.0.0.1:9102"; trace = { endpoint = "https://otel.example.org/v1/traces"; headersFile = "/run/headers"; caFile = "/etc/ca.pem"; };
	};`)
	if c, err = cli.ReadHubFile(write(t, h.Etc["garrison/hub.toml"])); err != nil || c.CI.Remote != "" || c.FollowFrom().CredentialsFile != credentials+"forge-token" ||
		time.Duration(c.Follow.Silent) != time.Hour || c.Follow.AllowedSigners != "/etc/garrison/hub-follow-signers" || c.Forge.WebhookSecretFile != credentials+"webhook-secret" ||
		!c.Web.On() || !c.Web.Loopback || c.Web.Proxy.Header != "Remote-User" || len(c.Web.ProxyNetworks()) != 1 ||
		c.Metrics.Listen != "127.0.0.1:9102" || c.Trace != (hub.TraceTable{Endpoint: "https://otel.example.org/v1/traces", HeadersFile: credentials + "trace-headers", CAFile: "/etc/ca.pem"}) {
		t.Errorf("read: %+v, %v\n%s", c, err, h.Etc["garrison/hub.toml"])
	}
	h = must(t, `services.garrison.hub = {
		enable = true; tokensFile = "/run/tokens";
		notify = {
			text = "{{.Text}}"; limits.fetch = "30m"; heartbeat.urlFile = "/run/heartbeat"; rules = [ { hosts = [ "web*" ]; senders = [ "mail" ]; } ];
			senders.mail = { type = "email"; server = "smtp.example.org:587"; user = "u"; passwordFile = "/run/password"; from = "a@example.org"; to = [ "b@example.org" ]; };
			senders.chat = { type = "slack"; urlFile = "/run/chat"; };
		};
	};`)
	if c, err = cli.ReadHubFile(write(t, h.Etc["garrison/hub.toml"])); err != nil || len(c.Notify.Senders) != 2 || c.Notify.Senders[0].URLFile != credentials+"notify-chat-url" || c.Notify.Senders[1].PasswordFile != credentials+"notify-mail-password" ||
		c.Notify.Heartbeat.URLFile != credentials+"notify-heartbeat" || c.Notify.Rules[0].Hosts[0] != "web*" || time.Duration(c.Notify.Limits.Fetch) != 30*time.Minute {
		t.Errorf("read: %+v, %v\n%s", c, err, h.Etc["garrison/hub.toml"])
	}
	if c, err := cli.ReadHubFile(write(t, must(t, `services.garrison.hub = { enable = true; tokensFile = "/run/tokens"; web.enable = false; };`).Etc["garrison/hub.toml"])); err != nil || c.Web.On() || c.CI.Remote != "" || c.Listen != "127.0.0.1:8420" {
		t.Errorf("the least hub: %+v, %v", c, err)
	}
}

// TestCacheReadsIt has the server of caches read what its options make.
func TestCacheReadsIt(t *testing.T) {
	h := must(t, `services.garrison.cache = { enable = true; listen = "[::1]:1"; baseUrl = "https://cache.example.org"; tokenKeyFiles = [ "/run/a" "/run/b" ];
		s3 = { endpoint = "https://s3.example.org"; bucket = "nix-cache"; credentialsFile = "/run/s3"; }; postgres.urlFile = "/run/url";
		metrics.listen = "127.0.0.1:9102"; settings.cache.limits.uploads = 8; };`)
	c, err := cli.ReadCacheFile(write(t, h.Etc["garrison/cache.toml"]))
	const credentials = "/run/credentials/garrison-cache.service/"
	if err != nil || c.Listen != "[::1]:1" || c.DataDir != "/var/lib/garrison-cache" || c.Cache.BaseURL != "https://cache.example.org" ||
		!slices.Equal(c.Cache.TokenKeys, []string{credentials + "token-key-0", credentials + "token-key-1"}) || c.Cache.S3.Bucket != "nix-cache" ||
		c.Cache.S3.CredentialsFile != credentials+"s3-credentials" || c.Cache.Postgres.URLFile != credentials+"postgres-url" ||
		c.Cache.Metrics.Listen != "127.0.0.1:9102" || c.Cache.Limits.Uploads != 8 {
		t.Errorf("%+v, %v\n%s", c, err, h.Etc["garrison/cache.toml"])
	}
	c, err = cli.ReadCacheFile(write(t, must(t, `services.garrison.cache = { enable = true; tokenKeyFiles = [ "/run/a" ]; };`).Etc["garrison/cache.toml"]))
	if err != nil || c.Listen != "127.0.0.1:8421" || c.Cache.S3.Bucket != "" || c.Cache.Postgres.URLFile != "" {
		t.Errorf("the least cache: %+v, %v", c, err)
	}
}

// TestWithoutThem shows that the modules do nothing unless they are enabled, but for what CI reads.
func TestWithoutThem(t *testing.T) {
	h := must(t, `services.garrison.hostKeys = [ "`+key+`" ]; services.garrison.checks.web.http.url = "http://localhost/"; services.garrison.checks.db = { tcp = "[::1]:5432"; timeout = 3; };`)
	if len(h.Units)+len(h.Paths)+len(h.Timers)+len(h.Nix)+len(h.Packages)+len(h.Groups) > 0 || len(h.Etc) != 1 || !slices.Equal(h.HostKeys, []string{key}) {
		t.Errorf("it makes %+v", h)
	}
	web, db := h.Checks["web"].(map[string]any), h.Checks["db"].(map[string]any)
	if web["http"].(map[string]any)["url"] != "http://localhost/" || web["timeout"] != 10.0 || web["retries"] != 3.0 || web["interval"] != 1.0 || web["tcp"] != nil || db["tcp"] != "[::1]:5432" || db["timeout"] != 3.0 {
		t.Errorf("the checks: %v", h.Checks)
	}
}

// TestMonitoring: the options name the very files of this tree.
func TestMonitoring(t *testing.T) {
	h := must(t, `imports = [ ({ config, ... }: { environment.etc = builtins.mapAttrs (_: f: { text = builtins.readFile f; }) config.services.garrison.monitoring; }) ];`)
	for option, file := range map[string]string{"agentRules": "agent-rules.yml", "hubRules": "hub-rules.yml", "dashboard": "grafana-dashboard.json"} {
		if want, err := os.ReadFile(filepath.Join("..", "monitoring", file)); err != nil || h.Etc[option] != string(want) {
			t.Errorf("%s: %v, %d bytes", option, err, len(h.Etc[option]))
		}
	}
}
