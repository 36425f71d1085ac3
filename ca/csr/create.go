package csr

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"unicode/utf8"

	"hallmark/internal/der"
)

// Create makes a request in DER for the signer's key. challenge is the service's
// nonce or the TLS exporter value (S15), "" = no challengePassword; crypto/x509
// cannot write that attribute. commonName may be "".
func Create(signer crypto.Signer, commonName, challenge string) ([]byte, error) {
	if !sendable(commonName, maxCommonName) {
		return nil, ErrSubject.New("")
	}
	if !sendable(challenge, maxChallenge) {
		return nil, ErrChallenge.New("")
	}
	algorithm, hash, err := signingAlgorithm(signer.Public())
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, ErrSigner.Wrap(err, "")
	}

	info := der.Sequence(make([]byte, 0, 512), func(b []byte) []byte {
		b = der.AppendInt(b, 0)
		b = der.Sequence(b, func(b []byte) []byte {
			if commonName == "" {
				return b
			}
			return der.Set(b, func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					return der.AppendDirectoryString(oidCommonName.Append(b), commonName)
				})
			})
		})
		b = append(b, spki...)
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			if challenge == "" {
				return b
			}
			return der.Sequence(b, func(b []byte) []byte {
				return der.Set(oidChallenge.Append(b), func(b []byte) []byte {
					return der.AppendDirectoryString(b, challenge)
				})
			})
		})
	})

	signed := info
	if hash != 0 {
		h := hash.New()
		h.Write(info)
		signed = h.Sum(nil)
	}
	signature, err := signer.Sign(rand.Reader, signed, hash)
	if err != nil {
		return nil, ErrSigner.Wrap(err, "")
	}
	return der.Sequence(make([]byte, 0, len(info)+len(signature)+32), func(b []byte) []byte {
		return der.AppendBitString(append(append(b, info...), algorithm...), signature)
	}), nil
}

// sendable says whether [Parse] would take s; the empty string is left out.
func sendable(s string, limit int) bool {
	if !utf8.ValidString(s) {
		return false
	}
	_, ok := text(der.Element{Tag: der.TagUTF8String, Content: []byte(s)}, limit)
	return ok
}

func signingAlgorithm(pub crypto.PublicKey) (identifier []byte, hash crypto.Hash, err error) {
	is := x509.UnknownSignatureAlgorithm
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			is, hash = x509.ECDSAWithSHA256, crypto.SHA256
		case elliptic.P384():
			is, hash = x509.ECDSAWithSHA384, crypto.SHA384
		case elliptic.P521():
			is, hash = x509.ECDSAWithSHA512, crypto.SHA512
		}
	case *rsa.PublicKey:
		is, hash = x509.SHA256WithRSA, crypto.SHA256
	case ed25519.PublicKey:
		is, hash = x509.PureEd25519, 0
	}
	for _, a := range algorithms {
		if a.is == is {
			return a.der, hash, nil
		}
	}
	return nil, 0, ErrSigner.New("Its type is %T.", pub)
}
