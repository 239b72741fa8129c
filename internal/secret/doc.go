// Package secret re-keys a fleet's secret files: what editors can decrypt on the
// source branch becomes, in a release, what exactly the hosts that declare a
// secret can decrypt.
//
// It works in two steps. MakePlan is pure: from which host declares which file,
// the files' git blobs, the hosts' public keys and what the previous release
// recorded, it decides which files keep their released bytes and which are
// encrypted again and for whom. Execute does it, in memory.
//
// What it guarantees:
//
//   - Complete: a missing file or a missing or unusable key is an error of MakePlan,
//     all of them in one, before anything is decrypted.
//   - Minimal: a file whose source, recipients and format are as recorded is kept
//     byte by byte, so that no host sees a change that is none.
//   - All or nothing: Execute returns every file of the plan, each verified to be
//     encrypted for its recipients and nobody else, or an error and nothing.
//   - Quiet: neither plaintext nor a private key stands in an error. Plaintext lives
//     in memory for as long as it takes to encrypt it, and is overwritten then. (What
//     the age library keeps in its own buffers is out of reach, and so is swap.)
//
// It knows age files, binary and armored (https://age-encryption.org/v1), for recipients
// ssh-ed25519, ssh-rsa, X25519 and the post-quantum hybrid; and sops files (package sops below this one), in which a host stands by the age
// key that sops-nix makes of its SSH host key. A file, not a secret in it, is what has recipients.
//
// Changing a key has a state in which both work. A host: give both keys (Input.HostKeys), release, give the host the new one,
// leave the old one out with a word in garrison.toml (Input.AllowRemoval), release. An editor: encrypt the sources for
// both (PlanReseal, Reseal), let the builder have the new one, encrypt for the new one alone.
//
// Start at MakePlan and Execute. Damaged is for what is not re-keyed; Verify and FindPlaintext are for operators who doubt;
// Open, Opened.Seal and EncryptFor are for editors; Status and ReadersOf say who can read what.
package secret
