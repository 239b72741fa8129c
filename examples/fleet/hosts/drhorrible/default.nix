{
  nixpkgs.hostPlatform = "x86_64-linux";
  age.secrets.freeze-ray.file = ../../secrets/freeze-ray.age;
}
