// Package bootstrap is how a device gets in: [Gate] decides who is at the
// device door over HTTPS and [Service] makes a device of a birth certificate at
// first boot; [Door] decides who is at the MQTT door; [Claims], [BYOC] and [Bulk]
// are the other ways to become a device; [Enroller] is what the standard protocols
// below this folder speak for.
//
// Promises:
//   - A certificate is what the database says it is: found by issuer and serial
//     number, equal octet by octet, of a device's role (A12, S18). What its
//     subject says does not count.
//   - Revoked, expired, inactive and blocked devices get a refusal with a code
//     of their own, also over a resumed session (S19).
//   - A new key is active only once it was tied to the birth certificate's
//     connection, or proved itself with a connection of its own (S15). A claim's
//     waits for RegisterThing, pending here and on hold for everybody who asks
//     (S17); no handshake activates it.
//   - Each way in happens once, however many connections or nodes race: thing,
//     policies, certificate, budget and grant change in one transaction, and what
//     is repeated gets the same answer. No answer names another device.
//   - Every way in draws on a budget (S17) and is planned by a template; only the
//     service names a certificate to a template (S21), and a thing with a live
//     device is not given away (S22).
//
// The HTTPS door asks for any client certificate and verifies it here, not in the
// handshake, so that a refused device learns why.
//
// Where the reference cloud is silent or this package differs from it: a
// certificate that waits is announced when it is registered and at most once an
// hour after that (S41); a template that refuses at the door leaves it
// PENDING_ACTIVATION and is tried again; a used token answers the identical
// request again and no other; a claim certificate is for one template; leaf-only
// registration needs a signature by the key (S23).
//
// Start reading at [Gate.Admit] and [Service.Register], then [Door.Admit] and
// [Claims.RegisterThing].
package bootstrap
