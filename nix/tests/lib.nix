# As much of nixpkgs' lib as the modules use, written for these tests, so that they evaluate where nixpkgs cannot be
# had. It checks types, merges definitions by priority, refuses definitions of options that do not exist and
# options without a definition that are used; what it does not know, it refuses.
let
  inherit (builtins) all any attrNames attrValues concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs genericClosure
    hasAttr head isAttrs isBool isFunction isInt isList isPath isString length listToAttrs map mapAttrs match removeAttrs toString typeOf;

  show = concatStringsSep ".";
  tagged = tag: v: isAttrs v && (v._type or null) == tag;

  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };

  # discharge turns one definition into those that hold: [{ priority, value }].
  discharge = v:
    if tagged "merge" v then concatMap discharge v.contents
    else if tagged "if" v then (if v.condition then discharge v.content else [ ])
    else if tagged "override" v then map (d: d // { inherit (v) priority; }) (discharge v.content)
    else [{ priority = 100; value = v; }];

  # pushDown moves what stands around a set to its attributes, without looking at conditions: these may depend on what is inside.
  pushDown = path: v:
    if tagged "merge" v then concatMap (pushDown path) v.contents
    else if tagged "if" v then map (mapAttrs (_: mkIf v.condition)) (pushDown path v.content)
    else if tagged "override" v then map (mapAttrs (_: mkOverride v.priority)) (pushDown path v.content)
    else if isAttrs v then [ v ]
    else throw "`${show path}' must be a set of options, not a ${typeOf v}";

  wins = defs:
    let least = foldl' (a: d: if d.priority < a then d.priority else a) 10000 defs;
    in map (d: d.value) (filter (d: d.priority == least) defs);

  mkType = name: check: merge: {
    inherit name;
    check = check;
    merge = path: defs:
      let bad = filter (v: !check v) defs;
      in if bad == [ ] then merge path defs
      else throw "A definition for option `${show path}' is not of type `${name}', but a ${typeOf (head bad)}";
  };
  same = path: defs:
    if all (v: v == head defs) defs then head defs
    else throw "The option `${show path}' has conflicting definitions";
  scalar = name: check: mkType name check same;
  isStorePath = v: isString v && match "${builtins.storeDir}/.+" v != null;
  # A string by coercion: paths and derivations too.
  isDerivation = v: isAttrs v && (v.type or null) == "derivation";

  # element merges what the definitions say of one element, which may have conditions and priorities of its own; it is
  # null when none holds.
  element = type: path: defs:
    let held = wins (concatMap discharge defs);
    in if held == [ ] then null else { value = type.merge path held; };

  deepMerge = path: defs:
    if all (v: isAttrs v && !isDerivation v) defs
    then mapAttrs (k: _: deepMerge (path ++ [ k ]) (map (d: d.${k}) (filter (hasAttr k) defs))) (foldl' (a: b: a // b) { } defs)
    else if all isList defs then concatLists defs
    else same path defs;

  types = rec {
    bool = scalar "boolean" isBool;
    int = scalar "signed integer" isInt;
    str = scalar "string" isString;
    path = scalar "path" (v: isPath v || isString v && match "/.*" v != null);
    package = scalar "package" (v: isDerivation v || isStorePath v);
    lines = mkType "strings concatenated with \"\\n\"" isString (_: concatStringsSep "\n");
    enum = values: scalar "one of ${concatStringsSep ", " (map builtins.toJSON values)}" (v: elem v values);
    anything = mkType "anything" (_: true) deepMerge;
    nullOr = t: mkType "null or ${t.name}" (v: v == null || t.check v) (path: defs:
      if all (v: v == null) defs then null
      else if any (v: v == null) defs then throw "The option `${show path}' is defined both null and not null"
      else t.merge path defs);
    either = a: b: mkType "${a.name} or ${b.name}" (v: a.check v || b.check v) (path: defs:
      if all a.check defs then a.merge path defs else b.merge path defs);
    listOf = t: mkType "list of ${t.name}" isList (path: defs:
      map (e: e.value) (filter (e: e != null) (map (v: element t (path ++ [ "[…]" ]) [ v ]) (concatLists defs))));
    attrsOf = t: mkType "attribute set of ${t.name}" isAttrs (path: defs:
      let
        sets = concatMap (pushDown path) defs;
        names = attrNames (foldl' (a: b: a // b) { } sets);
        at = k: element t (path ++ [ k ]) (map (d: d.${k}) (filter (hasAttr k) sets));
      in
      listToAttrs (map (k: { name = k; value = (at k).value; }) (filter (k: at k != null) names)));
    submodule = module: mkType "submodule" (v: isAttrs v || isFunction v || isPath v)
      (path: defs: (evalIn path ([ module ] ++ defs) { }).config);
  };

  mkOption = attrs: attrs // { _type = "option"; };

  # parse gives a module its three parts; one that is only a set of definitions is short for config.
  parse = m:
    if m ? options || m ? config then
      let extra = removeAttrs m [ "options" "config" "imports" "_file" "key" ];
      in if extra == { } then { options = { }; config = { }; imports = [ ]; } // m
      else throw "a module with options or config has besides: ${concatStringsSep ", " (attrNames extra)}"
    else { options = { }; config = removeAttrs m [ "imports" "_file" "key" ]; imports = m.imports or [ ]; };

  # collect follows imports; a file that is imported twice counts once.
  collect = args: modules:
    let
      item = prefix: i: m: { key = if isPath m then toString m else "${prefix}:${toString i}"; inherit m; };
      items = prefix: ms: builtins.genList (i: item prefix i (elemAt ms i)) (length ms);
      open = m:
        let f = if isPath m then import m else m;
        in parse (if isFunction f then f (args // mapAttrs (k: _: args.${k} or (throw "no argument `${k}' for modules here")) (functionArgs f)) else f);
      closed = genericClosure {
        startSet = items "" modules;
        operator = i: items i.key (open i.m).imports;
      };
    in
    map (i: open i.m) closed;

  mergeOptions = path: a: b:
    a // mapAttrs
      (k: v:
        if !(hasAttr k a) then v
        else if tagged "option" a.${k} || tagged "option" v then throw "The option `${show (path ++ [ k ])}' is declared twice"
        else mergeOptions (path ++ [ k ]) a.${k} v)
      b;

  # level evaluates one level of the tree of options with the definitions for it.
  level = path: options: defs:
    let
      sets = concatMap (pushDown path) defs;
      unknown = filter (k: !(hasAttr k options)) (concatMap attrNames sets);
      of = k: map (d: d.${k}) (filter (hasAttr k) sets);
      leaf = p: o: ds:
        let
          given = wins (concatMap discharge ds ++ (if o ? default then [{ priority = 1500; value = o.default; }] else [ ]));
          value = if given == [ ] then throw "The option `${show p}' is used but not defined" else o.type.merge p given;
        in
        (o.apply or (v: v)) value;
      one = k: o: if tagged "option" o then leaf (path ++ [ k ]) o (of k) else level (path ++ [ k ]) o (of k);
    in
    if unknown != [ ] then throw "The option `${show (path ++ [ (head unknown) ])}' does not exist"
    else mapAttrs one options;

  evalIn = path: modules: specialArgs:
    let
      parsed = collect ({ inherit lib config; } // specialArgs) modules;
      options = foldl' (mergeOptions path) { } (map (m: m.options) parsed);
      config = level path options (map (m: m.config) parsed);
    in
    { inherit config options; };

  lib = {
    inherit mkOption mkOverride mkIf mkMerge types;
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkEnableOption = what: mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    evalModules = { modules, specialArgs ? { } }: evalIn [ ] modules specialArgs;
  };
in
lib
