// Package cmp is the Certificate Management Protocol (RFC 9810, the successor of
// RFC 4210, in the profile of RFC 9483) over HTTP (RFC 9811), over
// [bootstrap.Enroller].
//
// A message proves itself: with a one-time password (PasswordBasedMac or PBMAC1,
// whose reference value is the password's id), or with a signature by a device's
// certificate. So it is served on the plain door.
//
// Taken are ir, cr, p10cr, kur, rr, certConf and genm; everything else is answered
// with an error message. One message asks for one certificate.
//
// Promises:
//   - No input ends the process or is worked on before its protection was verified;
//     what a message says of itself costs no more than that.
//   - The public key counts with its proof of possession alone; names come from the
//     order or the template, never from the request.
//   - A message that comes again gets the same certificate, and changes nothing. A
//     transaction is one request: another one under its identifier is refused, and a
//     confirmation has to answer the nonce of the certificate that it confirms.
//   - A device revokes certificates of its own and no others (A34).
//
// There is no state between messages but that of the certificates: our nonce is
// made from the transaction and the certificate under a key of the service, so any
// node takes the confirmation.
//
// Start reading at [Server.ServeHTTP].
package cmp
