# eval gives what the modules make of a host: etc files, units, packages, messages of assertions that do not hold.
# Where nixpkgs declares options, stubs do, with the types that nixpkgs has for them.
{ modules, programs ? "/usr", pkgs ? { git = programs; openssh = programs; iproute2 = programs; stdenv.hostPlatform.system = builtins.currentSystem; }, nix ? programs }:

let
  lib = import ./lib.nix;
  inherit (lib) mkOption types;
  # What is on the test host's PATH stands for packages.
  aPackage = types.either types.package types.path;
  strings = mkOption { type = types.listOf types.str; default = [ ]; };
  free = mkOption { type = types.attrsOf types.anything; default = { }; };

  stubs = {
    options = {
      assertions = mkOption { type = types.listOf types.anything; default = [ ]; };
      networking.hostName = mkOption { type = types.str; default = "nixos"; };
      networking.proxy.envVars = free;
      nix.settings = free;
      nix.package = mkOption { type = aPackage; default = nix; };
      environment.systemPackages = mkOption { type = types.listOf types.package; default = [ ]; };
      environment.etc = mkOption {
        default = { };
        type = types.attrsOf (types.submodule {
          options.text = mkOption { type = types.nullOr types.lines; default = null; };
          options.source = mkOption { type = types.nullOr (types.either types.package types.path); default = null; };
          options.mode = mkOption { type = types.str; default = "symlink"; };
        });
      };
      system.activationScripts = mkOption {
        default = { };
        type = types.attrsOf (types.submodule { options.text = mkOption { type = types.lines; default = ""; }; });
      };
      users.groups = mkOption {
        default = { };
        type = types.attrsOf (types.submodule { options.gid = mkOption { type = types.nullOr types.int; default = null; }; });
      };
      systemd.paths = mkOption {
        default = { };
        type = types.attrsOf (types.submodule { options = { wantedBy = strings; pathConfig = free; }; });
      };
      systemd.timers = mkOption {
        default = { };
        type = types.attrsOf (types.submodule { options = { wantedBy = strings; timerConfig = free; }; });
      };
      systemd.services = mkOption {
        default = { };
        type = types.attrsOf (types.submodule {
          options = {
            description = mkOption { type = types.str; default = ""; };
            wantedBy = strings;
            after = strings;
            wants = strings;
            path = mkOption { type = types.listOf aPackage; default = [ ]; };
            environment = mkOption { type = types.attrsOf (types.nullOr types.str); default = { }; };
            restartIfChanged = mkOption { type = types.bool; default = true; };
            stopIfChanged = mkOption { type = types.bool; default = true; };
            restartTriggers = strings;
            unitConfig = free;
            serviceConfig = free;
          };
        });
      };
    };
  };

  inherit (lib.evalModules { modules = [ stubs ] ++ modules; specialArgs = { inherit pkgs; }; }) config;
in
{
  etc = builtins.mapAttrs (_: f: if f.source == null then f.text else "-> ${builtins.unsafeDiscardStringContext (toString f.source)} ${toString (f.source.args or "")}") config.environment.etc;
  activation = builtins.mapAttrs (_: s: s.text) config.system.activationScripts;
  units = builtins.mapAttrs (_: s: s // { path = map toString s.path; }) config.systemd.services;
  inherit (config.systemd) paths timers;
  nixSettings = config.nix.settings;
  packages = map toString config.environment.systemPackages;
  groups = builtins.attrNames config.users.groups;
  failed = map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions);
  inherit (config.services.garrison) hostKeys checks;
}
