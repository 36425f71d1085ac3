package scep

import (
	"crypto/x509"
	"math/big"
)

// ReadAll reads what the parsers can read of outside octets, for fuzzing.
func ReadAll(raw []byte) {
	readIssuerAndSerial(raw)
	readEnvelope(raw, []*RA{{Chain: []*x509.Certificate{{SubjectKeyId: []byte{1}, SerialNumber: big.NewInt(1)}}}})
	m, err := parse(raw)
	if err != nil {
		return
	}
	readEnvelope(m.content, []*RA{{Chain: []*x509.Certificate{m.signer}}})
}

// Definite rewrites BER.
func Definite(raw []byte) ([]byte, error) { return definite(raw) }

// The bounds.
const (
	MaxMessage = maxMessage
	MaxDepth   = maxDepth
)
