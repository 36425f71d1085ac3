// Package token holds what every kind of key store shares: key URIs, secrets
// and where they come from, algorithms, attributes, faults and the [Signer].
//
// Package hsm gives these names to the rest of the program; only the backends
// beside this package import it.
//
// Invariants: a [Secret] never shows itself in a log, an error or JSON; a [URI]
// that was parsed prints the same key again and never prints a PIN; an
// attribute that a token did not tell is [Unknown], never [No].
//
// Standard: RFC 7512 for pkcs11: URIs, PKCS #11 v3.1 for attributes.
// Start reading at [ParseURI].
package token
