# The garrison package: callPackage ./nix/package.nix { }
#
# vendorHash is the NAR hash of what `go mod vendor` writes, computed by scripts/vendor-hash and checked by a test,
# because that is what buildGoModule fetches. No nixpkgs has built this package yet (docs/OPERATIONS.md); should
# yours report another hash, its Go vendors differently: override vendorHash.
{ lib
, stdenv
, buildGoModule
, installShellFiles
, version ? "0-unstable"
, vendorHash ? lib.fileContents ./vendor-hash
}:

buildGoModule {
  pname = "garrison";
  inherit version vendorHash;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [ ../go.mod ../go.sum ../cmd ../internal ../examples ../LICENSE ];
  };

  subPackages = [ "cmd/garrison" ];
  env.CGO_ENABLED = 0;
  ldflags = [ "-s" "-w" "-X github.com/garrison-nix/garrison/internal/cli.linkedVersion=${version}" ];

  # They run hosts, as root, with namespaces and a Nix of their own: make test.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    for shell in bash zsh fish; do
      $out/bin/garrison completion $shell > garrison.$shell
    done
    installShellCompletion --cmd garrison --bash garrison.bash --zsh garrison.zsh --fish garrison.fish
  '';

  meta = {
    description = "GitOps for NixOS fleets, from push to healthy";
    license = lib.licenses.mit;
    mainProgram = "garrison";
    platforms = lib.platforms.linux;
  };
}
