# Garrison for NixOS: the package, an overlay, and the modules. nixpkgs is needed for the package alone; let it follow yours:
#
#   inputs.garrison.inputs.nixpkgs.follows = "nixpkgs";
{
  description = "GitOps for NixOS fleets, from push to healthy";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable"; # needs Go 1.26

  outputs = { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: builtins.listToAttrs (map (system: { name = system; value = f system; }) systems);
      date = builtins.substring 0 8 (self.lastModifiedDate or "19700101");
      version = "0-unstable-${date}-${self.shortRev or "dirty"}";
      package = pkgs: pkgs.callPackage ./nix/package.nix { inherit version; };

      # withPackage is a module whose package is this flake's, unless the host says otherwise.
      withPackage = module: { lib, pkgs, ... }: {
        imports = [ module ];
        services.garrison.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.garrison;
      };
    in
    {
      overlays.default = final: _: { garrison = package final; };

      packages = each (system: rec {
        garrison = package nixpkgs.legacyPackages.${system};
        default = garrison;
      });

      nixosModules = {
        agent = withPackage ./nix/modules/agent.nix;
        hub = withPackage ./nix/modules/hub.nix;
        cache = withPackage ./nix/modules/cache.nix;
        push = withPackage ./nix/modules/push.nix;
        drill = withPackage ./nix/modules/drill.nix;
        default = withPackage { imports = [ ./nix/modules/agent.nix ./nix/modules/hub.nix ./nix/modules/cache.nix ./nix/modules/push.nix ./nix/modules/drill.nix ]; };
      };

      # The modules in a real NixOS, as far as its units and /etc.
      checks = each (system: {
        package = self.packages.${system}.garrison;
        modules = (nixpkgs.lib.nixosSystem {
          modules = [
            self.nixosModules.default
            {
              nixpkgs.hostPlatform = system;
              services.garrison.agent = { enable = true; remote = "https://forge.example.org/fleet.git"; allowedSigners = [ "ssh-ed25519 AAAA" ]; };
              services.garrison.hub = { enable = true; tokensFile = "/run/garrison-tokens"; };
              services.garrison.cache = { enable = true; tokenKeyFiles = [ "/run/garrison-token-secret" ]; };
              services.garrison.checks.ssh.unit = "sshd.service";
              services.garrison.drill = { enable = true; file = ./drill.json; }; # which is not there
              boot.isContainer = true;
              system.stateVersion = "26.05";
            }
          ];
        }).config.system.build.etc;
      });
    };
}
