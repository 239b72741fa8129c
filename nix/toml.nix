# toml writes an attribute set as TOML: what is null is left out, sets become tables, lists of sets
# become lists of tables. It needs nothing of nixpkgs.
let
  inherit (builtins) all attrNames concatMap concatStringsSep filter isAttrs isList match toJSON;

  isSet = v: isAttrs v && !(v ? outPath);
  isSets = v: isList v && v != [ ] && all isSet v;
  key = k: if match "[A-Za-z0-9_-]+" k != null then k else toJSON k;

  # A string of JSON is one of TOML.
  value = v:
    if isList v then "[" + concatStringsSep ", " (map value v) + "]"
    else if isSet v then "{ " + concatStringsSep ", " (map (k: "${key k} = ${value v.${k}}") (present v)) + " }"
    else if isAttrs v || builtins.isPath v then toJSON (toString v)
    else toJSON v;

  present = set: filter (k: set.${k} != null) (attrNames set);

  # Plain values come before tables, which would swallow them.
  table = path: set:
    let
      inner = k: path ++ [ (key k) ];
      head = k: concatStringsSep "." (inner k);
      plain = k: !isSet set.${k} && !isSets set.${k};
    in
    map (k: "${key k} = ${value set.${k}}") (filter plain (present set))
    ++ concatMap
      (k:
        if plain k then [ ]
        else if isSet set.${k} then (let rows = table (inner k) set.${k}; in if rows == [ ] then [ ] else [ "" "[${head k}]" ] ++ rows)
        else concatMap (v: [ "" "[[${head k}]]" ] ++ table (inner k) v) set.${k})
      (present set);
in
set: concatStringsSep "\n" (table [ ] set) + "\n"
