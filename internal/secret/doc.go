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
// Today it knows age files, binary and armored (https://age-encryption.org/v1), for
// recipients ssh-ed25519, ssh-rsa, X25519 and the post-quantum hybrid. Start at MakePlan.
package secret
