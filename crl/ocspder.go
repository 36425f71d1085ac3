package crl

import (
	"crypto"
	"errors"
	"math/big"
	"time"

	"hallmark/ca"
	"hallmark/internal/der"
)

// responseFault is the OCSPResponseStatus of an unsigned answer (RFC 6960,
// Section 4.2.1).
type responseFault byte

const (
	malformedRequest responseFault = 1
	tryLater         responseFault = 3
	unauthorized     responseFault = 6
	unknownAuthority responseFault = 255 // no such URL; not an answer of the protocol
)

// refuse is an answer without a body.
func refuse(f responseFault) []byte {
	return der.Sequence(nil, func(b []byte) []byte { return der.AppendEnumerated(b, int64(f)) })
}

var (
	oidBasic  = der.MustOID("1.3.6.1.5.5.7.48.1.1")
	oidNonce  = der.MustOID("1.3.6.1.5.5.7.48.1.2")
	oidSHA1   = der.MustOID("1.3.14.3.2.26")
	oidSHA256 = der.MustOID("2.16.840.1.101.3.4.2.1")
)

var errRequest = errors.New("crl: malformed OCSP request")

// certID names a certificate in a request (RFC 6960, Section 4.1.1).
type certID struct {
	raw      []byte
	hash     crypto.Hash // 0 for one we do not know
	nameHash []byte
	keyHash  []byte
	serial   []byte
}

func (id *certID) ours() (ca.Serial, bool) {
	return ca.SerialFromInt(new(big.Int).SetBytes(id.serial))
}

type ocspRequest struct {
	certs []certID
	nonce []byte // DER of the extension's value, nil without one
}

// parseRequest reads an OCSPRequest. A signature on it is not looked at: anybody
// may ask (RFC 6960, Section 4.1.2).
func parseRequest(in []byte) (*ocspRequest, error) {
	if len(in) > maxOCSPRequest {
		return nil, errRequest
	}
	outer, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, err
	}
	tbs, rest, err := der.Take(outer.Content, der.TagSequence)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		if _, err := der.Only(rest, der.ContextConstructed(0)); err != nil {
			return nil, err
		}
	}
	body := tbs.Content
	if len(body) > 0 && body[0] == der.ContextConstructed(0) {
		var v der.Element
		if v, body, err = der.Next(body); err != nil {
			return nil, err
		}
		n, err := der.Only(v.Content, der.TagInteger)
		if err != nil {
			return nil, err
		}
		if i, err := n.Int(); err != nil || i != 0 {
			return nil, errRequest
		}
	}
	if len(body) > 0 && body[0] == der.ContextConstructed(1) { // requestorName
		if _, body, err = der.Next(body); err != nil {
			return nil, err
		}
	}
	list, body, err := der.Take(body, der.TagSequence)
	if err != nil {
		return nil, err
	}
	out := &ocspRequest{}
	for in := list.Content; len(in) > 0; {
		one, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return nil, err
		}
		in = rest
		if len(out.certs) == maxCertIDs {
			return nil, errRequest
		}
		id, rest, err := parseCertID(one.Content)
		if err != nil {
			return nil, err
		}
		if len(rest) > 0 {
			x, err := der.Only(rest, der.ContextConstructed(0))
			if err != nil {
				return nil, err
			}
			if _, err := requestExtensions(x.Content); err != nil {
				return nil, err
			}
		}
		out.certs = append(out.certs, id)
	}
	if len(out.certs) == 0 {
		return nil, errRequest
	}
	if len(body) > 0 {
		x, err := der.Only(body, der.ContextConstructed(2))
		if err != nil {
			return nil, err
		}
		if out.nonce, err = requestExtensions(x.Content); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func parseCertID(in []byte) (id certID, rest []byte, err error) {
	seq, rest, err := der.Take(in, der.TagSequence)
	if err != nil {
		return id, nil, err
	}
	id.raw = seq.Raw
	alg, body, err := der.Take(seq.Content, der.TagSequence)
	if err != nil {
		return id, nil, err
	}
	oid, params, err := der.Take(alg.Content, der.TagOID)
	if err != nil {
		return id, nil, err
	}
	o, err := oid.OID()
	if err != nil {
		return id, nil, err
	}
	if len(params) > 0 {
		if e, err := der.Only(params, der.TagNull); err != nil || len(e.Content) != 0 {
			return id, nil, errRequest
		}
	}
	switch o {
	case oidSHA1:
		id.hash = crypto.SHA1
	case oidSHA256:
		id.hash = crypto.SHA256
	}
	name, body, err := der.Take(body, der.TagOctetString)
	if err != nil {
		return id, nil, err
	}
	key, body, err := der.Take(body, der.TagOctetString)
	if err != nil {
		return id, nil, err
	}
	serial, err := der.Only(body, der.TagInteger)
	if err != nil {
		return id, nil, err
	}
	c := serial.Content
	if len(c) == 0 || len(c) > 64 || len(name.Content) > 64 || len(key.Content) > 64 || len(c) > 1 && (c[0] == 0 && c[1] < 0x80 || c[0] == 0xff && c[1] >= 0x80) {
		return id, nil, errRequest
	}
	id.nameHash, id.keyHash = name.Content, key.Content
	if c[0]&0x80 == 0 { // a negative number is nobody's
		id.serial = c
	}
	return id, rest, nil
}

// requestExtensions checks extensions and gives the nonce (RFC 9654, Section
// 2.1: 1 to 128 octets). A critical one that we do not know cannot be obeyed.
func requestExtensions(in []byte) (nonce []byte, err error) {
	seq, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, err
	}
	for in := seq.Content; len(in) > 0; {
		x, rest, err := readRequestExtension(in)
		if err != nil {
			return nil, err
		}
		in = rest
		switch {
		case x.oid == oidNonce:
			v, err := der.Only(x.value, der.TagOctetString)
			if err != nil || len(v.Content) == 0 || len(v.Content) > 128 {
				return nil, errRequest
			}
			nonce = x.value
		case x.critical:
			return nil, errRequest
		}
	}
	return nonce, nil
}

