// Package ceremony uses the key of an offline root: it makes the root, signs the
// certificates of issuing authorities and the root's own list, and leaves a
// signed transcript of each step that anybody can check without a network.
//
// Every use of the root key goes through two calls. A Plan method renders and
// lints what would be signed and opens the key; [Plan.Describe] tells people in
// words what that is, read back from the octets themselves; [Ceremony.Execute]
// signs exactly those octets, once. [Ceremony.CreateRoot] and its neighbours do
// both for programs that have nobody to ask.
//
// Invariants:
//
//   - Extensions come from the profile and names from the request. Of a CSR only
//     the public key is used (S37, A10).
//   - The root key signs a linted plan, a linted list or a transcript and
//     nothing else; a transcript starts with "DSSEv1 " and so can never be read
//     as a certificate or list, which start with a SEQUENCE.
//   - Every signature is verified with the public key of the root before it is
//     shown to anybody (A25).
//   - A key that its token does not protect is refused; where development lets
//     it pass, the transcript says so (A22).
//   - Nothing here opens a connection or a database.
//
// The full ceremony with several custodians and a script is built on these
// calls. Standards: RFC 5280; RFC 8785 (canonical JSON); the signed envelope has
// the form and the pre-authentication encoding of DSSE v1.
//
// Start reading at ceremony.go, then transcript.go and verify.go.
package ceremony
