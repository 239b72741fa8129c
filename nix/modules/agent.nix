# services.garrison.agent: the host side. It writes /etc/garrison/agent.toml and runs the agent.
#
# An option that is not set stands in no file, so the agent's own default holds (docs/FORMATS.md).
#
# Its secrets are named by their path on the host, and not handed over by systemd (LoadCredential): that would copy them once, when the agent
# starts, which no deployment restarts, and would not start it at all while one is missing. The agent reads them for each use.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  inherit (builtins) concatMap filter length match;
  words = import ./words.nix { inherit lib; };
  inherit (words) absent absolute duration hostPort httpURL inStore merge secretFile signerKey unsetEmpty;
  toTOML = import ../toml.nix;

  cfg = config.services.garrison.agent;
  at = "services.garrison.agent";

  remote = types.submodule {
    options = {
      name = mkOption { type = types.str; description = "What it is called in status and logs."; };
      url = mkOption { type = types.str; description = "URL of the fleet's repository."; };
      credentialsFile = absent types.str { description = "File on the host with what HTTPS asks for; read again when it changes."; };
      sshKeyFile = absent types.str { description = "File on the host with the private SSH key to fetch with."; };
      knownHostsFile = absent types.str { description = "File with the SSH server's key; unset: /etc/ssh/ssh_known_hosts."; };
    };
  };

  cache = types.submodule {
    options = {
      url = mkOption { type = types.str; description = "URL of the cache."; };
      publicKey = mkOption { type = types.str; example = "fleet:AAAA…"; description = "Its key, as garrison cache info prints it."; };
      pushTokenFile = absent types.str { description = "File on the host with a token that may push: what this host builds goes to this cache."; };
    };
  };

  # "Sat 02:00-05:00", "Mon-Fri 22:00-04:00", "Mon,Wed 03:00-04:00", "02:00-05:00"
  isWindow = w: match "([A-Z][a-z][a-z]([-,][A-Z][a-z][a-z])* )?([01][0-9]|2[0-3]):[0-5][0-9](-|–)([01][0-9]|2[0-4]):[0-5][0-9]" w != null;
  window = option: w: {
    assertion = isWindow w;
    message = "${option}: \"${w}\" is not a window of time. Write days and hours like \"Sat 02:00-05:00\", \"Mon-Fri 22:00-04:00\" or \"02:00-05:00\".";
  };

  # The keys and those of a file that is there when the system is evaluated make one file; a file that is there
  # only on the host must be alone.
  fileNow = inStore cfg.allowedSignersFile;
  signersText = words.signers cfg.allowedSigners + (if fileNow then builtins.readFile cfg.allowedSignersFile else "");
  signersFile = if cfg.allowedSignersFile != null && !fileNow then cfg.allowedSignersFile else "/etc/garrison/allowed-signers";

  settings = {
    inherit (cfg) host remote remotes branch caches hub poll checkTime fetchTime confirm windows onDrift correctAfter build prefetch reboot metrics afterDeploy afterDeployTime;
    allowedSigners = signersFile;
  };
  toml = toTOML (merge (unsetEmpty settings) cfg.settings);

  assertions = [
    {
      assertion = cfg.remote != null || cfg.remotes != [ ] || cfg.settings ? remote || cfg.settings ? remotes;
      message = "${at}.remote is not set. Set it to the URL of the fleet's repository, or list several in ${at}.remotes.";
    }
    {
      assertion = cfg.remote == null || cfg.remotes == [ ];
      message = "${at}.remote and ${at}.remotes are both set. Keep one: remotes where there are several repositories, or one that needs a credential.";
    }
    {
      assertion = cfg.allowedSigners != [ ] || cfg.allowedSignersFile != null;
      message = "${at}.allowedSigners is empty: no release could be accepted. Give the release key's public half (its .pub file), or a file in ${at}.allowedSignersFile.";
    }
    {
      assertion = cfg.allowedSigners == [ ] || cfg.allowedSignersFile == null || fileNow;
      message = "${at}.allowedSignersFile is a file on the host, so ${at}.allowedSigners cannot be added to it. Write the keys into the file, or make it a file of the repository.";
    }
    {
      assertion = (cfg.hub.url == null) == (cfg.hub.tokenFile == null);
      message = "${at}.hub needs both url and tokenFile: a host reports with a token of its own (scope report:HOST). Without a hub, set neither.";
    }
    {
      assertion = cfg.host == null || match "[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?" cfg.host != null;
      message = "${at}.host is \"${toString cfg.host}\", which cannot be a host's name. Give its name in nixosConfigurations.";
    }
    {
      assertion = builtins.all (r: length (filter (other: other.name == r.name) cfg.remotes) == 1) cfg.remotes;
      message = "${at}.remotes: two have the same name. Give each a name of its own.";
    }
    (httpURL "${at}.hub.url" cfg.hub.url)
    (secretFile "${at}.hub.tokenFile" cfg.hub.tokenFile)
    (absolute "${at}.hub.tokenFile" cfg.hub.tokenFile)
    (absolute "${at}.allowedSignersFile" cfg.allowedSignersFile)
    (duration "${at}.poll" cfg.poll)
    (duration "${at}.checkTime" cfg.checkTime)
    (duration "${at}.fetchTime" cfg.fetchTime)
    (duration "${at}.afterDeployTime" cfg.afterDeployTime)
    (duration "${at}.correctAfter" cfg.correctAfter)
    (duration "${at}.build.time" cfg.build.time)
    (duration "${at}.build.after" cfg.build.after)
    {
      assertion = if cfg.reboot.when == "window" then cfg.reboot.windows != [ ] else cfg.reboot.when == "ring" || cfg.reboot.windows == [ ];
      message = "${at}.reboot.windows belongs to ${at}.reboot.when = \"window\", which needs it, or \"ring\": set both or none.";
    }
    {
      assertion = cfg.prefetch.rate == null || match "[1-9][0-9]*(KB|MB|GB)" cfg.prefetch.rate != null;
      message = "${at}.prefetch.rate is \"${toString cfg.prefetch.rate}\". It must be so much a second, like \"500KB\" or \"10MB\".";
    }
    (hostPort "${at}.metrics.listen" cfg.metrics.listen)
    {
      assertion = cfg.afterDeploy == [ ] || match "/.*" (builtins.head cfg.afterDeploy) != null;
      message = "${at}.afterDeploy must begin with a program's absolute path.";
    }
  ]
  ++ map (signerKey "${at}.allowedSigners") cfg.allowedSigners
  ++ map (window "${at}.windows") cfg.windows
  ++ map (window "${at}.reboot.windows") cfg.reboot.windows
  ++ map
    (c: {
      assertion = match "[^: ]+:[A-Za-z0-9+/=]+" c.publicKey != null;
      message = "${at}.caches: the publicKey of ${c.url} must have the form name:base64. garrison cache info NAME prints it.";
    })
    cfg.caches
  ++ concatMap
    (c: [
      (secretFile "${at}.caches: the pushTokenFile of ${c.url}" c.pushTokenFile)
      (absolute "${at}.caches: the pushTokenFile of ${c.url}" c.pushTokenFile)
    ])
    cfg.caches
  ++ concatMap
    (r: [
      (secretFile "${at}.remotes: the credentialsFile of ${r.name}" r.credentialsFile)
      (absolute "${at}.remotes: the credentialsFile of ${r.name}" r.credentialsFile)
      (secretFile "${at}.remotes: the sshKeyFile of ${r.name}" r.sshKeyFile)
      (absolute "${at}.remotes: the sshKeyFile of ${r.name}" r.sshKeyFile)
    ])
    cfg.remotes;
