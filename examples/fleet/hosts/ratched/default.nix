{
  nixpkgs.hostPlatform = "x86_64-linux";
  age.secrets.ward-key.file = ../../secrets/ward-key.age; # for this host alone
  age.secrets.lair-wifi = { file = ../../secrets/lair-wifi.age; mode = "0440"; }; # also on ursula
}
