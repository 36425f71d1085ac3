// Package filter is a compact answer to the question whether a certificate is
// revoked: exact for every certificate of one authority that was issued when the
// filter was made, in about a byte for each revoked one. A gateway carries it where a revocation list is
// too long, and asks nobody.
//
// The package imports the standard library only, so that a verifier can take it
// as it is. Making a filter is in build.go, using one in verifier.go; format.go
// has the octets, which docs/filter.md describes for other languages.
//
// A filter is two tables in the manner of a ribbon (Dillinger and Walzer,
// "Ribbon filter: practically smaller than Bloom and Xor", 2021), one after the
// other as in a clubcard. The first keeps a short fingerprint of every revoked
// serial number; whatever does not match is good. By chance some good ones match.
// All of these are known, since all issued serial numbers are, and the second
// table has one bit for each number that matches the first: 1 for revoked.
//
// Invariants (S35):
//
//   - No wrong answer: what a filter cannot know it calls [NotCovered].
//   - A [Verifier] takes what the authority's delegate signed, and nothing that is
//     older than what it had.
package filter