// readRequestExtension also takes critical FALSE written out, which some clients send.
func readRequestExtension(in []byte) (x extension, rest []byte, err error) {
	seq, rest, err := der.Take(in, der.TagSequence)
	if err != nil {
		return x, nil, err
	}
	id, body, err := der.Take(seq.Content, der.TagOID)
	if err != nil {
		return x, nil, err
	}
	if x.oid, err = id.OID(); err != nil {
		return x, nil, err
	}
	if len(body) > 0 && body[0] == der.TagBoolean {
		var b der.Element
		if b, body, err = der.Next(body); err != nil {
			return x, nil, err
		}
		if x.critical, err = b.Bool(); err != nil {
			return x, nil, err
		}
	}
	v, err := der.Only(body, der.TagOctetString)
	x.value = v.Content
	return x, rest, err
}

// statusKind is the CHOICE of CertStatus by its tag.
type statusKind byte

const (
	statusGood    statusKind = 0
	statusRevoked statusKind = 1
	statusUnknown statusKind = 2
)

type certStatus struct {
	kind   statusKind
	reason Reason
	at     time.Time
}

// appendResponseData builds ResponseData (RFC 6960, Section 4.2.1).
func appendResponseData(b, responderKey []byte, ids []certID, statuses []certStatus, produced, this, next time.Time, nonce []byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = der.Wrap(b, der.ContextConstructed(2), func(b []byte) []byte { return der.AppendOctetString(b, responderKey) })
		b = der.AppendGeneralizedTime(b, produced)
		b = der.Sequence(b, func(b []byte) []byte {
			for i := range ids {
				b = der.Sequence(b, func(b []byte) []byte {
					b = append(b, ids[i].raw...)
					b = appendStatus(b, statuses[i])
					b = der.AppendGeneralizedTime(b, this)
					return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendGeneralizedTime(b, next) })
				})
			}
			return b
		})
		if nonce == nil {
			return b
		}
		return der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte { return appendExtension(b, oidNonce, false, nonce) })
		})
	})
}

func appendStatus(b []byte, s certStatus) []byte {
	if s.kind != statusRevoked {
		return der.AppendTLV(b, der.Context(byte(s.kind)))
	}
	return der.Wrap(b, der.ContextConstructed(1), func(b []byte) []byte {
		b = der.AppendGeneralizedTime(b, s.at)
		if s.reason == Unspecified {
			return b
		}
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendEnumerated(b, int64(s.reason)) })
	})
}

// appendResponse joins a signed OCSPResponse.
func appendResponse(tbs, sigAlg, sig, cert []byte) []byte {
	basic := make([]byte, 0, len(tbs)+len(sigAlg)+len(sig)+len(cert)+64)
	basic = der.Sequence(basic, func(b []byte) []byte {
		b = append(b, tbs...)
		b = append(b, sigAlg...)
		b = der.AppendBitString(b, sig)
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte { return der.AppendTLV(b, der.TagSequence, cert) })
	})
	return der.Sequence(make([]byte, 0, len(basic)+64), func(b []byte) []byte {
		b = der.AppendEnumerated(b, 0)
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			return der.Sequence(b, func(b []byte) []byte {
				b = oidBasic.Append(b)
				return der.AppendOctetString(b, basic)
			})
		})
	})
}

// keyBits are the octets of the BIT STRING in a subjectPublicKeyInfo, which
// issuerKeyHash and ResponderID byKey hash.
func keyBits(spki []byte) ([]byte, error) {
	seq, err := der.Only(spki, der.TagSequence)
	if err != nil {
		return nil, err
	}
	_, rest, err := der.Take(seq.Content, der.TagSequence)
	if err != nil {
		return nil, err
	}
	bits, err := der.Only(rest, der.TagBitString)
	if err != nil {
		return nil, err
	}
	return bits.Bits()
}
