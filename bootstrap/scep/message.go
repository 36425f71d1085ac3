package scep

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	_ "crypto/sha512" // SHA-384 and SHA-512 of messages
	"crypto/subtle"
	"crypto/x509"

	"hallmark/ca/keycheck"
	"hallmark/internal/der"
)

var (
	oidData          = der.MustOID("1.2.840.113549.1.7.1")
	oidSignedData    = der.MustOID("1.2.840.113549.1.7.2")
	oidEnvelopedData = der.MustOID("1.2.840.113549.1.7.3")
	oidContentType   = der.MustOID("1.2.840.113549.1.9.3")
	oidMessageDigest = der.MustOID("1.2.840.113549.1.9.4")

	oidMessageType    = der.MustOID("2.16.840.1.113733.1.9.2")
	oidPKIStatus      = der.MustOID("2.16.840.1.113733.1.9.3")
	oidFailInfo       = der.MustOID("2.16.840.1.113733.1.9.4")
	oidSenderNonce    = der.MustOID("2.16.840.1.113733.1.9.5")
	oidRecipientNonce = der.MustOID("2.16.840.1.113733.1.9.6")
	oidTransactionID  = der.MustOID("2.16.840.1.113733.1.9.7")
	oidFailInfoText   = der.MustOID("1.3.6.1.5.5.7.24.1")

	oidRSA    = der.MustOID("1.2.840.113549.1.1.1")
	oidSHA256 = der.MustOID("2.16.840.1.101.3.4.2.1")
)

// digests are the hashes that are taken, with the signatures that go with them.
var digests = map[der.OID]struct {
	hash      crypto.Hash
	signature der.OID
	algorithm x509.SignatureAlgorithm
}{
	oidSHA256:                             {crypto.SHA256, der.MustOID("1.2.840.113549.1.1.11"), x509.SHA256WithRSA},
	der.MustOID("2.16.840.1.101.3.4.2.2"): {crypto.SHA384, der.MustOID("1.2.840.113549.1.1.12"), x509.SHA384WithRSA},
	der.MustOID("2.16.840.1.101.3.4.2.3"): {crypto.SHA512, der.MustOID("1.2.840.113549.1.1.13"), x509.SHA512WithRSA},
}

// messageType (RFC 8894, Section 3.2.1.2). It is compared with this list and with
// nothing else.
type messageType string

const (
	renewalReq messageType = "17"
	pkcsReq    messageType = "19"
	certPoll   messageType = "20"
	getCert    messageType = "21"
	getCRL     messageType = "22"
)

func (t messageType) known() bool {
	switch t {
	case renewalReq, pkcsReq, certPoll, getCert, getCRL:
		return true
	}
	return false
}

// Bounds of what a message brings along.
const (
	maxCertificates = 8
	maxTransaction  = 128
	maxNonce        = 64
)

// message is a pkiMessage (RFC 8894, Section 3.2) of which nothing is verified yet.
type message struct {
	kind        messageType // "" if it is missing, or there more than once
	transaction string
	nonce       []byte
	content     []byte // nil: none
	signer      *x509.Certificate

	digest, algorithm der.OID
	attributes        []byte // what was signed, as a SET
	hash, signature   []byte
	plain             bool // the content is data, and the attributes say so
}

// parse reads the frame. What fails here has no answer in the protocol's own form,
// since it is not known whom to answer.
func parse(raw []byte) (*message, error) {
	raw, err := definite(raw)
	if err != nil {
		return nil, err
	}
	r := reader{in: raw}
	// ContentInfo, SignedData (RFC 5652, Sections 3 and 5.1).
	data := r.sequence().oid(oidSignedData).explicit(0).sequence()
	data.take(der.TagInteger)
	data.take(der.TagSet)
	inside := data.sequence()
	m := &message{plain: inside.peekOID() == oidData}
	inside.take(der.TagOID)
	if inside.has(der.ContextConstructed(0)) {
		m.content = inside.explicit(0).take(der.TagOctetString).Content
	}
	var certificates []byte
	if data.has(der.ContextConstructed(0)) {
		certificates = data.take(der.ContextConstructed(0)).Content
	}
	if data.has(der.ContextConstructed(1)) { // lists, which nobody asked for
		data.take(der.ContextConstructed(1))
	}
	signers := reader{in: data.take(der.TagSet).Content, err: data.err}
	// SignerInfo (RFC 5652, Section 5.3), one of them.
	info := signers.sequence()
	info.take(der.TagInteger)
	id := info.next()
	m.digest = info.sequence().takeOID()
	signed := info.take(der.ContextConstructed(0))
	m.algorithm = info.sequence().takeOID()
	m.signature = info.take(der.TagOctetString).Content
	if err := firstError(&r, data, inside, &signers, info); err != nil {
		return nil, err
	}
	if len(signers.in) > 0 {
		return nil, ErrMessage.New("It has more than one signer.")
	}
	m.attributes = der.AppendTLV(nil, der.TagSet, signed.Content)
	if err := m.readAttributes(signed.Content); err != nil {
		return nil, err
	}
	if m.signer, err = find(certificates, id); err != nil {
		return nil, err
	}
	return m, nil
}

