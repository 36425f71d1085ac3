package cmp

import (
	"crypto/rand"
	"time"

	"hallmark/internal/der"
	"hallmark/internal/fault"
)

// status is PKIStatus (RFC 9810, Section 5.2.3).
type status int64

// The statuses that are given.
const (
	accepted        status = 0
	grantedWithMods status = 1
	rejection       status = 2
)

// answer is a PKIMessage to be.
type answer struct {
	to       *message // nil if nothing of it could be read
	sender   []byte   // Name of the service, DER
	kind     kind
	body     []byte // content of the body, DER
	nonce    []byte
	implicit bool
	extra    [][]byte // certificates, DER
	now      time.Time
	by       *protector // nil: not protected
}

// encode writes the message.
func (a *answer) encode() ([]byte, error) {
	header := der.Sequence(nil, a.header)
	body := der.AppendTLV(nil, der.ContextConstructed(byte(a.kind)), a.body)
	var protection []byte
	if a.by != nil {
		part := der.Sequence(nil, func(b []byte) []byte { return append(append(b, header...), body...) })
		var err error
		if protection, err = a.by.protect(part); err != nil {
			return nil, err
		}
	}
	return der.Sequence(nil, func(b []byte) []byte {
		b = append(append(b, header...), body...)
		if protection != nil {
			b = der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendBitString(b, protection) })
		}
		if len(a.extra) > 0 {
			b = der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte { return appendList(b, a.extra) })
		}
		return b
	}), nil
}

func appendList(b []byte, items [][]byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		for _, x := range items {
			b = append(b, x...)
		}
		return b
	})
}

func directoryName(b, name []byte) []byte { return der.AppendTLV(b, tagDirectory, name) }

func (a *answer) header(b []byte) []byte {
	version, recipient := int64(2), directoryName(nil, emptyName)
	if a.to != nil {
		version, recipient = a.to.version, a.to.sender
	}
	octets := func(n byte, v []byte) {
		if len(v) > 0 {
			b = der.Wrap(b, der.ContextConstructed(n), func(b []byte) []byte { return der.AppendOctetString(b, v) })
		}
	}
	b = der.AppendInt(b, version)
	b = directoryName(b, a.sender)
	b = append(b, recipient...)
	b = der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendGeneralizedTime(b, a.now.UTC().Truncate(time.Second)) })
	if a.by != nil {
		b = der.AppendTLV(b, der.ContextConstructed(1), a.by.algorithm())
		switch {
		case a.by.password != nil && a.to != nil:
			octets(2, a.to.senderKID)
		case len(a.by.chain) > 0:
			octets(2, a.by.chain[0].SubjectKeyId)
		}
	}
	if a.to != nil {
		octets(4, a.to.transaction)
	}
	if a.nonce == nil {
		a.nonce = make([]byte, 16)
		rand.Read(a.nonce)
	}
	octets(5, a.nonce)
	if a.to != nil {
		octets(6, a.to.senderNonce)
	}
	if a.implicit {
		b = der.Wrap(b, der.ContextConstructed(8), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte { return der.AppendNull(oidImplicitConfirm.Append(b)) })
			})
		})
	}
	return b
}

// statusInfo is PKIStatusInfo.
func statusInfo(b []byte, s status, err error) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = der.AppendInt(b, int64(s))
		if err == nil {
			return b
		}
		b = der.Sequence(b, func(b []byte) []byte { return der.AppendUTF8String(b, words(err)) })
		return der.AppendNamedBits(b, 1<<failure(err))
	})
}

// words is what a fault tells its reader; an internal one tells nothing more.
func words(err error) string {
	f := fault.From(err)
	text := f.What
	if f.Kind != fault.Internal && f.Detail != "" {
		text += " " + f.Detail
	}
	return text + " " + f.Next + " (" + f.Code + ")"
}

// certResponse is CertRepMessage with one CertResponse: a certificate, or why not.
func certResponse(id int64, s status, err error, certificate []byte, roots [][]byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		if len(roots) > 0 {
			b = der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte { return appendList(b, roots) })
		}
		return der.Sequence(b, func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = der.AppendInt(b, id)
				b = statusInfo(b, s, err)
				if certificate == nil {
					return b
				}
				return der.Sequence(b, func(b []byte) []byte { return der.AppendTLV(b, der.ContextConstructed(0), certificate) })
			})
		})
	})
}

// revocationResponse is RevRepContent about one certificate.
func revocationResponse(s status, err error, r *revocation) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		b = der.Sequence(b, func(b []byte) []byte { return statusInfo(b, s, err) })
		if r == nil {
			return b
		}
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					b = directoryName(b, r.issuer)
					return der.AppendTLV(b, der.TagInteger, r.serial)
				})
			})
		})
	})
}

// errorContent is ErrorMsgContent.
func errorContent(err error) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return statusInfo(b, rejection, err) })
}
