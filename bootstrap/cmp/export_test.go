package cmp

import (
	"context"
	"crypto/x509"
	"time"

	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// Draft is a message that a test sends.
type Draft struct {
	Kind                        byte
	Body                        []byte
	Transaction, Nonce, Answers []byte
	Reference, Secret           string
	Algorithm                   []byte // of the password; nil sends no protection
	Time                        time.Time
	Certificates                []*x509.Certificate
}

// Encode writes the message; its header has the fields of an answer's.
func (d Draft) Encode() []byte {
	m := &message{version: 2, sender: directoryName(nil, emptyName), transaction: d.Transaction, senderNonce: d.Answers, senderKID: []byte(d.Reference)}
	a := &answer{to: m, sender: emptyName, kind: kind(d.Kind), body: d.Body, nonce: d.Nonce, now: d.Time}
	if d.Algorithm != nil {
		p, err := passwordOf(d.Algorithm, d.Secret)
		if err != nil { // one that the server refuses too
			p = &password{algorithm: d.Algorithm, mac: macs[der.MustOID("1.2.840.113549.2.9")], key: []byte(d.Secret)}
		}
		a.by = withSecret(p)
	}
	for _, c := range d.Certificates {
		a.extra = append(a.extra, c.Raw)
	}
	out, err := a.encode()
	if err != nil {
		panic(err)
	}
	return out
}

func algorithm(id string, parameters func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.MustOID(id).Append(b)
			if parameters != nil {
				b = parameters(b)
			}
			return b
		})
	}
}

// PBM is the identifier of PasswordBasedMac with SHA-256.
func PBM(iterations int64) []byte {
	return algorithm(oidPBM.String(), func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.AppendOctetString(b, []byte("0123456789abcdef"))
			b = algorithm(oidSHA256.String(), nil)(b)
			b = der.AppendInt(b, iterations)
			return algorithm("1.2.840.113549.2.9", nil)(b)
		})
	})(nil)
}

// PBMAC1 is the identifier of PBMAC1 with PBKDF2 and SHA-256.
func PBMAC1(iterations int64) []byte {
	return algorithm(oidPBMAC1.String(), func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = algorithm(oidPBKDF2.String(), func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					b = der.AppendOctetString(b, []byte("0123456789abcdef"))
					b = der.AppendInt(b, iterations)
					b = der.AppendInt(b, 32)
					return algorithm("1.2.840.113549.2.9", der.AppendNull)(b)
				})
			})(b)
			return algorithm("1.2.840.113549.2.9", der.AppendNull)(b)
		})
	})(nil)
}

// Answer is what a test wants to know of an answer.
type Answer struct {
	Kind        byte
	Nonce       []byte
	Certificate []byte // of a certificate response
	Failure     int    // the bit of PKIFailureInfo, -1 for none
	Protected   bool   // with the secret
}

// Read reads an answer; secret "" leaves its protection alone.
func Read(raw []byte, secret string) (out Answer, err error) {
	m, err := parse(raw)
	if err != nil {
		return out, err
	}
	out = Answer{Kind: byte(m.kind), Nonce: m.senderNonce, Failure: -1}
	if secret != "" && withPassword(m.algorithm) {
		if p, err := passwordOf(m.algorithm, secret); err == nil {
			out.Protected = string(p.sum(m.protectedPart)) == string(m.protection)
		}
	}
	out.walk(m.content, 0)
	return out, nil
}

// walk finds the last certificate and the first failure; their places differ from
// body to body.
func (a *Answer) walk(in []byte, depth int) {
	for len(in) > 0 {
		e, rest, err := der.Next(in)
		if err != nil {
			return
		}
		in = rest
		if _, err := x509.ParseCertificate(e.Raw); err == nil { // the roots come before it
			a.Certificate = e.Raw
			continue
		}
		if bits, err := e.NamedBits(); err == nil && e.Tag == der.TagBitString && a.Failure < 0 {
			for i := range 32 {
				if bits&(1<<i) != 0 {
					a.Failure = i
				}
			}
		}
		if e.Tag&0x20 != 0 && depth < 12 {
			a.walk(e.Content, depth+1)
		}
	}
}

// Request is CertReqMessages for a key: what signs is the proof of possession.
func Request(spki, subject []byte, sign func(octets []byte) []byte) []byte {
	req := der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendInt(b, 0)
		return der.Sequence(b, func(b []byte) []byte {
			if subject != nil {
				b = der.AppendTLV(b, der.ContextConstructed(5), subject)
			}
			e, _ := der.Only(spki, der.TagSequence)
			return der.AppendTLV(b, der.ContextConstructed(6), e.Content)
		})
	})
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = append(b, req...)
			if sign == nil {
				return der.AppendTLV(b, der.Context(0)) // raVerified
			}
			return der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte {
				b = algorithm("1.2.840.10045.4.3.2", nil)(b)
				return der.AppendBitString(b, sign(req))
			})
		})
	})
}

// Confirmation is CertConfirmContent; status 2 declines.
func Confirmation(hash []byte, status int64) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.AppendOctetString(b, hash)
			b = der.AppendInt(b, 0)
			return der.Sequence(b, func(b []byte) []byte { return der.AppendInt(b, status) })
		})
	})
}

// Name is a subject of one common name.
func Name(cn string) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Set(b, func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte { return der.AppendUTF8String(oidCommonName.Append(b), cn) })
		})
	})
}

// ReadAll is every reader of this package on the same octets, for fuzzing.
func ReadAll(raw []byte) {
	m, err := parse(raw)
	if err != nil {
		return
	}
	m.signer()
	if m.algorithm != nil {
		passwordOf(m.algorithm, "secret")
		signatureOf(m.algorithm)
	}
	readCertReqMessages(m.content)
	readRevocation(m.content)
	if c, err := readConfirmation(m.content); err == nil && c != nil {
		c.of(raw)
	}
	commonName(m.senderName)
}

// Handle is one message without HTTP around it.
func Handle(s *Server, raw []byte, name profile.Name) ([]byte, error) {
	a, _ := s.handle(context.Background(), raw, name)
	return a.encode()
}
