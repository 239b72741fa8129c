// Package durable writes files so that a crash at any instruction leaves either
// the old content or the new, and reads back what it wrote.
//
// It is for state that a process must find again after a power cut: the agent's
// record, intents and outcomes of an activation, history. All of it is text that
// a person can read with cat.
//
// What it guarantees:
//
//   - WriteFile and WriteJSON replace a file at once and have the disk confirm
//     both the content and the name. A nil error means that it survives a power cut.
//   - ReplaceFiles replaces several files, or after an error none.
//   - Journal.Append adds one JSON line and has the disk confirm it. A line that
//     a crash cut short was never confirmed and is never read.
//   - TryLock and Lock exclude other processes until Unlock or the holder's death,
//     however it dies.
//   - Watched reads a file again when it changed, and only then.
//
// It knows nothing of Garrison and imports only the standard library. Start at
// WriteFile, then Journal, then Lock.
package durable
