# What nixpkgs' nixosSystem gives a real fleet, as far as a deployment tool looks at it:
# config.system.build.toplevel, config.age as agenix and agenix-rekey declare it, and
# config.nixpkgs.hostPlatform. Everything is a raw derivation whose builder is the shell
# of Nix's build sandbox.
{ root }:
let
  # build runs a script with the sandbox's shell; the other attributes are its environment.
  build = attrs@{ script, ... }: derivation (removeAttrs attrs [ "script" ] // {
    builder = "/bin/sh";
    args = [ "-euc" ("PATH=/bin:/usr/bin\n" + script) ];
  });

  # readIfThere is the text of an optional file of a host's folder.
  readIfThere = path: default: if builtins.pathExists path then builtins.readFile path else default;

  # What `garrison drill` changes: a text for every host, and what is broken on purpose on one (services.garrison.drill does that on NixOS).
  drill =
    if builtins.pathExists (root + "/drill.json") then builtins.fromJSON (builtins.readFile (root + "/drill.json"))
    else { text = builtins.readFile (root + "/gitops-test"); break = { }; };
  broken = name: what: (drill.break.${name} or "") == what;
  complaint = what: "garrison drill: ${what} is broken on purpose";
  breaking = name: what: script: if broken name what then "\necho '${complaint what}' >&2\n${script}\n" else "";
  # A system says whether its network is up; so the one that is rolled back to, before the drill's first too, mends what the other cut.
  network = ''

    network() { if command -v ip > /dev/null; then ip "$@"; else busybox ip "$@"; fi; }
    if [ -e /run/garrison-drill-cut ]; then network link set host0 up; rm -f /run/garrison-drill-cut; fi
  '';

  oneFile = path: builtins.path { inherit path; name = baseNameOf (toString path); };
  firstLine = text: builtins.head (builtins.split "\n" text);
  lines = builtins.concatStringsSep "\n";

  # base is in the closure of every host of a system: a shared dependency.
  base = system: build {
    name = "fleet-base";
    inherit system;
    switch = oneFile ./switch-to-configuration.sh;
    activate = oneFile ./activate.sh;
    script = ''
      mkdir -p $out/lib
      cat $switch > $out/lib/switch-to-configuration.sh
      cat $activate > $out/lib/activate.sh
      echo 'Welcome to the fleet.' > $out/banner
    '';
  };

  # etc becomes /etc/static on the host, and each of its files a link in /etc.
  etc = name: system: build {
    name = "etc-${name}";
    inherit system;
    base = base system;
    gitopsTest = drill.text;
    script = ''
      mkdir -p $out
      printf '%s' "$gitopsTest" > $out/gitops-test
      ln -s $base/banner $out/fleet-banner
    '';
  };

  # service is what the unit gitops-demo.service runs where a host has a systemd.
  service = name: system: build {
    name = "gitops-demo-${name}";
    inherit system;
    program = breaking name "unit" "exit 1" + readIfThere (root + "/hosts/${name}/service.sh") ''
      read -r text < /etc/gitops-test
      echo "gitops-demo on ${name}: $text"
      exec sleep infinity
    '';
    # The text is a part of the unit, so that a new text restarts the service.
    text = builtins.hashString "sha256" drill.text;
    script = ''
      mkdir -p $out/bin $out/units
      { echo '#!/bin/sh'; printf '%s' "$program"; } > $out/bin/gitops-demo
      chmod +x $out/bin/gitops-demo
      cat > $out/units/gitops-demo.service <<UNIT
      [Unit]
      Description=Example service of ${name}
      [Service]
      Type=exec
      Environment=TEXT_HASH=$text
      ExecStart=$out/bin/gitops-demo
      UNIT
    '';
  };

  # secret fills in what agenix fills in.
  secret = name: { file, path ? "/run/agenix/${name}", mode ? "0400", owner ? "0", group ? "0" }: {
    inherit name file path mode owner group;
  };

  # Each secret goes into the closure as a path of its own: a host gets the files it
  # declares, and not the repository.
  secretCall = s: "  secret ${lines' [ s.name "${oneFile s.file}" s.path s.mode s.owner s.group ]}";
  lines' = builtins.concatStringsSep " ";

  toplevel = name: config: build {
    name = "nixos-system-${name}-26.11";
    system = config.nixpkgs.hostPlatform.system;
    hostName = name;
    base = base config.nixpkgs.hostPlatform.system;
    etc = etc name config.nixpkgs.hostPlatform.system;
    service = service name config.nixpkgs.hostPlatform.system;
    secrets = lines (map secretCall (builtins.attrValues config.age.secrets));
    identities = lines' config.age.identityPaths;
    # What a host adds: to the build, and to the end of its activation.
    extraBuild = breaking name "build" "exit 1" + readIfThere (root + "/hosts/${name}/build.sh") "";
    extraActivation = network + breaking name "slow" "sleep 10" + breaking name "network" "touch /run/garrison-drill-cut; network link set host0 down"
      + readIfThere (root + "/hosts/${name}/activate.sh") "" + breaking name "activate" "false";
    # And before and after a switch.
    preSwitch = readIfThere (root + "/hosts/${name}/pre-switch.sh") "";
    postSwitch = readIfThere (root + "/hosts/${name}/post-switch.sh") "";
    # A host whose init interface changes needs a reboot: exit code 100.
    initInterface = firstLine (readIfThere (root + "/hosts/${name}/init-interface") "systemd 1");
    script = ''
      eval "$extraBuild"
      mkdir -p $out/bin
      {
        echo '#!/bin/sh'
        echo "toplevel=$out"
        echo "pre_switch() {"
        printf '%s\n' "  :" "$preSwitch"
        echo "}"
        echo "post_switch() {"
        printf '%s\n' "  :" "$postSwitch"
        echo "}"
        echo ". $base/lib/switch-to-configuration.sh"
      } > $out/bin/switch-to-configuration
      {
        echo '#!/bin/sh'
        echo "toplevel=$out"
        echo "identities='$identities'"
        echo "secrets() {"
        printf '%s\n' "  :" "$secrets"
        echo "}"
        echo "extra_activation() {"
        printf '%s\n' "  :" "$extraActivation"
        echo "}"
        echo ". $base/lib/activate.sh"
      } > $out/activate
      chmod +x $out/bin/switch-to-configuration $out/activate
      ln -s $etc $out/etc
      ln -s $service/units $out/units
      printf 26.11.example > $out/nixos-version
      printf %s "$system" > $out/system
      printf %s "$initInterface" > $out/init-interface-version
      printf 'loglevel=4' > $out/kernel-params
      printf %s "$hostName" > $out/host-name
    '';
  };
in
{
  # nixosSystem makes the host NAME of hosts/NAME/default.nix (its configuration) and
  # hosts/NAME/host.pub (its public key, for which its secrets are encrypted).
  nixosSystem = name:
    let
      module = import (root + "/hosts/${name}");
      config = {
        networking.hostName = name;
        nixpkgs.hostPlatform.system = module.nixpkgs.hostPlatform;
        age = {
          identityPaths = module.age.identityPaths or [ "/etc/ssh/ssh_host_ed25519_key" ];
          secrets = builtins.mapAttrs secret (module.age.secrets or { });
          rekey.hostPubkey = firstLine (builtins.readFile (root + "/hosts/${name}/host.pub"));
        };
        services.garrison.tags = module.services.garrison.tags or [ ];
        services.garrison.checks = (module.services.garrison.checks or { })
          // (if broken name "check" then { drill = { command = [ "/bin/sh" "-c" "echo '${complaint "check"}' >&2; exit 1" ]; retries = 0; }; } else { });
        system.build.toplevel = if broken name "evaluate" then throw (complaint "evaluate") else toplevel name config;
      };
    in
    { inherit config; };
}
