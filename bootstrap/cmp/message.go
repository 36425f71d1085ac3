package cmp

import (
	"bytes"
	"crypto/x509"
	"time"

	"hallmark/internal/der"
)

// kind is the tag of a body (RFC 9810, Section 5.1.2).
type kind byte

// The bodies that are read or written here.
const (
	bodyIR       kind = 0
	bodyIP       kind = 1
	bodyCR       kind = 2
	bodyCP       kind = 3
	bodyP10CR    kind = 4
	bodyKUR      kind = 7
	bodyKUP      kind = 8
	bodyRR       kind = 11
	bodyRP       kind = 12
	bodyConf     kind = 19 // pkiconf
	bodyGenM     kind = 21
	bodyGenP     kind = 22
	bodyError    kind = 23
	bodyCertConf kind = 24
)

// Limits on what is read. The largest honest message is a request with a chain.
const (
	maxMessage = 48 << 10
	maxDepth   = 24
	maxExtra   = 10 // certificates that come along
	maxField   = 64 // octets of an identifier or a nonce
	maxName    = 4096
)

var (
	oidImplicitConfirm = der.MustOID("1.3.6.1.5.5.7.4.13")
	oidCACerts         = der.MustOID("1.3.6.1.5.5.7.4.17")
)

// message is a PKIMessage. Its slices point into what was read.
type message struct {
	header, body  []byte // DER; what the protection covers, one after the other
	kind          kind
	content       []byte // of the body, inside its tag
	version       int64
	sender        []byte // GeneralName, DER
	senderName    []byte // Name, if the sender is one
	time          time.Time
	algorithm     []byte // of the protection, DER
	senderKID     []byte
	transaction   []byte
	senderNonce   []byte
	recipNonce    []byte
	implicit      bool // asks to go without confirmation
	protection    []byte
	certificates  []*x509.Certificate // that came along
	protectedPart []byte
}

// parse reads a message, and nothing of its body beyond its tag.
func parse(raw []byte) (*message, error) {
	if len(raw) > maxMessage {
		return nil, ErrMessage.New("It has %d octets.", len(raw))
	}
	whole, err := der.Only(raw, der.TagSequence)
	if err == nil {
		err = der.Check(raw, maxDepth)
	}
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	header, rest, err := der.Take(whole.Content, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	body, rest, err := der.Next(rest)
	if err != nil || body.Tag&0xe0 != 0xa0 {
		return nil, ErrMessage.New("It has no body.")
	}
	m := &message{header: header.Raw, body: body.Raw, kind: kind(body.Tag & 0x1f), content: body.Content}
	m.protectedPart = der.Sequence(make([]byte, 0, len(header.Raw)+len(body.Raw)+8), func(b []byte) []byte { return append(append(b, header.Raw...), body.Raw...) })
	if err := m.readHeader(header.Content); err != nil {
		return nil, err
	}
	if p, tail, err := der.Take(rest, der.ContextConstructed(0)); err == nil {
		bits, err := der.Only(p.Content, der.TagBitString)
		if err == nil {
			m.protection, err = bits.Bits()
		}
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		rest = tail
	}
	if x, tail, err := der.Take(rest, der.ContextConstructed(1)); err == nil {
		if err := m.readCertificates(x.Content); err != nil {
			return nil, err
		}
		rest = tail
	}
	if len(rest) > 0 {
		return nil, ErrMessage.New("It has something after its end.")
	}
	return m, nil
}

// readHeader reads PKIHeader (Section 5.1.1); its tags are explicit.
func (m *message) readHeader(in []byte) error {
	version, in, err := der.Take(in, der.TagInteger)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	if m.version, err = version.Int(); err != nil || m.version != 2 && m.version != 3 {
		return ErrMessage.New("Its version is neither 2 nor 3.")
	}
	sender, in, err := der.Next(in)
	if err != nil || len(sender.Raw) > maxName {
		return ErrMessage.New("It has no sender.")
	}
	m.sender = sender.Raw
	if sender.Tag == der.ContextConstructed(4) {
		m.senderName = sender.Content
	}
	if _, in, err = der.Next(in); err != nil { // the recipient: whoever gets it
		return ErrMessage.Wrap(err, "")
	}
	last := -1
	for len(in) > 0 {
		e, rest, err := der.Next(in)
		if err != nil || e.Tag&0xe0 != 0xa0 {
			return ErrMessage.New("Its header has a field that does not belong there.")
		}
		in = rest
		n := int(e.Tag & 0x1f)
		if n <= last || n > 8 {
			return ErrMessage.New("Its header has fields twice or in disorder.")
		}
		last = n
		if err := m.readField(n, e.Content); err != nil {
			return err
		}
	}
	return nil
}

func (m *message) readField(n int, content []byte) error {
	octets := func(into *[]byte) error {
		e, err := der.Only(content, der.TagOctetString)
		if err != nil || len(e.Content) > maxField {
			return ErrMessage.New("Field %d of its header is malformed.", n)
		}
		*into = e.Content
		return nil
	}
	switch n {
	case 0:
		e, err := der.Only(content, der.TagGeneralizedTime)
		if err == nil {
			m.time, err = e.Time()
		}
		if err != nil {
			return ErrMessage.Wrap(err, "")
		}
	case 1:
		if _, err := der.Only(content, der.TagSequence); err != nil {
			return ErrMessage.Wrap(err, "")
		}
		m.algorithm = content
	case 2:
		return octets(&m.senderKID)
	case 4:
		return octets(&m.transaction)
	case 5:
		return octets(&m.senderNonce)
	case 6:
		return octets(&m.recipNonce)
	case 8:
		list, err := der.Only(content, der.TagSequence)
		if err != nil {
			return ErrMessage.Wrap(err, "")
		}
		for in := list.Content; len(in) > 0; {
			item, rest, err := der.Take(in, der.TagSequence)
			if err != nil {
				return ErrMessage.Wrap(err, "")
			}
			in = rest
			id, _, err := der.Next(item.Content)
			if err != nil {
				return ErrMessage.Wrap(err, "")
			}
			if o, err := id.OID(); err == nil && o == oidImplicitConfirm {
				m.implicit = true
			}
		}
	}
	return nil
}

// readCertificates keeps the certificates that can be read; the others are of no
// use to anybody.
func (m *message) readCertificates(in []byte) error {
	list, err := der.Only(in, der.TagSequence)
	if err != nil {
		return ErrMessage.Wrap(err, "")
	}
	for in := list.Content; len(in) > 0; {
		e, rest, err := der.Next(in)
		if err != nil {
			return ErrMessage.Wrap(err, "")
		}
		in = rest
		if len(m.certificates) == maxExtra {
			return ErrMessage.New("It comes with more than %d certificates.", maxExtra)
		}
		if c, err := x509.ParseCertificate(e.Raw); err == nil {
			m.certificates = append(m.certificates, c)
		}
	}
	return nil
}

// signer is the certificate that the protection names: by its key identifier, or
// the first one (RFC 9483, Section 3.3).
func (m *message) signer() *x509.Certificate {
	for _, c := range m.certificates {
		if len(m.senderKID) > 0 && bytes.Equal(c.SubjectKeyId, m.senderKID) {
			return c
		}
	}
	if len(m.senderKID) == 0 && len(m.certificates) > 0 {
		return m.certificates[0]
	}
	return nil
}
