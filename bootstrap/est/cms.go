package est

import (
	"hallmark/bootstrap"
	"hallmark/ca/csr"
	"hallmark/internal/der"
)

var (
	oidData       = der.MustOID("1.2.840.113549.1.7.1")
	oidSignedData = der.MustOID("1.2.840.113549.1.7.2")

	oidChallenge   = der.MustOID("1.2.840.113549.1.9.7")
	oidExtensions  = der.MustOID("1.2.840.113549.1.9.14")
	oidAltNames    = der.MustOID("2.5.29.17")
	oidTemplate    = der.MustOID("1.2.840.113549.1.9.16.2.61") // RFC 9908, Section 3.4
	oidDecryptKey  = der.MustOID("1.2.840.113549.1.9.16.2.37") // RFC 7030, Section 4.4.1.1
	oidDecryptAsym = der.MustOID("1.2.840.113549.1.9.16.2.54") // Section 4.4.1.2
)

// certsOnly is SignedData with certificates and no signer (RFC 5272, Section 4.1).
func certsOnly(certificates ...[]byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		b = oidSignedData.Append(b)
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = der.AppendInt(b, 1)
				b = der.Set(b, nothing)
				b = der.Sequence(b, oidData.Append)
				b = der.AppendSetOf(b, der.ContextConstructed(0), certificates...)
				return der.Set(b, nothing)
			})
		})
	})
}

func nothing(b []byte) []byte { return b }

// attributes is CsrAttrs (RFC 7030, Section 4.5.2): the challenge password for
// clients that know object identifiers, and the template of RFC 9908 for those
// that can copy from it. nil asks for nothing.
func attributes(a *bootstrap.Attributes) []byte {
	if !a.Proof && a.Subject == nil {
		return nil
	}
	return der.Sequence(nil, func(b []byte) []byte {
		if a.Proof {
			b = oidChallenge.Append(b)
		}
		if a.Subject == nil {
			return b
		}
		return der.Sequence(b, func(b []byte) []byte {
			b = oidTemplate.Append(b)
			return der.Set(b, func(b []byte) []byte { return template(b, a) })
		})
	})
}

// template is CertificationRequestInfoTemplate. A Name with all its values is a
// NameTemplate too.
func template(b []byte, a *bootstrap.Attributes) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = der.AppendInt(b, 0)
		b = append(b, a.Subject...)
		return der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte {
			if a.AltNames == nil {
				return b
			}
			return der.Sequence(b, func(b []byte) []byte {
				b = oidExtensions.Append(b)
				return der.Set(b, func(b []byte) []byte {
					return der.Sequence(b, func(b []byte) []byte {
						return der.Sequence(b, func(b []byte) []byte {
							return der.AppendOctetString(oidAltNames.Append(b), a.AltNames)
						})
					})
				})
			})
		})
	})
}

// asksForEncryption tells whether a request wants the service's key encrypted for
// a second key (RFC 7030, Section 4.4.1). [csr.Parse] has checked its structure.
func asksForEncryption(r *csr.Request) bool {
	info, _, err := der.Next(contentOf(r.Raw))
	if err != nil {
		return false
	}
	rest := info.Content
	for len(rest) > 0 {
		e, tail, err := der.Next(rest)
		if err != nil {
			return false
		}
		rest = tail
		if e.Tag != der.ContextConstructed(0) {
			continue
		}
		for in := e.Content; len(in) > 0; {
			attribute, tail, err := der.Take(in, der.TagSequence)
			if err != nil {
				return false
			}
			in = tail
			kind, _, err := der.Next(attribute.Content)
			if err != nil {
				return false
			}
			if id, err := kind.OID(); err == nil && (id == oidDecryptKey || id == oidDecryptAsym) {
				return true
			}
		}
	}
	return false
}

// contentOf is the content of the outermost sequence, empty if there is none.
func contentOf(raw []byte) []byte {
	e, err := der.Only(raw, der.TagSequence)
	if err != nil {
		return nil
	}
	return e.Content
}
