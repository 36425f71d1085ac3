package scep

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"

	"hallmark/internal/der"
)

// pkiStatus (RFC 8894, Section 3.2.1.3). Nothing is ever pending.
const (
	success = "0"
	failure = "2"
)

const certRep = "3"

// answer writes CertRep (RFC 8894, Section 3.3.2): content, encrypted to who asked,
// or why not.
func answer(m *message, ra *RA, content []byte, why error) ([]byte, error) {
	text := func(id der.OID, s string) []byte {
		return attribute(id, func(b []byte) []byte { return der.AppendDirectoryString(b, s) })
	}
	octets := func(id der.OID, v []byte) []byte {
		return attribute(id, func(b []byte) []byte { return der.AppendOctetString(b, v) })
	}
	nonce := make([]byte, 16)
	rand.Read(nonce)
	sum := sha256.Sum256(content)
	attributes := [][]byte{
		attribute(oidContentType, oidData.Append), octets(oidMessageDigest, sum[:]),
		text(oidMessageType, certRep), text(oidTransactionID, m.transaction),
		octets(oidSenderNonce, nonce), octets(oidRecipientNonce, m.nonce),
	}
	if why == nil {
		attributes = append(attributes, text(oidPKIStatus, success))
	} else {
		attributes = append(attributes, text(oidPKIStatus, failure), text(oidFailInfo, failInfo(why)),
			attribute(oidFailInfoText, func(b []byte) []byte { return der.AppendUTF8String(b, words(why)) }))
	}
	hash := sha256.Sum256(der.AppendSetOf(nil, der.TagSet, attributes...))
	signature, err := ra.Signer.Sign(rand.Reader, hash[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	algorithm := func(b []byte, id der.OID) []byte {
		return der.Sequence(b, func(b []byte) []byte { return der.AppendNull(id.Append(b)) })
	}
	return signedData(func(b []byte) []byte { return algorithm(b, oidSHA256) }, content, [][]byte{ra.Chain[0].Raw}, nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.AppendInt(b, 1)
			b = issuerAndSerial(b, ra.Chain[0])
			b = algorithm(b, oidSHA256)
			b = der.AppendSetOf(b, der.ContextConstructed(0), attributes...)
			b = algorithm(b, oidRSA)
			return der.AppendOctetString(b, signature)
		})
	}), nil
}

func attribute(id der.OID, value func([]byte) []byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return der.Set(id.Append(b), value) })
}

// degenerate is SignedData with certificates or lists and no signer (RFC 8894,
// Section 3.4). Their order stays: some clients take the first.
func degenerate(certificates, lists [][]byte) []byte {
	return signedData(nothing, nil, certificates, lists, nothing)
}

func nothing(b []byte) []byte { return b }

func signedData(digests func([]byte) []byte, content []byte, certificates, lists [][]byte, signers func([]byte) []byte) []byte {
	all := func(items [][]byte) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, x := range items {
				b = append(b, x...)
			}
			return b
		}
	}
	return contentInfo(oidSignedData, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.AppendInt(b, 1)
			b = der.Set(b, digests)
			b = der.Sequence(b, func(b []byte) []byte {
				b = oidData.Append(b)
				if content == nil {
					return b
				}
				return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendOctetString(b, content) })
			})
			if len(certificates) > 0 {
				b = der.Wrap(b, der.ContextConstructed(0), all(certificates))
			}
			if len(lists) > 0 {
				b = der.Wrap(b, der.ContextConstructed(1), all(lists))
			}
			return der.Set(b, signers)
		})
	})
}
