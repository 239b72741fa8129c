# services.garrison.cache: binary caches alone, without a hub. It writes /etc/garrison/cache.toml and runs the
# server as a user that may write nothing but its own data.
#
# Secrets reach it by systemd (LoadCredential), so they may belong to root. systemd copies them when the server starts:
# after a change, systemctl restart garrison-cache (sops-nix: restartUnits).
{ config, lib, pkgs, ... }:

let
  inherit (lib) mkOption types;
  inherit (builtins) attrNames filter;
  words = import ./words.nix { inherit lib; };
  inherit (words) absent absolute hostPort httpURL merge secretFile;
  toTOML = import ../toml.nix;

  cfg = config.services.garrison.cache;
  at = "services.garrison.cache";

  # The server's secrets: what systemd calls each, and where it is on the host.
  secrets = words.tokenKeys cfg.tokenKeyFiles // { s3-credentials = cfg.s3.credentialsFile; postgres-url = cfg.postgres.urlFile; };
  given = filter (name: secrets.${name} != null) (attrNames secrets);
  credential = name: if secrets.${name} or null == null then null else "/run/credentials/garrison-cache.service/${name}";

  settings = {
    inherit (cfg) listen;
    dataDir = "/var/lib/garrison-cache";
    cache = {
      inherit (cfg) baseUrl;
      tokenKeys = map credential (attrNames (words.tokenKeys cfg.tokenKeyFiles));
      s3 = if cfg.s3.bucket == null then { } else { inherit (cfg.s3) endpoint bucket region; credentialsFile = credential "s3-credentials"; };
      postgres.urlFile = credential "postgres-url";
      metrics.listen = cfg.metrics.listen;
    };
  };
  toml = toTOML (merge (words.unsetEmpty settings) cfg.settings);

  assertions = [
    {
      assertion = cfg.tokenKeyFiles != [ ];
      message = "${at}.tokenKeyFiles is empty: nobody could make a cache or push to one. Give the file of a secret: openssl rand 64 | base64 -w0 > token-secret.";
    }
    {
      assertion = (cfg.s3.bucket == null) == (cfg.s3.credentialsFile == null) && (cfg.s3.bucket == null) == (cfg.s3.endpoint == null);
      message = "${at}.s3 needs endpoint, bucket and credentialsFile, or none of them.";
    }
    (hostPort "${at}.listen" cfg.listen)
    (hostPort "${at}.metrics.listen" cfg.metrics.listen)
    (httpURL "${at}.baseUrl" cfg.baseUrl)
    (httpURL "${at}.s3.endpoint" cfg.s3.endpoint)
    (secretFile "${at}.s3.credentialsFile" cfg.s3.credentialsFile)
    (secretFile "${at}.postgres.urlFile" cfg.postgres.urlFile)
  ]
  ++ map (secretFile "${at}.tokenKeyFiles") cfg.tokenKeyFiles
  ++ map (name: absolute "${at}: the file of ${name}" secrets.${name}) given;
in
{
  imports = [ ./common.nix ];

  options.services.garrison.cache = {
    enable = lib.mkEnableOption "Garrison's binary caches, without a hub";
    package = mkOption {
      type = types.package;
      default = config.services.garrison.package;
      defaultText = "config.services.garrison.package";
      description = "The garrison package that the cache runs.";
    };
    listen = mkOption {
      type = types.str;
      default = "127.0.0.1:8421";
      description = "Address to serve at, in plain HTTP. Put a reverse proxy with TLS in front, and keep this one on loopback.";
    };
    baseUrl = absent types.str { example = "https://cache.example.org"; description = "How clients reach the server; unset: what they asked for, which behind a proxy with TLS is wrong."; };
    tokenKeyFiles = mkOption {
      type = types.listOf (types.either types.path types.str);
      default = [ ];
      example = [ "/run/agenix/cache-token-secret" ];
      description = "Files with the secrets (HS256) or public keys (RS256) of tokens; several while one is being changed. Attic's will do.";
    };
    s3 = {
      endpoint = absent types.str { example = "https://s3.example.org"; description = "The S3 server that has the content; unset: the local disk."; };
      bucket = absent types.str { description = "The bucket there."; };
      region = absent types.str { description = "Its region."; };
      credentialsFile = absent (types.either types.path types.str) { description = "File with aws_access_key_id and aws_secret_access_key."; };
    };
    postgres.urlFile = absent (types.either types.path types.str) { description = "File with the URL of the PostgreSQL database that has the index; unset: SQLite on the local disk."; };
    metrics.listen = absent types.str { example = "127.0.0.1:9102"; description = "Address to serve metrics at."; };
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = { cache.limits.uploads = 8; };
      description = "Keys of cache.toml that have no option here. They win over the options.";
    };
  };

  config = lib.mkIf cfg.enable {
    inherit assertions;

    environment.systemPackages = [ cfg.package ];
    environment.etc."garrison/cache.toml".text = toml;

    systemd.services.garrison-cache = words.daemon { inherit config pkgs toml; environment = { }; } // {
      description = "Garrison's binary caches";
      serviceConfig = words.exposed "garrison-cache" // {
        ExecStart = "${cfg.package}/bin/garrison cache serve";
        LoadCredential = map (name: "${name}:${toString secrets.${name}}") given;
      };
    };
  };
}
