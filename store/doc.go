// Package store persists what the domain packages declare: one file per domain,
// the same SQL text for SQLite and PostgreSQL.
//
// All writes go through [DB.Atomic]. Its context carries the transaction, every
// method joins it, and concurrent calls share one commit (group commit), so
// that durability costs one sync per batch and not one per request. No answer
// leaves before the commit that carries it.
//
// Invariants:
//   - A condition lives in the WHERE clause and the number of affected rows
//     chooses the fault.
//   - One call that fails leaves its neighbours in the batch committed.
//   - Indexes of the transparency log are given by the last statement of a
//     batch; they have no holes.
//   - Every look-up takes a tenant.
//   - Whoever can write to the database and has not the key of the seal gains
//     nothing (S32): rows carry a MAC, small tables a seal of what is in them
//     (seals.go), the salts of log leaves bind what stands beside the entry, and
//     what only counts is held against the log (guard.go).
//
// Start reading at store.go, then atomic.go and ledger.go.
package store
