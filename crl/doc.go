// Package crl takes trust away, and tells the world: revocations, the revoked
// set in memory, revocation lists and OCSP. It holds no CA key; it asks package
// ca to sign lists, and a delegated responder signs OCSP answers.
//
// Invariants:
//
//   - The row of a revocation is permanent, and it and its log leaf are one
//     transaction (S32, S33). Everything else here is derived from it.
//   - keyCompromise is never weakened; only a hold is released (A33).
//   - [Set.Load] succeeds before any listener opens (A28).
//   - A list is published only if it parses, verifies, has a higher number, and
//     keeps every serial number of the list before it, save those that expired
//     before that one or whose release is in the log (S32, A27, A32).
//   - OCSP never says good about a serial number without a recorded certificate (A7).
//
// Standards: RFC 5280, Section 5 for lists; RFC 6960 for OCSP.
//
// Start reading at revoke.go, then set.go, publish.go and build.go. Long lists are
// kept in pieces (pieces.go), delta lists go with them (delta.go), other places get
// them (sender.go, destinations.go), compact filters say the same (filters.go), and
// the lists of other CAs come in (imports.go).
package crl
