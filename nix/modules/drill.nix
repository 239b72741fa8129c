# services.garrison.drill: what `garrison drill` changes in the fleet's repository becomes visible on this host, or breaks in it what a drill
# wants to see break. Without the file, and with one that breaks nothing here, it does nothing but show its text.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkIf mkOption types;
  cfg = config.services.garrison.drill;
  at = "services.garrison.drill";

  # Only a file of the repository can be there when the system is evaluated.
  marker = if cfg.file == null || !builtins.pathExists cfg.file then { } else builtins.fromJSON (builtins.readFile cfg.file);
  breaks = marker.break or { };
  what = if cfg.enable then breaks.${config.networking.hostName} or "" else "";
  kinds = [ "" "activate" "build" "check" "evaluate" "network" "slow" "unit" ];
  complaint = "garrison drill: ${what} is broken on purpose";
  broken = kind: mkIf (what == kind);

  # Its text is a part of /etc, so the system's build fails with it.
  unbuildable = derivation {
    name = "garrison-drill";
    inherit (pkgs.stdenv.hostPlatform) system;
    builder = "/bin/sh";
    args = [ "-c" "echo '${complaint}' >&2; exit 1" ];
  };
in
{
  imports = [ ./common.nix ./drill-nightly.nix ];

  options.services.garrison.drill = {
    enable = lib.mkEnableOption "drills of this host: /etc/gitops-test shows what garrison drill pushed";
    file = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "./drill.json";
      description = "drill.json at the root of the fleet's repository, where garrison drill writes it. It need not be there.";
    };
  };

  config = mkIf cfg.enable {
    assertions = [
      {
        assertion = cfg.file != null;
        message = "${at}.file is not set. Set it to drill.json at the root of the fleet's repository, as a path: ../drill.json";
      }
      {
        assertion = marker == { } || (marker.schema or null) == 1;
        message = "${at}.file has the schema ${builtins.toJSON (marker.schema or null)}, and this module knows 1. Update Garrison's flake input.";
      }
      {
        assertion = builtins.elem what kinds;
        message = "${at}.file breaks \"${what}\" of ${config.networking.hostName}, which this module does not know.";
      }
    ];

    environment.etc = lib.mkMerge [
      (mkIf (marker ? text) { gitops-test.text = if what == "evaluate" then throw complaint else marker.text; })
      (broken "build" { garrison-drill-broken.source = unbuildable; })
    ];

    system.activationScripts = lib.mkMerge [
      (broken "activate" { garrison-drill.text = "echo '${complaint}' >&2\nfalse\n"; })
      (broken "slow" { garrison-drill.text = "echo '${complaint}' >&2\nsleep 10\n"; })
    ];

    services.garrison.checks = broken "check" {
      drill = { command = [ "/bin/sh" "-c" "echo '${complaint}' >&2; exit 1" ]; retries = 0; };
    };

    systemd.services = lib.mkMerge [
      (broken "unit" {
        garrison-drill = {
          description = "Garrison drill: a unit that fails on purpose";
          wantedBy = [ "multi-user.target" ];
          serviceConfig = { Type = "oneshot"; ExecStart = "/bin/sh -c \"echo '${complaint}' >&2; exit 1\""; };
        };
      })
      # The system before has no such unit: to go back to it stops this one, which lets the network in again.
      (broken "network" {
        garrison-drill-network = {
          description = "Garrison drill: this host is cut off on purpose";
          wantedBy = [ "multi-user.target" ];
          serviceConfig = {
            Type = "oneshot";
            RemainAfterExit = true;
            ExecStart = [
              "/bin/sh -c \"echo '${complaint}' >&2\""
              "${pkgs.iproute2}/bin/ip rule add pref 1 unreachable"
              "-${pkgs.iproute2}/bin/ip -6 rule add pref 1 unreachable" # it may have no IPv6
            ];
            ExecStop = [ "${pkgs.iproute2}/bin/ip rule del pref 1" "-${pkgs.iproute2}/bin/ip -6 rule del pref 1" ];
          };
        };
      })
    ];
  };
}
