// Package tlog is the private transparency log: which certificates exist and
// what became of them, in a form that cannot be rewritten unseen (S32, S34).
//
// A [Leaf] is one event. Its entry is SHA-256(salt || facts), its Merkle leaf
// SHA-256(0x00 || entry) (RFC 6962, Section 2.1), so the tiles and checkpoints
// that anybody may read say how many events there were and nothing else, and
// whoever holds a [Receipt] can prove one of them without asking us.
//
// Leaves are committed by the ledger, in its own transactions, with indexes that
// have no gaps. [Log.Integrate] later derives tiles and a signed checkpoint from
// them. Both follow C2SP: tlog-tiles (height 8), tlog-checkpoint, signed-note
// with Ed25519.
//
// Invariants:
//
//   - A checkpoint is signed only for a tree that extends the newest one: the
//     stored checkpoint's signature and the stored edge are checked against each
//     other first, and [Store.Commit] compares and swaps the size, so neither a
//     database writer nor a second node makes us sign a fork.
//   - Every proof is computed from tiles that were checked against the signed root.
//   - An append costs O(log n) tiles besides the new leaves.
//
// What the database alone cannot show is that all of it was set back. Keep the
// newest checkpoint elsewhere and give it to [Log.CheckAgainst] at start.
//
// Start reading at [Log.Integrate].
package tlog
