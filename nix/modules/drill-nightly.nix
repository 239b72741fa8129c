# services.garrison.drill.nightly: this machine drills a host of the fleet every night, as `garrison drill --live` does, and keeps the reports.
#
# A drill that fails leaves a failed unit, an exit code in the journal, and, where a hub is named, an alert. Secrets reach it by systemd
# (LoadCredential), so they may belong to root.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  inherit (builtins) concatStringsSep match;
  words = import ./words.nix { inherit lib; };
  inherit (words) absent absolute duration httpURL secretFile;

  cfg = config.services.garrison.drill.nightly;
  at = "services.garrison.drill.nightly";
  unit = "garrison-drill-nightly";
  state = "/var/lib/${unit}";
  secret = name: "/run/credentials/${unit}.service/${name}";
  file = types.either types.path types.str;

  secrets = { hub-token = cfg.hubTokenFile; ssh-key = cfg.sshKeyFile; git-credentials = cfg.credentialsFile; };
  given = builtins.filter (name: secrets.${name} != null) (builtins.attrNames secrets);

  arguments = [ "--live" cfg.host "--repo" "${state}/fleet.git" "--remote" cfg.repository "--repeat" (toString cfg.repeat) "--limit" cfg.limit "--save" "--kept" "${state}/drills" ]
    ++ builtins.concatMap (format: [ "--report" "${format}=${state}/last.${format}" ]) [ "html" "json" "junit" ]
    ++ (if cfg.hub == null then [ ] else [ "--hub" cfg.hub ])
    ++ (if cfg.hubTokenFile == null then [ ] else [ "--token-file" (secret "hub-token") ])
    ++ (if cfg.only == [ ] then [ ] else [ "--only" (concatStringsSep "," cfg.only) ])
    ++ (if cfg.allow == [ ] then [ ] else [ "--allow" (concatStringsSep "," cfg.allow) ]);
  drill = concatStringsSep " " ([ "${cfg.package}/bin/garrison" "drill" ] ++ map (builtins.replaceStrings [ "%" ] [ "%%" ]) arguments);
  # One agent has the key for git and for the commands on hosts, in the unit's own /tmp, and ends with the drill.
  withKey = "${pkgs.openssh}/bin/ssh-agent /bin/sh -c 'ssh-add -q ${secret "ssh-key"} && exec \"$$@\"' drill ";

  plain = option: text: {
    assertion = match "[^ \"'\\\\$;]+" text != null;
    message = "${option} is \"${text}\", which cannot be an argument: leave out spaces, quotes, backslashes, semicolons and $.";
  };
  # Not ours to know: what scenarios there are. A name that is none ends the drill at once.
  scenarios = option: map (plain option);
in
{
  imports = [ ./common.nix ];

  options.services.garrison.drill.nightly = {
    enable = lib.mkEnableOption "a drill of a host of the fleet every night";
    package = mkOption {
      type = types.package;
      default = config.services.garrison.package;
      defaultText = "config.services.garrison.package";
      description = "The garrison package that drills.";
    };
    host = mkOption { type = types.str; example = "ratched"; description = "The host that is drilled. It has services.garrison.drill.enable."; };
    repository = mkOption { type = types.str; example = "ssh://git@forge.example.org/fleet.git"; description = "URL of the fleet's repository. The drill pushes to its source branch, and puts back what it changed."; };
    hub = absent types.str { example = "https://hub.example.org"; description = "The hub's URL: it says how the fleet is, and is told how the drill ended. Unset: hub.url of garrison.toml."; };
    hubTokenFile = absent file { example = "/run/agenix/drill-token"; description = "File with a token of the scopes read and ci."; };
    sshKeyFile = absent file { example = "/run/agenix/drill-key"; description = "Private key to push with, and to look at the host with (root@HOST, or what [drill.hosts] in garrison.toml says). The servers' keys must be in programs.ssh.knownHosts."; };
    credentialsFile = absent file { description = "Lines like https://user:token@host, for a repository over HTTPS."; };
    allow = mkOption { type = types.listOf types.str; default = [ ]; example = [ "activation-fails" ]; description = "Scenarios that may disturb the host, and are drilled."; };
    only = mkOption { type = types.listOf types.str; default = [ ]; description = "Scenarios to drill; empty: all that are harmless, and those of allow."; };
    repeat = mkOption { type = types.int; default = 3; description = "How often the visible change travels, for its figures."; };
    limit = mkOption { type = types.str; default = "10m"; description = "What the way from push to healthy may take, each time."; };
    startAt = mkOption { type = types.str; default = "*-*-* 03:30:00"; description = "When, as systemd.time(7) has it. A night in which this machine is off is left out."; };
    author = mkOption { type = types.str; default = "garrison drill"; description = "Who the drill's commits are by."; };
    email = mkOption { type = types.str; default = "garrison-drill@localhost"; description = "And with which address."; };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      (plain "${at}.host" cfg.host)
      (plain "${at}.repository" cfg.repository)
      (duration "${at}.limit" cfg.limit)
      (httpURL "${at}.hub" cfg.hub)
      {
        assertion = cfg.repeat >= 1 && cfg.repeat <= 100;
        message = "${at}.repeat is ${toString cfg.repeat}. It must be a number from 1 to 100.";
      }
      {
        assertion = match "[^\n\"\\\\]+" cfg.author != null && match "[^ \n\"\\\\]+" cfg.email != null;
        message = "${at}.author and ${at}.email go into git's configuration: a name and an address, without quotes and backslashes.";
      }
    ] ++ scenarios "${at}.allow" cfg.allow ++ scenarios "${at}.only" cfg.only
    ++ builtins.concatMap (option: [ (secretFile "${at}.${option}" cfg.${option}) (absolute "${at}.${option}" cfg.${option}) ]) [ "hubTokenFile" "sshKeyFile" "credentialsFile" ];

    environment.etc."garrison/drill/git/config".text = ''
      [user]
      	name = "${cfg.author}"
      	email = "${cfg.email}"
    '' + (if cfg.credentialsFile == null then "" else ''
      [credential]
      	helper = "store --file=${secret "git-credentials"}"
    '');

    systemd.timers.${unit} = {
      wantedBy = [ "timers.target" ];
      timerConfig = { OnCalendar = cfg.startAt; AccuracySec = "1min"; }; # not Persistent: what is missed at night is not for the morning
    };
    systemd.services.${unit} = words.daemon
      {
        inherit config pkgs;
        toml = "";
        environment = { HOME = state; XDG_CONFIG_HOME = "/etc/garrison/drill"; XDG_CACHE_HOME = "${state}/cache"; };
      } // {
      description = "Garrison, drilling ${cfg.host}";
      wantedBy = [ ]; # but by its timer
      unitConfig = { };
      restartIfChanged = false; # a release that changes it must not end the drill that may have brought it
      serviceConfig = words.hardened // {
        Type = "oneshot";
        ExecStartPre = "${pkgs.git}/bin/git init --quiet --bare ${state}/fleet.git";
        ExecStart = (if cfg.sshKeyFile == null then "" else withKey) + drill;
        DynamicUser = true;
        StateDirectory = unit;
        StateDirectoryMode = "0700";
        UMask = "0077";
        KillMode = "mixed"; # it alone is told to stop, and puts back what it changed
        TimeoutStartSec = "4h";
        TimeoutStopSec = "15min";
        LoadCredential = map (name: "${name}:${toString secrets.${name}}") given;
      };
    };
  };
}
