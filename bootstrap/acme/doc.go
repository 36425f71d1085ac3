// Package acme speaks ACME (RFC 8555): devices that prove themselves with an
// attestation of their hardware (device-attest-01), and servers at a site that
// prove their names (http-01, dns-01).
//
// Orders, authorizations, challenges and the verification of attestations are
// those of github.com/smallstep/certificates/acme, with this package as its
// database, provisioner and certificate authority. The requests are read here and
// not by that module's api package, which takes its authority only as that
// module's own: a request ends in [bootstrap.Enroller], as everywhere, and what
// would make the module panic, answer 500 or take too little for a proof is
// refused before it.
//
// Invariants: a nonce is good once for the whole service. Every request is signed,
// and only for the URL that it came to. What an account may have is decided by
// people (an external account key) or the configuration, never by a request; names
// in a CSR have to be those that were proven and are not used. The key of a device
// is the attested one. A proof that failed ends its order.
//
// Start reading at [Server.Handler].
package acme
