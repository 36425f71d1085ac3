// Package csr reads certification requests (PKCS #10, RFC 2986) and writes the
// one that our devices and stations send.
//
// What a request contributes is its public key and the proof that the requester
// holds the private half; nothing else. Subject and names of a certificate come
// from the order, the manifest and the profile (A10): [Request.CommonName] is a
// claim to compare with an authenticated record, [Request.Extensions] a list to
// ignore or to compare. A request that asks for the powers of an authority
// (CA:TRUE, keyCertSign, cRLSign, OCSPSigning) is refused outright: its sender
// is wrong about what it is talking to, or hostile.
//
// Invariants of a [Request] that [Parse] returned: it was DER, one object with
// nothing after it, version 0; attributes and extensions are listed once;
// the signature is by the key inside with SHA-256 or better; SPKI is the one
// encoding of that key, so its hash is the key's identity. The key is of a
// known type and bounded size, but not judged: that is ca/keycheck's
// [hallmark/ca/keycheck.Policy.Check], which ca calls for every key wherever it
// came from.
//
// Refusals are quick: nothing longer than [MaxSize] is looked at (A56), and the
// structure is checked before the signature.
//
// Start reading at [Parse].
package csr
