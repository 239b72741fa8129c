# services.garrison.hub: cache, wake-up of agents, their reports, CI where ci.remote is set, and what the forge says and is told. It writes
# /etc/garrison/hub.toml and runs the hub as a user that may write nothing but its own data.
#
# Secrets reach it by systemd (LoadCredential), so they may belong to root. systemd copies them when the hub starts:
# after a change, systemctl restart garrison-hub (sops-nix: restartUnits).
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  inherit (builtins) attrNames filter match;
  words = import ./words.nix { inherit lib; };
  inherit (words) absent absolute duration hostPort merge secretFile signerKey;
  toTOML = import ../toml.nix;

  cfg = config.services.garrison.hub;
  at = "services.garrison.hub";
  withCI = cfg.ci.remote != null;
  notify = import ./hub-notify.nix { inherit lib words credential; cfg = cfg.notify; at = "${at}.notify"; };

  # The hub's secrets: what systemd calls each, and where it is on the host.
  secrets = {
    tokens = cfg.tokensFile;
    forge-token = cfg.forge.tokenFile;
    webhook-secret = cfg.forge.webhookSecretFile;
    database-url = cfg.database.urlFile;
    trace-headers = cfg.trace.headersFile;
    follow-credentials = cfg.follow.credentialsFile;
    follow-ssh-key = cfg.follow.sshKeyFile;
  } // words.tokenKeys cfg.cache.tokenKeyFiles // notify.secrets
    // (if withCI then { signing-key = cfg.ci.signingKeyFile; identity = cfg.ci.identityFile; ssh-key = cfg.ci.sshKeyFile; ci-credentials = cfg.ci.credentialsFile; ci-cache-token = cfg.ci.cacheTokenFile; } else { });
  given = filter (name: secrets.${name} != null) (attrNames secrets);
  # A path of the repository, which only tokensFile may be, is copied to the store.
  file = name: if name == "tokens" then "${secrets.tokens}" else toString secrets.${name};
  credential = name: if secrets.${name} or null == null then null else "/run/credentials/garrison-hub.service/${name}";

  settings = {
    inherit (cfg) listen;
    dataDir = "/var/lib/garrison-hub";
    tokens = credential "tokens";
    cache = { inherit (cfg.cache) name; tokenKeys = if cfg.cache.tokenKeyFiles == [ ] then null else map credential (attrNames (words.tokenKeys cfg.cache.tokenKeyFiles)); };
    database.urlFile = credential "database-url";
    notify = notify.settings;
    keep = { inherit (cfg.keep) events history logs; };
    rollout = { inherit (cfg.rollout) enable; };
    inherit (cfg) metrics;
    trace = { inherit (cfg.trace) endpoint caFile; headersFile = credential "trace-headers"; };
    ci = if !withCI then { } else {
      inherit (cfg.ci) remote poll cache;
      cacheTokenFile = credential "ci-cache-token";
      signingKey = credential "signing-key";
      identity = credential "identity";
      credentialsFile = credential "ci-credentials";
      allowedSigners = if cfg.ci.allowedSigners == [ ] then null else "/etc/garrison/hub-allowed-signers";
      sourceSigners = if cfg.ci.sourceSigners == [ ] then null else "/etc/garrison/hub-source-signers";
    };
    follow = {
      inherit (cfg.follow) remote branch poll silent knownHostsFile;
      credentialsFile = credential "follow-credentials";
      sshKeyFile = credential "follow-ssh-key";
      allowedSigners = if cfg.follow.allowedSigners == [ ] then null else "/etc/garrison/hub-follow-signers";
    };
    web = {
      enabled = if cfg.web.enable then null else false;
      loopback = if cfg.web.loopback then true else null;
      proxy = if cfg.web.proxy.header == null then { } else { inherit (cfg.web.proxy) header from; };
    };
    forge = {
      inherit (cfg.forge) kind url api repo;
      tokenFile = credential "forge-token";
      webhookSecretFile = credential "webhook-secret";
    };
  };
  toml = toTOML (merge settings cfg.settings);

  environment = { HOME = "/var/cache/garrison-hub"; XDG_CACHE_HOME = "/var/cache/garrison-hub"; }
    // (if withCI && cfg.ci.sshKeyFile != null then {
    GIT_SSH_COMMAND = "ssh -i ${credential "ssh-key"} -o IdentitiesOnly=yes -o BatchMode=yes -o ConnectTimeout=15 -o ServerAliveInterval=15";
  } else { });

  assertions = [
    {
      assertion = cfg.tokensFile != null;
      message = "${at}.tokensFile is not set: nobody could upload, report or wake. Give the file that lists the tokens' hashes (docs/FORMATS.md).";
    }
    {
      assertion = !withCI || cfg.ci.signingKeyFile != null;
      message = "${at}.ci.signingKeyFile is not set: a release must be signed. Make a key: ssh-keygen -t ed25519 -N '' -f release-key.";
    }
    {
      assertion = withCI || cfg.ci.signingKeyFile == null && cfg.ci.identityFile == null && cfg.ci.sshKeyFile == null && cfg.ci.credentialsFile == null && cfg.ci.cacheTokenFile == null;
      message = "${at}.ci has keys but no remote, so no CI would run. Set ${at}.ci.remote to the URL of the fleet's repository.";
    }
    {
      assertion = cfg.ci.cache != null || cfg.ci.cacheTokenFile == null;
      message = "${at}.ci.cacheTokenFile is set, and no ${at}.ci.cache. Set that to the cache's URL; the hub's own needs no token.";
    }
    {
      assertion = cfg.forge.kind == null || cfg.forge.tokenFile != null || cfg.forge.webhookSecretFile != null;
      message = "${at}.forge has neither tokenFile nor webhookSecretFile: nothing would be told to it, or heard from it. Set one, or both.";
    }
    {
      assertion = cfg.forge.kind == null && cfg.forge.tokenFile == null && cfg.forge.webhookSecretFile == null || cfg.forge.kind != null && cfg.forge.url != null && cfg.forge.repo != null;
      message = "${at}.forge needs kind, url and repo, which say where the repository is.";
    }
    {
      assertion = cfg.forge.kind == null || withCI || cfg.follow.remote != null;
      message = "${at}.follow.remote is not set: a forge is of no use to a hub that follows no repository. Set it, or ${at}.ci.remote.";
    }
    (secretFile "${at}.database.urlFile" cfg.database.urlFile)
    (secretFile "${at}.trace.headersFile" cfg.trace.headersFile)
    {
      assertion = cfg.trace.endpoint != null || cfg.trace.headersFile == null && cfg.trace.caFile == null;
      message = "${at}.trace.endpoint is not set: no trace would be sent. Set it to the URL of an OTLP/HTTP receiver, like http://127.0.0.1:4318/v1/traces.";
    }
    (hostPort "${at}.metrics.listen" cfg.metrics.listen)
    (duration "${at}.keep.events" cfg.keep.events)
    (duration "${at}.keep.history" cfg.keep.history)
    (secretFile "${at}.forge.tokenFile" cfg.forge.tokenFile)
    (secretFile "${at}.forge.webhookSecretFile" cfg.forge.webhookSecretFile)
    (secretFile "${at}.follow.credentialsFile" cfg.follow.credentialsFile)
    (secretFile "${at}.follow.sshKeyFile" cfg.follow.sshKeyFile)
    (duration "${at}.follow.poll" cfg.follow.poll)
    (duration "${at}.follow.silent" cfg.follow.silent)
    (secretFile "${at}.ci.signingKeyFile" cfg.ci.signingKeyFile)
    (secretFile "${at}.ci.identityFile" cfg.ci.identityFile)
    (secretFile "${at}.ci.sshKeyFile" cfg.ci.sshKeyFile)
    (secretFile "${at}.ci.credentialsFile" cfg.ci.credentialsFile)
    (secretFile "${at}.ci.cacheTokenFile" cfg.ci.cacheTokenFile)
    (duration "${at}.ci.poll" cfg.ci.poll)
    (hostPort "${at}.listen" cfg.listen)
    {
      assertion = (cfg.web.proxy.header == null) == (cfg.web.proxy.from == [ ]);
      message = "${at}.web.proxy needs header and from: who is at the other end, and where it says so.";
    }
    {
      assertion = cfg.cache.name == null || match "[A-Za-z0-9][A-Za-z0-9_+-]{0,49}" cfg.cache.name != null;
      message = "${at}.cache.name is \"${toString cfg.cache.name}\". A cache's name has letters, digits and -_+, at most 50.";
    }
  ]
  ++ notify.assertions
  ++ map (secretFile "${at}.cache.tokenKeyFiles") cfg.cache.tokenKeyFiles
  ++ map (name: absolute "${at}: the file of ${name}" secrets.${name}) given
  ++ map (signerKey "${at}.ci.allowedSigners") cfg.ci.allowedSigners
  ++ map (signerKey "${at}.ci.sourceSigners") cfg.ci.sourceSigners
  ++ map (signerKey "${at}.follow.allowedSigners") cfg.follow.allowedSigners;
