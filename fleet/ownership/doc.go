// Package ownership is whose device a unit is: released by one tenant, accepted by
// another, reset by its owner, taken out of use with proof.
//
// Words: the home of a unit is the tenant whose authority made its birth
// certificate; it never changes. The owner is the tenant where the device lives; it
// is the home until somebody released the device and somebody else accepted it.
//
// Promises:
//   - A unit has one owner, or waits for one, or is decommissioned for ever. Of two
//     who accept at once one wins; the other is told so.
//   - With the release the old owner's operational certificates are revoked and its
//     things emptied, in one transaction; what it had is kept in its history, which
//     nobody else reads (S43). The birth certificate is not touched.
//   - A released unit that nobody accepted gets in nowhere, and gets no certificate
//     from the tenant that it left, whatever was under way (fail closed).
//   - The code of a release is told once and kept as a hash; it ends by itself, and
//     it accepts once.
//   - Whoever writes to the database does not change an owner: rows carry a MAC, and
//     one that is gone is missed by the history and by fsck (S32).
//   - What follows the transaction (jobs of the emptied things, what was issued
//     beside it) is done again until it is done, after a crash too; see [Service.Step].
//
// A certificate that a unit leaves behind is revoked as cessationOfOperation
// (RFC 5280, Section 5.3.1; X.509: "no longer needed for the purpose for which it was
// issued"). affiliationChanged is for a certificate whose subject is no longer right,
// and the device is still the device that its certificate names.
//
// Start reading at [Unit], then [Service.Release] and [Service.Accept].
package ownership
