{
  nixpkgs.hostPlatform = "x86_64-linux";
  age.secrets.punchline.file = ../../secrets/punchline.age;
}
