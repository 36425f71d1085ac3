// Package seal keeps secrets unreadable and rows unforgeable for whoever has
// the database but not the master key, which lives outside it (S32, S39).
//
// A [Box] holds two keys derived from a master of 32 octets with HKDF-SHA256
// (RFC 5869): one seals values, one makes MACs. Invariants:
//
//   - A sealed value opens only with the associated data it was sealed with:
//     name table, row and column, so that a value moved to another row is refused.
//   - Every value has its own AES-256-GCM key and nonce, derived from 24 random
//     octets, so the number of values under one master has no practical limit.
//   - Associated data and MAC input are length-prefixed, so ("ab", "c") and
//     ("a", "bc") differ. A nil field and an empty one are the same.
//   - Nothing of a Box prints: every format verb, log and JSON shows a placeholder.
//
// Start reading at [Box.Seal] and [Box.MAC].
package seal
