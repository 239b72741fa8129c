# A fleet of four hosts that evaluates and builds without nixpkgs, so that Garrison's
# demo, drills and tests need no network. See README.md.
{
  description = "Garrison's example fleet";

  outputs = { self }:
    let
      inherit (import ./lib { root = ./.; }) nixosSystem;
    in
    {
      nixosConfigurations = {
        ratched = nixosSystem "ratched";
        joker = nixosSystem "joker";
        ursula = nixosSystem "ursula";
        drhorrible = nixosSystem "drhorrible"; # deployed by hand: see garrison.toml
      };
    };
}
