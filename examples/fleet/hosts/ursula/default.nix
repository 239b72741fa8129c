{
  nixpkgs.hostPlatform = "x86_64-linux";
  age.secrets.lair-wifi = { file = ../../secrets/lair-wifi.age; mode = "0440"; };
}
