package csr

import (
	"crypto/x509"
	"slices"

	"hallmark/internal/der"
)

// algorithm is a signature algorithm with its whole AlgorithmIdentifier.
type algorithm struct {
	is  x509.SignatureAlgorithm
	der []byte
}

func identifier(oid string, null bool) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		b = der.MustOID(oid).Append(b)
		if null {
			b = der.AppendNull(b)
		}
		return b
	})
}

// algorithms is everything that is taken. SHA-1, MD5 and DSA are absent, not
// refused (A11). ECDSA and Ed25519 have no parameters (RFC 5758, Section 3.2;
// RFC 8410, Section 3); RSA has NULL, and its absence must be accepted too
// (RFC 4055, Section 5).
var algorithms = []algorithm{
	{x509.ECDSAWithSHA256, identifier("1.2.840.10045.4.3.2", false)},
	{x509.ECDSAWithSHA384, identifier("1.2.840.10045.4.3.3", false)},
	{x509.ECDSAWithSHA512, identifier("1.2.840.10045.4.3.4", false)},
	{x509.PureEd25519, identifier("1.3.101.112", false)},
	{x509.SHA256WithRSA, identifier("1.2.840.113549.1.1.11", true)},
	{x509.SHA384WithRSA, identifier("1.2.840.113549.1.1.12", true)},
	{x509.SHA512WithRSA, identifier("1.2.840.113549.1.1.13", true)},
	{x509.SHA256WithRSA, identifier("1.2.840.113549.1.1.11", false)},
	{x509.SHA384WithRSA, identifier("1.2.840.113549.1.1.12", false)},
	{x509.SHA512WithRSA, identifier("1.2.840.113549.1.1.13", false)},
}

var oidPSS = der.MustOID("1.2.840.113549.1.1.10")

// signatureAlgorithm compares whole identifiers, so parameters nobody checked
// cannot slip through. RSASSA-PSS keeps its hash in parameters; that rare case
// is left to crypto/x509, which knows exactly three forms.
func signatureAlgorithm(id der.Element, request []byte) (x509.SignatureAlgorithm, error) {
	for _, a := range algorithms {
		if slices.Equal(a.der, id.Raw) {
			return a.is, nil
		}
	}
	if oid, _, err := der.Next(id.Content); err == nil {
		if o, err := oid.OID(); err == nil && o == oidPSS {
			if r, err := x509.ParseCertificateRequest(request); err == nil && slices.Contains(
				[]x509.SignatureAlgorithm{x509.SHA256WithRSAPSS, x509.SHA384WithRSAPSS, x509.SHA512WithRSAPSS}, r.SignatureAlgorithm) {
				return r.SignatureAlgorithm, nil
			}
		}
	}
	return 0, ErrAlgorithm.New("")
}
