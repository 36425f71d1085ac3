// Package bootstrap is how a device gets in: [Gate] decides who is at the
// device door, and [Service] makes a device of a birth certificate at first boot.
//
// Promises:
//   - A certificate is what the database says it is: found by issuer and serial
//     number, equal octet by octet, of a device's role (A12, S18). What its
//     subject says does not count.
//   - Revoked, expired, inactive and blocked devices get a refusal with a code
//     of their own, also over a resumed session (S19).
//   - A new key is active only once it was tied to the birth certificate's
//     connection, or proved itself with a connection of its own (S15).
//   - First boot can be repeated: the same key gets the same certificate and the
//     same thing. No answer names another device.
//
// The door asks for any client certificate and verifies it here, not in the
// handshake, so that a refused device learns why.
//
// Start reading at [Gate.Admit] and [Service.Register].
package bootstrap
