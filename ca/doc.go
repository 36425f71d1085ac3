// Package ca is the only code that asks a key to sign a certificate.
//
// [CA.Issue] reads as numbered steps: check, build, lint, reserve, sign,
// record, answer. Its invariants:
//
//   - The reservation is the permit. Every serial number that a CA key might
//     have signed, and what the certificate would have said, is on disk before
//     the key is used (S8). A retry signs the same bytes; the first recorded
//     signature wins.
//   - Nothing leaves before its record, and its leaf in the transparency log,
//     are durable.
//   - Every signature is verified with the pinned public key before it leaves.
//   - Subject and alternative names come from the authenticated record, never
//     from the request's CSR.
//   - A device CA can never mint a CA (S1).
//
// Start reading at issue.go, then ledger.go and authority.go. Standards: RFC
// 5280, IEEE 802.1AR.
package ca
