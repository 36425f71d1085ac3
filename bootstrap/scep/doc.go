// Package scep is the Simple Certificate Enrolment Protocol (RFC 8894) over
// [bootstrap.Enroller].
//
// A message is signed by its sender and encrypted for the service's registration
// authority (RA), so it is served on the plain door. Who enrols proves a one-time
// password, sent as the challenge password, or a device's certificate, which signs
// the message. The answer is encrypted to the key that signed, so that key is RSA.
//
// Taken are GetCACaps, GetCACert and PKIOperation with PKCSReq, RenewalReq, GetCert
// and GetCRL. Nothing is ever pending here, so CertPoll is answered with badCertID:
// who lost an answer repeats its request. SCEP revokes nothing.
//
// Promises:
//   - Size, nesting and message type are checked before anything else of a message
//     is used; no input ends the process (A36).
//   - Only AES with CBC, and SHA-256 or better, come in or go out (A39).
//   - What could not be opened and what was not a request are answered alike, so
//     that answers tell nothing about the key or the padding.
//   - A challenge is for one unit and one profile, serves one key and lives an hour
//     at most (A37). A renewal is signed by a live certificate of ours (A38).
//   - The same key gets the same certificate; a transaction is one request.
//
// Messages are read and written here and not by a library, for the reasons in
// docs/decisions/0013-scep-messages.md.
//
// Start reading at [Server.ServeHTTP].
package scep
