# Small words that the modules share. Nothing here needs nixpkgs.
{ lib }:

let
  inherit (builtins) isPath match;
  inStore = file: file != null && (isPath file || match "${builtins.storeDir}/.*" (toString file) != null);
in
rec {
  inherit inStore;

  # absent is an option that is left out of the TOML file while it is null, so that the program's own default holds.
  absent = type: attrs: lib.mkOption ({ type = lib.types.nullOr type; default = null; } // attrs);

  # daemon is what all units have in common.
  daemon = { config, pkgs, toml, environment }: {
    wantedBy = [ "multi-user.target" ];
    after = [ "network-online.target" ];
    wants = [ "network-online.target" ];
    path = [ config.nix.package pkgs.git pkgs.openssh ];
    restartTriggers = if toml == "" then [ ] else [ (builtins.hashString "sha256" toml) ]; # a change of its file is a change of its unit
    environment = {
      NIX_SSL_CERT_FILE = lib.mkDefault "/etc/ssl/certs/ca-certificates.crt";
      SSL_CERT_FILE = lib.mkDefault "/etc/ssl/certs/ca-certificates.crt";
    } // environment // config.networking.proxy.envVars;
    unitConfig.StartLimitIntervalSec = 0; # never given up
  };

  # exposed is the service of a daemon that faces the network: it may write nothing but its own data, and gets its secrets from systemd.
  exposed = name: {
    Type = "notify";
    NotifyAccess = "main";
    Restart = "always";
    RestartSec = 5;
    TimeoutStopSec = 60;

    DynamicUser = true;
    StateDirectory = name;
    StateDirectoryMode = "0700";
    UMask = "0077";
  } // hardened;

  # hardened is of a service that needs nothing of the host: what builds, does so by the Nix daemon.
  hardened = {
    CapabilityBoundingSet = "";
    LockPersonality = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateTmp = true;
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RestrictAddressFamilies = [ "AF_UNIX" "AF_INET" "AF_INET6" ];
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallFilter = [ "@system-service" "~@privileged" ];
    SystemCallErrorNumber = "EPERM";
  };

  # tokenKeys are the secrets of a cache that are keys of tokens: by the names that systemd has for them.
  tokenKeys = files: builtins.listToAttrs (builtins.genList (i: { name = "token-key-${toString i}"; value = builtins.elemAt files i; }) (builtins.length files));

  # merge lets b win over a, key by key.
  merge = a: b: a // builtins.mapAttrs (k: v: if builtins.isAttrs v && builtins.isAttrs (a.${k} or null) then merge a.${k} v else v) b;

  # unsetEmpty has empty lists stand in no file, as what is null does.
  unsetEmpty = builtins.mapAttrs (_: v: if v == [ ] then null else if builtins.isAttrs v then unsetEmpty v else v);

  # A secret's file must not be in the store, which everybody on the host can read, and the cache serves.
  secretFile = option: file: {
    assertion = !inStore file;
    message = "${option} is in the Nix store, where everybody can read it. Give the path on the host as a string, like \"/run/agenix/token\" (config.age.secrets.token.path), not a file of the repository.";
  };

  absolute = option: file: {
    assertion = file == null || match "/.*" (toString file) != null;
    message = "${option} is \"${toString file}\". It must be an absolute path.";
  };

  duration = option: d: {
    assertion = d == null || match "([0-9]+(\\.[0-9]+)?(ms|s|m|h))+" d != null;
    message = "${option} is \"${toString d}\". It must be a duration like \"90s\", \"5m\" or \"1h30m\".";
  };

  httpURL = option: url: {
    assertion = url == null || match "https?://[^ ]+" url != null;
    message = "${option} is \"${toString url}\". It must be an http or https URL.";
  };

  hostPort = option: address: {
    assertion = address == null || match "[^ ]*:[0-9]+" address != null;
    message = "${option} is \"${toString address}\". It must be HOST:PORT, like \"127.0.0.1:9100\".";
  };

  isKey = key: match "(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?" key != null;

  signerKey = option: key: {
    assertion = isKey key;
    message = "${option}: \"${key}\" is not an SSH public key. Give what stands in the release key's .pub file: ssh-ed25519 AAAA…";
  };

  # signers is the text of an allowed-signers file (ssh-keygen(1)) for keys that sign releases.
  signers = keys: builtins.concatStringsSep "" (map (key: "garrison namespaces=\"git\" ${key}\n") keys);
}
