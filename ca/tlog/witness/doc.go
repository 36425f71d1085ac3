// Package witness lets somebody else look at a transparency log: a contract
// manufacturer, a brand owner, anybody whom neither the log's operator nor a
// customer controls (S34).
//
// A [Witness] signs a checkpoint only if it extends every checkpoint of the same
// log that it ever signed, and has that on disk before it answers. So a log
// that shows different trees to different people, or that was set back, does not
// get its signature twice. A [Group] is the log's side: it asks the configured
// witnesses for their signatures, and finds out at the start whether one of them
// has seen more than the database has.
//
// Both speak C2SP tlog-witness (add-checkpoint) and tlog-cosignature
// (cosignature/v1 with Ed25519), so either end may be another implementation.
//
// Invariants:
//
//   - Of two trees that do not contain each other a witness signs one at most,
//     also after a crash at any moment and with any number of requests at once.
//   - A witness that lost its state signs nothing: it would not know what it signed.
//   - What a witness answers is verified with its configured key before it counts.
//
// Start reading at [Witness.AddCheckpoint], then [Group.Cosign].
package witness
