# What agent and hub share, and what CI reads of a host when it makes a release: the host's keys and
# its health checks. These count on every host of the fleet, whether its agent is enabled or not.
{ config, lib, ... }:

let
  inherit (lib) mkOption types;
  cfg = config.services.garrison;

  check = types.submodule {
    options = {
      command = mkOption {
        type = types.nullOr (types.listOf types.str);
        default = null;
        example = [ "/run/current-system/sw/bin/systemctl" "is-system-running" ];
        description = "A program and its arguments. It passes by exit code 0.";
      };
      http = mkOption {
        type = types.nullOr (types.submodule {
          options = {
            url = mkOption { type = types.str; description = "URL to GET."; };
            status = mkOption { type = types.nullOr types.int; default = null; description = "The status that is wanted; unset: any of 200 to 299."; };
            contains = mkOption { type = types.nullOr types.str; default = null; description = "Text that the answer must hold."; };
          };
        });
        default = null;
        description = "A page that must answer.";
      };
      tcp = mkOption { type = types.nullOr types.str; default = null; example = "127.0.0.1:5432"; description = "HOST:PORT that must accept a connection."; };
      unit = mkOption { type = types.nullOr types.str; default = null; example = "nginx.service"; description = "A systemd unit that must be active."; };
      timeout = mkOption { type = types.int; default = 10; description = "Seconds that one attempt may take."; };
      retries = mkOption { type = types.int; default = 3; description = "Further attempts after the first that failed."; };
      interval = mkOption { type = types.int; default = 1; description = "Seconds between two attempts."; };
    };
  };

  kinds = [ "command" "http" "tcp" "unit" ];
  kindsOf = c: builtins.filter (k: c.${k} != null) kinds;

  assertCheck = name: c:
    let
      at = "services.garrison.checks.${name}";
      found = kindsOf c;
    in
    [
      {
        assertion = builtins.length found == 1;
        message = "${at} must be exactly one of command, http, tcp and unit; it is ${if found == [ ] then "none" else builtins.concatStringsSep " and " found}. For two things to look at, declare two checks.";
      }
      {
        assertion = c.command != [ ];
        message = "${at}.command is empty. Name a program and its arguments.";
      }
      {
        assertion = c.tcp == null || builtins.match ".+:[0-9]+" c.tcp != null;
        message = "${at}.tcp is \"${toString c.tcp}\". It must be HOST:PORT.";
      }
      {
        assertion = c.unit == null || builtins.match "[^ /]+\\.[a-z]+" c.unit != null;
        message = "${at}.unit is \"${toString c.unit}\". It must be a unit's name with its kind, like \"nginx.service\".";
      }
      {
        assertion = c.http == null || builtins.match "https?://[^ ]+" c.http.url != null;
        message = "${at}.http.url is not an http or https URL.";
      }
      {
        assertion = c.timeout > 0 && c.retries >= 0 && c.interval >= 0;
        message = "${at}: timeout must be at least 1, retries and interval at least 0.";
      }
    ];
in
{
  options.services.garrison = {
    package = mkOption {
      type = types.package;
      description = "The garrison package.";
    };

    hostKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "ssh-ed25519 AAAA…" ];
      description = ''
        Public keys of this host that its secrets are encrypted for; two while the key is being changed.
        CI reads them from the evaluation. `ssh-keyscan -t ed25519 HOST` prints one.
      '';
    };

    tags = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "web" "eu" ];
      description = ''
        Words for this host by which garrison.toml may put it in a ring: hosts = ["tag:web"] in [[rings]]. CI reads them from the evaluation.
      '';
    };

    monitoring = {
      agentRules = mkOption {
        type = types.path;
        readOnly = true;
        default = ../../monitoring/agent-rules.yml;
        description = "Prometheus' alerting rules on agents' metrics, for services.prometheus.ruleFiles. The job must be named garrison-agent.";
      };
      hubRules = mkOption {
        type = types.path;
        readOnly = true;
        default = ../../monitoring/hub-rules.yml;
        description = "The same on a hub's metrics, with a job named garrison-hub.";
      };
      dashboard = mkOption {
        type = types.path;
        readOnly = true;
        default = ../../monitoring/grafana-dashboard.json;
        description = "A dashboard for Grafana, for services.grafana.provision.dashboards.settings.providers.*.options.path.";
      };
    };

    checks = mkOption {
      type = types.attrsOf check;
      default = { };
      description = ''
        What must work in a new system before it is committed; else the host goes back to the previous one. CI puts them
        into the release's manifest. Each is exactly one of command, http, tcp and unit.
      '';
    };
  };

  config = lib.mkMerge [
    {
      assertions = builtins.concatLists (builtins.attrValues (builtins.mapAttrs assertCheck cfg.checks)) ++ map
        (key: {
          assertion = builtins.match "(ssh-|ecdsa-|sk-|age1).*" key != null;
          message = "services.garrison.hostKeys: \"${key}\" is not a public key. Give an SSH public key (ssh-ed25519 AAAA…) or an age recipient (age1…), never a file's name or a private key.";
        })
        cfg.hostKeys ++ map
        (tag: {
          assertion = builtins.match "[a-z0-9]([a-z0-9_-]*[a-z0-9])?" tag != null;
          message = "services.garrison.tags: \"${tag}\" is not a tag. Write small letters, digits, hyphens and underscores.";
        })
        cfg.tags;
    }
    (lib.mkIf (cfg.checks != { }) {
      # The manifest only names the checks' programs: this brings them into the system's closure, and onto the host.
      environment.etc."garrison/checks.json".text = builtins.toJSON (builtins.mapAttrs
        (_: c: builtins.removeAttrs c (builtins.filter (k: c.${k} == null) kinds))
        cfg.checks);
    })
  ];
}
