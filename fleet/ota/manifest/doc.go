// Package manifest is the signed word about a firmware image, and the small verifier
// that a device has for it. It needs no service, no network and no store.
//
// Form (docs/decisions/0016-manifest-form.md): COSE_Sign (RFC 9052, Section 4.1) in
// deterministic CBOR (RFC 8949, Section 4.2.1) around a map that binds product class,
// version, rollback floor, hardware, size, digest and the time until which it may be
// installed (S40).
//
// Invariants:
//
//   - There is one encoding of a manifest: what parses and is encoded again is the
//     same octets, so nothing can hide in it.
//   - A manifest counts only with as many signatures by different pinned keys, or by
//     keys that a pinned root certifies for code signing, as the [Trust] wants.
//   - Nothing of an unverified manifest is given to anybody but for display.
//
// Start reading at [Manifest], then [Trust.Verify] and [Manifest.Fits].
package manifest
