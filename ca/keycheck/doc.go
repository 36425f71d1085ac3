// Package keycheck says which public keys may be certified. It is pure: no I/O,
// no clock, no randomness, and the same answer for the same key.
//
// The default policy ([Policy] with no field set) takes P-256, P-384, RSA of
// 2048 to 4096 bits and Ed25519, and refuses keys whose private half is known
// or cheap to find: exponents below 65537, moduli with small factors (A19),
// with close primes (A18), with the structure of CVE-2017-15361 (A16), points
// that are not on their curve or of low order (A20), keys on a block list (A17).
//
// Invariant: limits on size come before big arithmetic, so any key, however
// hostile, is answered within 50 ms. [Bounds] is that first part alone, for
// whoever must verify a signature by a key nobody has judged yet.
//
// What it cannot see: whether a key was drawn from good randomness, and whether
// a modulus has two factors of which neither is small or near the root.
//
// Standards: FIPS 186-5, SP 800-56A Rev. 3, RFC 8017, RFC 8032, RFC 5480; the
// limits on RSA are those of the CA/Browser Forum's Baseline Requirements,
// Section 6.1.6. Start reading at [Policy.Check].
package keycheck
