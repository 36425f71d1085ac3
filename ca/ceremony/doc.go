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
// [Run] carries out a whole script ([Agenda]) with M of N custodians on top of
// these calls, and [VerifyRun] checks what it left. Its transcript is its journal:
// lines that name each other by hash, each on the disk before what it announces is
// done. [replay] is the one place that knows which line may follow which; the run
// and the verifier both go through it.
//
// Standards: RFC 5280; RFC 8785 (canonical JSON); the signed envelope has the form
// and the pre-authentication encoding of DSSE v1; C2SP tlog-checkpoint, signed-note
// and tlog-cosignature for witnesses.
//
// Start reading at ceremony.go, then transcript.go and verify.go for a step, and
// at agenda.go, run.go and replay.go for a script.
package ceremony
