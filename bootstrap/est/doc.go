// Package est is Enrollment over Secure Transport (RFC 7030, with the corrections
// of RFC 8951 and the attributes of RFC 9908) over [bootstrap.Enroller].
//
// It is served at two doors. Where client certificates are asked for, a device
// enrols with its birth certificate, and renews with its operational one. Where
// none is, it enrols with its unit's name and a one-time password (HTTP Basic).
// The label in the path names a profile, idevid or ldevid; there is no other.
//
// Promises:
//   - Answers are the certificate alone; errors are a text and a status.
//   - A challenge password is the channel binding of the very connection
//     (tls-unique, or the exporter of RFC 9266), or the request is refused (A45).
//   - A renewal has the subject and the names of the certificate that it renews (A13).
//   - A key that the service made leaves in the answer to its request, once, and is
//     kept nowhere (A46).
//
// Where this package differs from the standard: a renewal needs a new key, and
// what was certified before is not certified again.
//
// Start reading at [Server.Handler].
package est
