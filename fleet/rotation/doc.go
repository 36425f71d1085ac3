// Package rotation replaces the operational certificates of devices: it says when
// one is due, has campaigns tell the devices, and takes the old one back.
//
// Words: A is the certificate that a device has, B the one that replaces it.
//
// Promises:
//   - A is revoked, as superseded, only after B was seen connected, the soak is
//     over, and the device is connected with B or was so after the soak began.
//   - No timer revokes anything (S30). B that was not proven in its time is put on
//     hold, and only while A still lets the device in. A birth certificate is never
//     touched.
//   - What a device says about itself is not proof: the registry and presence are.
//   - Everything may be done again, after a crash or by another node, with the same
//     outcome.
//   - What was done with which certificate, and why, is kept (see [Event]).
//
// The device's side is described in docs/rotation.md. The idea of a renewal window
// that the server sets is that of RFC 9773.
//
// Start reading at [Action], then [Window] and [Service.Scan].
package rotation
