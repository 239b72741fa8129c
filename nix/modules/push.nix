# services.garrison.push: what this host builds, or all that comes into its store, goes to a cache, without slowing a build.
#
# The token reaches it by systemd (LoadCredential), so it may belong to root. systemd copies it when the unit starts.
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  inherit (builtins) match;
  words = import ./words.nix { inherit lib; };
  inherit (words) absent absolute secretFile;

  cfg = config.services.garrison.push;
  at = "services.garrison.push";
  built = cfg.what == "built";
  inBucket = match "s3://.*" cfg.url != null;
  queue = "/nix/var/nix/gcroots/garrison-${if built then "built" else "watched"}";
  hook = "garrison/post-build-hook";
  token = "/run/credentials/garrison-push.service/token";

  arguments = [ "--cache" (builtins.replaceStrings [ "%" ] [ "%%" ] cfg.url) "--queue" queue ]
    ++ (if cfg.tokenFile != null && !inBucket then [ "--token-file" token ] else [ ]);
  garrison = command: builtins.concatStringsSep " " ([ "${cfg.package}/bin/garrison" "cache" command ] ++ arguments);
  environment = { NIX_REMOTE = "daemon"; HOME = "/var/cache/garrison-push"; XDG_CACHE_HOME = "/var/cache/garrison-push"; }
    // (if inBucket && cfg.tokenFile != null then { AWS_SHARED_CREDENTIALS_FILE = token; } else { });
in
{
  imports = [ ./common.nix ];

  options.services.garrison.push = {
    enable = lib.mkEnableOption "pushing to a binary cache what comes into this host's store";
    package = mkOption {
      type = types.package;
      default = config.services.garrison.package;
      defaultText = "config.services.garrison.package";
      description = "The garrison package that pushes.";
    };
    url = mkOption {
      type = types.str;
      example = "https://cache.example.org/fleet";
      description = "The cache, of any kind that garrison cache push knows.";
    };
    tokenFile = absent (types.either types.path types.str) {
      example = "/run/agenix/push-token";
      description = "File with a token that may push to the cache; of an s3:// one, with credentials in AWS's format.";
    };
    what = mkOption {
      type = types.enum [ "built" "all" ];
      default = "built";
      description = "built: what this host builds, by Nix's post-build-hook. all: whatever comes into the store, fetched or copied, too.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = match "((attic\\+)?https?|s3)://[^ \"'\\\\$]+" cfg.url != null;
        message = "${at}.url is \"${cfg.url}\". It must be the URL of a cache, like \"https://cache.example.org/fleet\".";
      }
      (secretFile "${at}.tokenFile" cfg.tokenFile)
      (absolute "${at}.tokenFile" cfg.tokenFile)
    ];

    environment.etc = lib.mkIf built {
      "${hook}" = { mode = "0755"; text = "#!/bin/sh\nexec ${cfg.package}/bin/garrison cache post-build-hook --queue ${queue}\n"; };
    };
    nix.settings = lib.mkIf built { post-build-hook = "/etc/${hook}"; };

    systemd.paths = lib.mkIf built {
      garrison-push = { wantedBy = [ "multi-user.target" ]; pathConfig.DirectoryNotEmpty = queue; };
    };
    systemd.services.garrison-push = words.daemon { inherit config pkgs environment; toml = ""; } // {
      description = "Garrison, pushing to a binary cache";
      wantedBy = if built then [ ] else [ "multi-user.target" ];
      serviceConfig = words.hardened // {
        Type = "exec";
        ExecStart = garrison (if built then "push" else "watch-store");
        Restart = if built then "on-failure" else "always";
        RestartSec = if built then 60 else 5;
        CacheDirectory = "garrison-push";
        ReadWritePaths = [ "/nix/var/nix/gcroots" ]; # it is root, who alone may write there, and may do nothing else that root may
        LoadCredential = if cfg.tokenFile == null then [ ] else [ "token:${toString cfg.tokenFile}" ];
      };
    };
  };
}
