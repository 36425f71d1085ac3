// Package hsm holds private keys: it opens them by URI, generates them, signs
// with them and keeps their tokens in working order.
//
// A [Keyring] opens three kinds of URI: pkcs11: (RFC 7512) for an HSM, piv: for
// a card with a PIV application, and file: for an encrypted PKCS #8 file, which
// is the development default and says so in the log at every opening.
//
// Invariants:
//   - A key that cannot be told apart from another is refused, never guessed.
//   - A wrong PIN reaches a token at most once per start (A23).
//   - A dead token fails requests at once; it comes back without a restart, and
//     only after a test signature verified with the public key seen first. That
//     holds where a module crashes or never returns, too: it runs in a process of
//     its own, which is replaced (A24).
//   - A key generated here can sign and do nothing else, and never leaves.
//
// A key that more than one token holds is a [Group]: it fails over, spreads load
// and verifies every signature with the pinned public key. The signature of a
// single token is not verified here; who signs a certificate, CRL or answer
// verifies it with the pinned public key before it leaves. How a key comes into
// a second token, and the record of that, is a [Transfer].
//
// Standards: PKCS #11 v3.1, RFC 7512, RFC 5958 and RFC 8018 (files), NIST SP
// 800-73-4 (PIV). Start reading at [Keyring].
package hsm
