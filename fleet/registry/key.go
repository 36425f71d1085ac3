package registry

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"strconv"
)

// KeyOf names the key of a certificate, such as P-256, RSA-2048 or Ed25519, and its
// size in bits; "" if it cannot be read.
func KeyOf(der []byte) (name string, bits int) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return "", 0
	}
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return k.Curve.Params().Name, k.Curve.Params().BitSize
	case *rsa.PublicKey:
		return "RSA-" + strconv.Itoa(k.N.BitLen()), k.N.BitLen()
	case ed25519.PublicKey:
		return "Ed25519", 256
	}
	return "", 0
}