in
{
  imports = [ ./common.nix ];

  options.services.garrison.hub = {
    enable = lib.mkEnableOption "Garrison's hub, with the fleet's binary cache";
    package = mkOption {
      type = types.package;
      default = config.services.garrison.package;
      defaultText = "config.services.garrison.package";
      description = "The garrison package that the hub runs.";
    };
    listen = mkOption {
      type = types.str;
      default = "127.0.0.1:8420";
      description = "Address to serve at, in plain HTTP. Put a reverse proxy with TLS in front, and keep this one on loopback.";
    };
    tokensFile = absent (types.either types.path types.str) {
      example = "/run/agenix/garrison-tokens";
      description = "The file that lists the tokens. Only hashes stand in it, so it may be a file of the repository.";
    };
    cache.name = absent types.str { description = "The cache's name, a part of its URL; unset: fleet."; };
    cache.tokenKeyFiles = mkOption {
      type = types.listOf (types.either types.path types.str);
      default = [ ];
      description = "Files with the secrets (HS256) or public keys (RS256) of tokens for this and further caches.";
    };
    metrics.listen = absent types.str { example = "127.0.0.1:9102"; description = "Address to serve Prometheus metrics at, the cache's among them, to anybody; unset: at the hub's own, /metrics, with a token that may read."; };
    trace = {
      endpoint = absent types.str { example = "http://127.0.0.1:4318/v1/traces"; description = "URL of an OTLP/HTTP receiver. Set, there is a trace of each push there, from the forge to its hosts."; };
      headersFile = absent (types.either types.path types.str) { description = "Headers of each request there, like Authorization: Bearer …, one a line."; };
      caFile = absent types.str { description = "File with the certificates that are believed there; unset: the system's."; };
    };
    database.urlFile = absent (types.either types.path types.str) { description = "File with the URL of the PostgreSQL database that has what the hub knows; unset: SQLite on the local disk."; };
    rollout.enable = absent types.bool { description = "Whether the hub gives rings their releases, and takes orders about that; unset: where it has a CI, whose credentials may push. Without a CI, those of follow must."; };
    keep = {
      events = absent types.str { example = "720h"; description = "How long events, and alerts that are over, are kept."; };
      history = absent types.str { example = "9600h"; description = "How long deployments, releases, runs with their logs, and drills are kept."; };
      logs = absent types.int { example = 10; description = "Of how many deployments of a host the log is kept."; };
    };
    ci = {
      remote = absent types.str { description = "URL of the fleet's repository. Set, the hub makes a release of each push to the source branch."; };
      poll = absent types.str { example = "60s"; description = "How often to look at it when nothing wakes the hub."; };
      signingKeyFile = absent (types.either types.path types.str) { description = "The release key: a private SSH key without a passphrase."; };
      identityFile = absent (types.either types.path types.str) { description = "Private key (age or SSH) that secrets on the source branch are readable with."; };
      sshKeyFile = absent (types.either types.path types.str) { description = "Private key to fetch and push with, where remote is an SSH URL. The server's key must be in programs.ssh.knownHosts."; };
      allowedSigners = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Keys that may have signed earlier releases; empty: the release key alone. To change the key, list both.";
      };
      cache = absent types.str { example = "https://cache.example.org/fleet"; description = "URL of the cache to push to, where it is not the hub's own."; };
      cacheTokenFile = absent (types.either types.path types.str) { description = "File with a token that may push there."; };
      credentialsFile = absent (types.either types.path types.str) { description = "Lines like https://user:token@host, for remote and mirrors over HTTPS; a repository at the forge needs none beside forge.tokenFile, which must then be one that may push."; };
      sourceSigners = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Keys that may sign commits on the source branch; empty: source.signers of the last release, and anybody where it has none.";
      };
    };
    follow = {
      remote = absent types.str { description = "URL of the repository with the releases, where another CI makes them; unset: ci.remote."; };
      branch = absent types.str { description = "The branch with the releases; unset: release."; };
      credentialsFile = absent (types.either types.path types.str) { description = "What HTTPS asks for: user:token, or a token alone; unset: forge.tokenFile, if the repository is there."; };
      sshKeyFile = absent (types.either types.path types.str) { description = "Private key to fetch with, where remote is an SSH URL."; };
      knownHostsFile = absent types.str { description = "File with the SSH server's key; unset: /etc/ssh/ssh_known_hosts."; };
      poll = absent types.str { example = "60s"; description = "How often to look at it when nothing wakes the hub."; };
      silent = absent types.str { example = "15m"; description = "After which time a host that has not the newest release and says nothing is named on the forge."; };
      allowedSigners = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Keys that may sign releases; empty: ci.allowedSigners. Without either, the hub shows what the branch points at, which agents still verify.";
      };
    };
    forge = {
      kind = absent (types.enum [ "gitea" "github" "gitlab" ]) { description = "What the repository lives on; gitea is Forgejo, too."; };
      url = absent types.str { example = "https://git.example.org"; description = "Where its pages are, without the repository."; };
      api = absent types.str { description = "Where its API is; unset: where the kind has it."; };
      repo = absent types.str { example = "ops/fleet"; description = "The repository there: owner/name."; };
      tokenFile = absent (types.either types.path types.str) { description = "A token that may set commit statuses. Set, runs of CI and the rollout of each release are shown there."; };
      webhookSecretFile = absent (types.either types.path types.str) { description = "Secrets of webhooks, one a line. Set, deliveries to /api/v1/webhook that are signed with one of them wake the hub."; };
    };
    web = {
      enable = mkOption {
        type = types.bool;
        default = true;
        description = "Whether the hub serves its page, which shows the fleet to who has a token of scope read.";
      };
      loopback = mkOption {
        type = types.bool;
        default = false;
        description = "Whether every user of this machine may read the page without a token, by http://localhost. Not with a reverse proxy on it.";
      };
      proxy.header = absent types.str { example = "X-Forwarded-User"; description = "Header in which a reverse proxy names who is logged in there; whoever it names may read the page. The proxy must overwrite what visitors send."; };
      proxy.from = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [ "127.0.0.1" ];
        description = "Addresses or networks of the proxies whose header is believed.";
      };
    };
    notify = notify.options;
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      description = "Keys of hub.toml that have no option here. They win over the options.";
    };
  };

  config = lib.mkIf cfg.enable {
    inherit assertions;

    environment.systemPackages = [ cfg.package ];
    environment.etc = lib.mkMerge [
      { "garrison/hub.toml".text = toml; }
      (lib.mkIf (withCI && cfg.ci.allowedSigners != [ ]) { "garrison/hub-allowed-signers".text = words.signers cfg.ci.allowedSigners; })
      (lib.mkIf (withCI && cfg.ci.sourceSigners != [ ]) { "garrison/hub-source-signers".text = words.signers cfg.ci.sourceSigners; })
      (lib.mkIf (cfg.follow.allowedSigners != [ ]) { "garrison/hub-follow-signers".text = words.signers cfg.follow.allowedSigners; })
    ];

    systemd.services.garrison-hub = words.daemon { inherit config pkgs toml environment; } // {
      description = "Garrison hub";
      serviceConfig = words.exposed "garrison-hub" // {
        ExecStart = "${cfg.package}/bin/garrison hub";
        CacheDirectory = "garrison-hub";
        LoadCredential = map (name: "${name}:${file name}") given;
      };
    };
  };
}
