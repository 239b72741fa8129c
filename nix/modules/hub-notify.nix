# services.garrison.hub.notify: who is told of what is wrong in the fleet. hub.nix puts the pieces where they belong.
{ lib, words, cfg, at, credential }:

let
  inherit (lib) mkOption types;
  inherit (builtins) attrNames concatMap listToAttrs;
  inherit (words) absent absolute duration httpURL secretFile;
  file = types.either types.path types.str;

  # The secrets of a sender: the option, and what systemd calls the file.
  files = { urlFile = "url"; tokenFile = "token"; secretFile = "secret"; passwordFile = "password"; };
  called = name: option: "notify-${name}-${files.${option}}";
  of = name: listToAttrs (map (option: { name = called name option; value = cfg.senders.${name}.${option}; }) (attrNames files));

  sender = types.submodule {
    options = {
      type = mkOption {
        type = types.enum [ "webhook" "alertmanager" "ntfy" "matrix" "email" "slack" "mattermost" "discord" "teams" "telegram" "gotify" ];
        description = "How it tells.";
      };
      url = absent types.str { description = "Where to, if that is no secret. docs/ALERTS.md says for each type what it is."; };
      urlFile = absent file { description = "A file with the URL, where it is a secret: slack, mattermost, discord and teams have only such."; };
      tokenFile = absent file { description = "A file with the token that lets in."; };
      secretFile = absent file { description = "A file with the key that a webhook's deliveries are signed with."; };
      caFile = absent file { description = "Certificates of who signed the server's; unset: those of the system."; };
      room = absent types.str { description = "The Matrix room (!id:server), or Telegram's chat."; };
      server = absent types.str { example = "smtp.example.org:587"; description = "The mail server: host:port."; };
      security = absent (types.enum [ "starttls" "tls" "none" ]) { description = "Of mail; unset: starttls."; };
      user = absent types.str { description = "To log in at the mail server with."; };
      passwordFile = absent file { description = "A file with its password."; };
      from = absent types.str { example = "Garrison <garrison@example.org>"; description = "Who mail is from."; };
      to = mkOption { type = types.listOf types.str; default = [ ]; description = "Who gets mail."; };
      title = absent types.str { description = "Template of the line, in place of notify.title."; };
      text = absent types.str { description = "Template of the text, in place of notify.text."; };
      perHour = absent types.int { description = "Messages to people; what is more comes in one. Unset: 60."; };
    };
  };
  list = description: mkOption { type = types.listOf types.str; default = [ ]; inherit description; };
  rule = types.submodule {
    options = {
      types = list "Patterns of events' types; empty: alerts that fire and are resolved.";
      kinds = list "Kinds of alerts; empty: all.";
      severity = absent (types.enum [ "warning" "critical" ]) { description = "Of alerts, at least."; };
      hosts = list "Patterns of hosts' names; empty: all.";
      releases = list "Patterns of releases' tags; empty: all.";
      senders = list "Who tells; empty: all.";
    };
  };
  durations = [ "fetch" "retrying" "push" "credential" "undelivered" ];
in
{
  options = {
    hub = absent types.str { example = "https://hub.example.org"; description = "The hub's URL as people reach it, for the commands that they are told to type."; };
    title = absent types.str { description = "Template (Go's text/template) of the line that is sent; docs/ALERTS.md lists its fields."; };
    text = absent types.str { description = "Template of the text below it."; };
    timeout = absent types.str { example = "15s"; description = "What one attempt may take."; };
    giveUp = absent types.str { example = "24h"; description = "After which time what a sender does not take is given up."; };
    senders = mkOption { type = types.attrsOf sender; default = { }; description = "Those who tell, by name."; };
    rules = mkOption { type = types.listOf rule; default = [ ]; description = "What is told by whom; empty: all alerts by all senders."; };
    limits = {
      diskBytes = absent types.int { description = "A disk with less free than that and diskPercent is low; unset: 5 GiB."; };
      diskPercent = absent types.int { description = "Unset: 10."; };
      group = absent types.int { description = "From how many hosts on the same thing wrong is told once; unset: 4."; };
    } // listToAttrs (map (name: { inherit name; value = absent types.str { example = "15m"; description = "How long it lasts, or is before an end, until people are told."; }; }) durations);
    heartbeat = {
      url = absent types.str { description = "Asked (POST) as long as all works here, so that somebody outside sees when the hub is gone."; };
      urlFile = absent file { description = "A file with that URL, where it is a secret."; };
      every = absent types.str { example = "1m"; description = "How often."; };
    };
  };

  secrets = builtins.foldl' (a: b: a // b) { notify-heartbeat = cfg.heartbeat.urlFile; } (map of (attrNames cfg.senders));

  settings = {
    inherit (cfg) hub title text timeout giveUp limits;
    heartbeat = { inherit (cfg.heartbeat) url every; urlFile = credential "notify-heartbeat"; };
    senders = if cfg.senders == { } then null else map
      (name: { inherit name; } // cfg.senders.${name} // {
        to = if cfg.senders.${name}.to == [ ] then null else cfg.senders.${name}.to;
        caFile = if cfg.senders.${name}.caFile == null then null else "${cfg.senders.${name}.caFile}";
      } // builtins.mapAttrs (option: _: credential (called name option)) files)
      (attrNames cfg.senders);
    rules = if cfg.rules == [ ] then null else map words.unsetEmpty cfg.rules;
  };

  assertions = concatMap
    (name: [
      (httpURL "${at}.senders.${name}.url" cfg.senders.${name}.url)
      (absolute "${at}.senders.${name}.caFile" cfg.senders.${name}.caFile)
      {
        assertion = builtins.match "[A-Za-z0-9][A-Za-z0-9._-]{0,49}" name != null;
        message = "${at}.senders.\"${name}\": a sender's name has letters, digits and ._-, at most 50.";
      }
    ] ++ map (option: secretFile "${at}.senders.${name}.${option}" cfg.senders.${name}.${option}) (attrNames files))
    (attrNames cfg.senders)
  ++ map (name: duration "${at}.limits.${name}" cfg.limits.${name}) durations
  ++ [
    (duration "${at}.timeout" cfg.timeout)
    (duration "${at}.giveUp" cfg.giveUp)
    (duration "${at}.heartbeat.every" cfg.heartbeat.every)
    (httpURL "${at}.hub" cfg.hub)
    (httpURL "${at}.heartbeat.url" cfg.heartbeat.url)
    (secretFile "${at}.heartbeat.urlFile" cfg.heartbeat.urlFile)
  ];
}