in
{
  imports = [ ./common.nix ];

  options.services.garrison.agent = {
    enable = lib.mkEnableOption "Garrison's agent, which makes this host run what the fleet's releases say";
    package = mkOption {
      type = types.package;
      default = config.services.garrison.package;
      defaultText = "config.services.garrison.package";
      description = "The garrison package that the agent runs.";
    };
    host = absent types.str {
      default = config.networking.hostName;
      defaultText = "config.networking.hostName";
      description = "This host's name in nixosConfigurations; null: the machine's name when the agent starts.";
    };
    remote = absent types.str { example = "https://forge.example.org/fleet.git"; description = "URL of the fleet's repository."; };
    remotes = mkOption {
      type = types.listOf remote;
      default = [ ];
      description = "Several repositories with the same releases, or one that needs a credential. Instead of remote.";
    };
    branch = absent types.str { description = "The branch to follow; unset: release."; };
    allowedSigners = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ssh-ed25519 AAAA…" ];
      description = "Public keys that may sign releases. To change the key, list both for one release.";
    };
    allowedSignersFile = absent (types.either types.path types.str) {
      description = ''
        A file of such keys as ssh-keygen(1) has them under ALLOWED SIGNERS: of the repository (its lines are added to allowedSigners), or, as a
        string, one that is there only on the host.
      '';
    };
    caches = mkOption { type = types.listOf cache; default = [ ]; description = "Caches to fetch from, besides nix.settings.substituters."; };
    hub = {
      url = absent types.str { example = "https://hub.example.org"; description = "The hub that wakes this agent and takes its reports."; };
      tokenFile = absent (types.either types.path types.str) {
        example = "/run/agenix/garrison-token";
        description = "File on the host with this host's token. It is read for every request, so that a new one counts at once.";
      };
    };
    poll = absent types.str { example = "60s"; description = "How often to look at git when nothing wakes the agent."; };
    checkTime = absent types.str { example = "120s"; description = "Time for a new system to become healthy."; };
    fetchTime = absent types.str { example = "1h"; description = "Time for a closure to arrive."; };
    confirm = absent (types.enum [ "auto" "manual" ]) { description = "manual: each release waits for garrison confirm on this host."; };
    windows = mkOption { type = types.listOf types.str; default = [ ]; example = [ "Sat 02:00-05:00" ]; description = "When to activate; empty: at once. Closures are fetched before."; };
    onDrift = absent (types.enum [ "leave" "correct" ]) { description = "What to do about a system that somebody switched to by hand: leave it until a release brings another, or switch back."; };
    correctAfter = absent types.str { example = "30s"; description = "How long after a switch by hand it is switched back."; };
    reboot = {
      when = absent (types.enum [ "never" "window" "ring" ]) { description = "window: the agent reboots a host that needs it, inside its windows; ring: when its ring lets it, and inside the windows if there are any."; };
      windows = mkOption { type = types.listOf types.str; default = [ ]; description = "When to."; };
    };
    prefetch = {
      enable = absent types.bool { description = "Whether to fetch a release that the host's ring does not give it yet, so that it is activated in seconds then; unset: true."; };
      rate = absent types.str { example = "2MB"; description = "How much a second that may take of the network, with every Nix and over all its connections; unset: 10MB."; };
    };
    build = {
      when = absent (types.enum [ "auto" "never" ]) { description = "auto: the host builds what CI did not, or what no cache has."; };
      time = absent types.str { example = "4h"; description = "Time for one build."; };
      after = absent types.str { example = "10m"; description = "How long caches that do not answer are waited for before."; };
    };
    metrics.listen = absent types.str { example = "127.0.0.1:9110"; description = "Address to serve Prometheus metrics at; unset: on the agent's socket only."; };
    afterDeploy = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "/run/current-system/sw/bin/logger" "deployed" ];
      description = "Program and arguments to run after every deployment, committed or failed, with GARRISON_* (and comin's COMIN_*) in its environment.";
    };
    afterDeployTime = absent types.str { example = "5m"; description = "Time for afterDeploy, after which it is ended."; };
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      description = "Keys of agent.toml that have no option here. They win over the options.";
    };
  };

  config = lib.mkIf cfg.enable {
    inherit assertions;

    environment.systemPackages = [ cfg.package ];
    environment.etc = lib.mkMerge [
      { "garrison/agent.toml".text = toml; }
      (lib.mkIf (signersFile == "/etc/garrison/allowed-signers") { "garrison/allowed-signers".text = signersText; })
    ];

    # Its members may use the agent's socket: garrison status, history, …
    users.groups.garrison = { };

    systemd.services.garrison-agent = words.daemon { inherit config pkgs toml; environment.XDG_CACHE_HOME = "/var/cache/garrison"; } // {
      description = "Garrison agent";

      # An activation must not stop the agent that watches it.
      restartIfChanged = false;
      stopIfChanged = false;

      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = "${cfg.package}/bin/garrison agent";
        Restart = "always";
        RestartSec = 5;
        WatchdogSec = "5min";
        TimeoutStopSec = 30;
        StateDirectory = "garrison";
        CacheDirectory = "garrison";
        RuntimeDirectory = "garrison";
        OOMScoreAdjust = -500;

        # The agent is root, runs nix (which mounts, makes namespaces, changes users) and afterDeploy; what hinders one
        # of those is not here. Activations run in units of their own.
        CapabilityBoundingSet = "~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_BOOT CAP_SYS_TTY_CONFIG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND";
        ProtectKernelModules = true;
        RestrictRealtime = true;
        KeyringMode = "private";
      };
    };
  };
}
