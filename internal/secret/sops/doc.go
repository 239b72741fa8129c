// Package sops reads and writes files in the format of sops (https://getsops.io)
// whose data key is encrypted for age recipients: YAML, JSON, dotenv, INI and binary.
//
// A sops file keeps its structure in the clear and encrypts its values under one data
// key, which stands in the file's metadata once for each recipient. What is on these
// pages was learned from sops' documentation ("Encryption Protocol" in its README) and
// from files that sops 3.13 wrote, and is tested against that program:
//
//   - A value is ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]: AES-256-GCM with a nonce of 32
//     bytes. The additional data is the path of keys to it, each followed by a colon;
//     positions in lists do not count. Empty strings and nulls stay as they are.
//   - Types are str, int, float, bool, bytes, time and comment. Comments are encrypted like
//     values, with the path of what they stand in.
//   - The MAC is the SHA-512 of all values in their order (with mac_only_encrypted: of a
//     fixed start and the encrypted ones), without comments, as upper-case hex; it is encrypted
//     like a value, with the time of the last modification as additional data.
//   - One rule in the metadata says which values are encrypted: (un)encrypted_suffix,
//     (un)encrypted_regex, or (un)encrypted_comment_regex.
//
// Re-keying always makes a new data key: whoever had the old one could read whatever is
// encrypted under it. Values are exchanged in the text of the file, so that everything else of it,
// order, comments and spacing, stays as it was.
//
// Errors name keys and recipients, which are readable in the file anyway, and never values.
// Start at Parse.
package sops
