// Package piv keeps keys in cards with a PIV application (YubiKey). It is for
// ceremonies, custodians and stations; a service under load wants an HSM.
//
// Invariants:
//   - one operation at a time per card: VERIFY and SIGN of two users interleave
//     otherwise, and fail or sign under the other's PIN;
//   - a card is known by its serial number, read again after each opening: the
//     reader's name stays when somebody changes the card;
//   - a PIN that a card refused is not tried again by this process, and the
//     last try of a card is never taken (A23).
//
// No call of PC/SC has a time-out: a caller leaves at its context or after
// thirty seconds, while the goroutine stays until the card answers. When a card
// was just inserted and does not answer the first SELECT, the binding keeps its
// handle for the life of the process; then the process must be started again.
//
// Standard: NIST SP 800-73-4. Start reading at [Store.Signer].
package piv