// readAttributes reads the signed attributes. A type that is there twice counts as
// missing, so that nobody reads the other one.
func (m *message) readAttributes(in []byte) error {
	values := map[der.OID][]der.Element{}
	for r := (reader{in: in}); len(r.in) > 0; {
		attribute := r.sequence()
		id := attribute.takeOID()
		set := reader{in: attribute.take(der.TagSet).Content, err: attribute.err}
		value := set.next()
		if err := firstError(&r, attribute, &set); err != nil {
			return err
		}
		values[id] = append(values[id], value)
		for len(set.in) > 0 && set.err == nil {
			values[id] = append(values[id], set.next())
		}
		if set.err != nil {
			return set.err
		}
	}
	one := func(id der.OID) (der.Element, bool) {
		if v := values[id]; len(v) == 1 {
			return v[0], true
		}
		return der.Element{}, false
	}
	if e, ok := one(oidTransactionID); ok && len(e.Content) <= maxTransaction {
		m.transaction, _ = printable(e)
	}
	if e, ok := one(oidSenderNonce); ok && e.Tag == der.TagOctetString && len(e.Content) <= maxNonce {
		m.nonce = e.Content
	}
	if m.transaction == "" || len(m.nonce) == 0 {
		return ErrMessage.New("Its transactionID or its senderNonce is missing, is there twice or is too long.")
	}
	if e, ok := one(oidMessageType); ok {
		s, _ := printable(e)
		m.kind = messageType(s)
	}
	if e, ok := one(oidMessageDigest); ok && e.Tag == der.TagOctetString {
		m.hash = e.Content
	}
	e, ok := one(oidContentType)
	m.plain = m.plain && ok && string(e.Content) == string(oidData) && e.Tag == der.TagOID
	return nil
}

// printable is a text of the type that the standard asks for, or one that clients
// send in its place.
func printable(e der.Element) (string, bool) {
	switch e.Tag {
	case der.TagPrintableString, der.TagUTF8String, der.TagIA5String:
		for _, c := range e.Content {
			if c < 0x20 || c > 0x7e {
				return "", false
			}
		}
		return string(e.Content), true
	}
	return "", false
}

// find gives the certificate that a signer identifier names.
func find(certificates []byte, id der.Element) (*x509.Certificate, error) {
	r := reader{in: certificates}
	for n := 0; len(r.in) > 0; n++ {
		e := r.next()
		if r.err != nil {
			return nil, r.err
		}
		if n == maxCertificates {
			return nil, ErrMessage.New("It has more than %d certificates.", maxCertificates)
		}
		if e.Tag != der.TagSequence {
			continue // a form of certificate that nobody uses
		}
		c, err := x509.ParseCertificate(e.Raw)
		if err == nil && names(id, c) {
			return c, nil
		}
	}
	return nil, ErrMessage.New("The certificate of its signer did not come along.")
}

// names tells whether an identifier of a signer or recipient (RFC 5652, Sections
// 5.3 and 6.2.1) is that of c.
func names(id der.Element, c *x509.Certificate) bool {
	if id.Tag == der.Context(0) {
		return len(c.SubjectKeyId) > 0 && bytes.Equal(id.Content, c.SubjectKeyId)
	}
	return id.Tag == der.TagSequence && bytes.Equal(id.Content, der.AppendBigInt(bytes.Clone(c.RawIssuer), c.SerialNumber))
}

// verify checks the signature. That the certificate is anything more than a
// wrapping of the key is for others to find.
func (m *message) verify() error {
	key, ok := m.signer.PublicKey.(*rsa.PublicKey)
	if !ok {
		return ErrAlgorithm.New("The answer is encrypted to the key that signs, so it has to be RSA.")
	}
	if err := (keycheck.Policy{}).Check(key); err != nil { // small before it is computed with
		return ErrAlgorithm.Wrap(err, "")
	}
	d, ok := digests[m.digest]
	if !ok || m.algorithm != oidRSA && m.algorithm != d.signature {
		return ErrAlgorithm.New("Of the signature.")
	}
	h := d.hash.New()
	h.Write(m.content)
	if !m.plain || subtle.ConstantTimeCompare(h.Sum(nil), m.hash) != 1 {
		return ErrSignature.New("The content is not what was signed.")
	}
	if err := m.signer.CheckSignature(d.algorithm, m.attributes, m.signature); err != nil {
		return ErrSignature.Wrap(err, "")
	}
	return nil
}

// reader takes elements one after the other, and keeps the first error.
type reader struct {
	in  []byte
	err error
}

func firstError(all ...*reader) error {
	for _, r := range all {
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

func (r *reader) next() (e der.Element) {
	if r.err != nil {
		return e
	}
	if e, r.in, r.err = der.Next(r.in); r.err != nil {
		r.err = ErrMessage.Wrap(r.err, "")
	}
	return e
}

func (r *reader) take(tag byte) der.Element {
	e := r.next()
	if r.err == nil && e.Tag != tag {
		r.err = ErrMessage.New("It has the tag %#02x where %#02x belongs.", e.Tag, tag)
	}
	return e
}

func (r *reader) has(tag byte) bool { return r.err == nil && len(r.in) > 0 && r.in[0] == tag }

func (r *reader) sequence() *reader {
	e := r.take(der.TagSequence)
	return &reader{e.Content, r.err}
}

func (r *reader) explicit(n byte) *reader {
	e := r.take(der.ContextConstructed(n))
	return &reader{e.Content, r.err}
}

func (r *reader) takeOID() der.OID {
	e := r.next()
	if r.err != nil {
		return ""
	}
	id, err := e.OID()
	if err != nil {
		r.err = ErrMessage.Wrap(err, "")
	}
	return id
}

func (r *reader) peekOID() der.OID {
	p := *r
	return p.takeOID()
}

// oid wants this identifier next.
func (r *reader) oid(want der.OID) *reader {
	if id := r.takeOID(); r.err == nil && id != want {
		r.err = ErrMessage.New("Its content is of another kind.")
	}
	return r
}
