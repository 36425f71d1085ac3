// Package kdf derives keys from passphrases. It is a package of its own because
// pbkdf2.Key is generic, so that the compiler puts its loop of hundreds of thousands
// of rounds into the package that calls it: here the tests can leave that loop
// without the race detector, which made every start of a service seconds longer.
package kdf

import (
	"crypto/pbkdf2"
	"hash"
)

// PBKDF2 derives size octets from a passphrase (RFC 8018, Section 5.2). The error
// says that the FIPS 140 module does not take such parameters.
func PBKDF2(prf func() hash.Hash, passphrase string, salt []byte, iterations, size int) ([]byte, error) {
	return pbkdf2.Key(prf, passphrase, salt, iterations, size)
}
