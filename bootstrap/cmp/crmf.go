package cmp

import (
	"crypto/sha256"
	"crypto/x509"

	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/crl"
	"hallmark/internal/der"
)

var (
	oidOldCert     = der.MustOID("1.3.6.1.5.5.7.5.1.5") // id-regCtrl-oldCertID
	oidReason      = der.MustOID("2.5.29.21")
	oidCommonName  = der.MustOID("2.5.4.3")
	tagDirectory   = der.ContextConstructed(4) // of GeneralName
	emptyName      = []byte{der.TagSequence, 0}
	maxCertReqID   = int64(1<<31 - 1)
	maxTemplateSub = 4096
)

// template is CertTemplate (RFC 4211, Section 5); its tags are implicit, but for
// the names.
type template struct {
	serial     []byte // content of the INTEGER
	issuer     []byte // Name, DER
	subject    []byte // Name, DER; nil if it is left out
	spki       []byte // SubjectPublicKeyInfo, DER
	extensions []csr.Extension
	extended   bool // it has the field of extensions
}

// certificateRequest is a CertReqMsg whose key was proven.
type certificateRequest struct {
	id       int64
	template *template
	oldCert  *certID // of an update
	request  *csr.Request
}

// certID names a certificate.
type certID struct {
	issuer []byte // Name, DER
	serial []byte // content of the INTEGER
}

// readCertReqMessages reads the one request of ir, cr and kur (RFC 4211, Section 3).
func readCertReqMessages(in []byte) (*certificateRequest, error) {
	list, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	msg, err := der.Only(list.Content, der.TagSequence)
	if err != nil {
		return nil, ErrBody.New("It is not one request.")
	}
	req, rest, err := der.Take(msg.Content, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	id, in, err := der.Take(req.Content, der.TagInteger)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	out := &certificateRequest{}
	if out.id, err = id.Int(); err != nil || out.id < 0 || out.id > maxCertReqID {
		return nil, ErrMessage.New("Its identifier is out of bounds.")
	}
	tmpl, in, err := der.Take(in, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	if out.template, err = readTemplate(tmpl.Content); err != nil {
		return nil, err
	}
	if len(in) > 0 {
		if out.oldCert, err = readControls(in); err != nil {
			return nil, err
		}
	}
	if out.template.spki == nil {
		return nil, ErrTemplate.New("It has no public key.")
	}
	out.request, err = out.prove(req.Raw, rest)
	return out, err
}

// prove checks the possession of the key: a signature over the request. Anything
// else (a promise of an authority, a key sent along) is not taken here.
func (c *certificateRequest) prove(signed, in []byte) (*csr.Request, error) {
	popo, _, err := der.Next(in)
	if err != nil || popo.Tag != der.ContextConstructed(1) {
		return nil, ErrPossession.New("")
	}
	algorithm, rest, err := der.Next(popo.Content)
	if err == nil && algorithm.Tag == der.ContextConstructed(0) {
		return nil, ErrPossession.New("It signs something else than the request.")
	}
	if err != nil || algorithm.Tag != der.TagSequence {
		return nil, ErrMessage.New("Its proof of possession is malformed.")
	}
	bits, err := der.Only(rest, der.TagBitString)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	signature, err := bits.Bits()
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	r := &csr.Request{Raw: signed, SPKI: c.template.spki, SPKIHash: sha256.Sum256(c.template.spki), RawSubject: c.template.subject, Extensions: c.template.extensions}
	if r.PublicKey, err = keycheck.ParseSPKI(r.SPKI); err != nil {
		return nil, err
	}
	if r.SignatureAlgorithm, err = signatureOf(algorithm.Raw); err != nil {
		return nil, err
	}
	proof := x509.CertificateRequest{RawTBSCertificateRequest: signed, Signature: signature, SignatureAlgorithm: r.SignatureAlgorithm, PublicKey: r.PublicKey}
	if err := proof.CheckSignature(); err != nil {
		return nil, ErrPossession.Wrap(err, "")
	}
	if r.CommonName, err = commonName(c.template.subject); err != nil {
		return nil, err
	}
	return r, nil
}

func readTemplate(in []byte) (*template, error) {
	t := &template{}
	last := -1
	for len(in) > 0 {
		e, rest, err := der.Next(in)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		in = rest
		n := int(e.Tag & 0x1f)
		if e.Tag&0xc0 != 0x80 || n <= last || n > 9 {
			return nil, ErrTemplate.New("It has fields twice or in disorder.")
		}
		last = n
		switch n {
		case 1:
			if e.Tag != der.Context(1) || len(e.Content) == 0 {
				return nil, ErrTemplate.New("Its serial number is malformed.")
			}
			t.serial = e.Content
		case 3, 5:
			name, err := der.Only(e.Content, der.TagSequence)
			if err != nil || len(name.Raw) > maxTemplateSub {
				return nil, ErrTemplate.New("A name in it is malformed.")
			}
			if n == 3 {
				t.issuer = name.Raw
			} else {
				t.subject = name.Raw
			}
		case 6:
			if e.Tag != der.ContextConstructed(6) {
				return nil, ErrTemplate.New("Its public key is malformed.")
			}
			t.spki = der.AppendTLV(nil, der.TagSequence, e.Content)
		case 9:
			t.extended = true
			if t.extensions, err = readExtensions(e.Content); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

// readExtensions reads a list; none is taken over, so a malformed one is the
// sender's trouble alone.
func readExtensions(in []byte) (out []csr.Extension, err error) {
	for len(in) > 0 {
		e, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		in = rest
		id, tail, err := der.Next(e.Content)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		var x csr.Extension
		if x.ID, err = id.OID(); err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		value, tail, err := der.Next(tail)
		if err == nil && value.Tag == der.TagBoolean {
			if x.Critical, err = value.Bool(); err == nil {
				value, tail, err = der.Next(tail)
			}
		}
		if err != nil || value.Tag != der.TagOctetString || len(tail) > 0 {
			return nil, ErrMessage.New("An extension in it is malformed.")
		}
		x.Value = value.Content
		out = append(out, x)
	}
	return out, nil
}

// readControls finds the certificate that an update names (RFC 4211, Section 6.5).
func readControls(in []byte) (*certID, error) {
	list, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	for in := list.Content; len(in) > 0; {
		e, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		in = rest
		id, value, err := der.Next(e.Content)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		if o, err := id.OID(); err != nil || o != oidOldCert {
			continue
		}
		seq, err := der.Only(value, der.TagSequence)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		issuer, number, err := der.Take(seq.Content, tagDirectory)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		serial, err := der.Only(number, der.TagInteger)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		return &certID{issuer: issuer.Content, serial: serial.Content}, nil
	}
	return nil, nil
}

// revocation is RevDetails (RFC 9810, Section 5.3.9).
type revocation struct {
	certID
	reason crl.Reason
}

// readRevocation reads the one certificate of an rr.
func readRevocation(in []byte) (*revocation, error) {
	list, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	details, err := der.Only(list.Content, der.TagSequence)
	if err != nil {
		return nil, ErrBody.New("It is not one revocation.")
	}
	tmpl, rest, err := der.Take(details.Content, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	t, err := readTemplate(tmpl.Content)
	if err != nil {
		return nil, err
	}
	if t.issuer == nil || t.serial == nil {
		return nil, ErrTemplate.New("It names no issuer and serial number.")
	}
	out := &revocation{certID: certID{issuer: t.issuer, serial: t.serial}}
	if len(rest) == 0 {
		return out, nil
	}
	entry, err := der.Only(rest, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	extensions, err := readExtensions(entry.Content)
	if err != nil {
		return nil, err
	}
	for _, x := range extensions {
		if x.ID != oidReason {
			continue
		}
		e, err := der.Only(x.Value, der.TagEnumerated)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		n, err := e.Int()
		if err != nil || n < 0 || n > 10 || !crl.Reason(n).Valid() {
			return nil, crl.ErrReason.New("Reason %d.", n)
		}
		out.reason = crl.Reason(n)
	}
	return out, nil
}

// confirmation is CertStatus (RFC 9810, Section 5.3.18).
type confirmation struct {
	hash     []byte
	digest   der.OID // "" takes that of the certificate's signature
	accepted bool
}

// readConfirmation reads a certConf; nil declines what there is.
func readConfirmation(in []byte) (*confirmation, error) {
	list, err := der.Only(in, der.TagSequence)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	if len(list.Content) == 0 {
		return nil, nil
	}
	status, err := der.Only(list.Content, der.TagSequence)
	if err != nil {
		return nil, ErrBody.New("It is not one confirmation.")
	}
	hash, rest, err := der.Take(status.Content, der.TagOctetString)
	if err != nil || len(hash.Content) < 20 || len(hash.Content) > maxField {
		return nil, ErrMessage.New("It has no hash of a certificate.")
	}
	if _, rest, err = der.Take(rest, der.TagInteger); err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	out := &confirmation{hash: hash.Content, accepted: true}
	if info, tail, err := der.Take(rest, der.TagSequence); err == nil {
		n, _, err := der.Take(info.Content, der.TagInteger)
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		v, err := n.Int()
		if err != nil {
			return nil, ErrMessage.Wrap(err, "")
		}
		out.accepted, rest = v == 0 || v == 1, tail
	}
	if a, tail, err := der.Take(rest, der.ContextConstructed(0)); err == nil {
		if out.digest, _, err = identifier(a.Content); err != nil {
			return nil, err
		}
		if digests[out.digest] == nil {
			return nil, ErrAlgorithm.New("")
		}
		rest = tail
	}
	if len(rest) > 0 {
		return nil, ErrMessage.New("It has something after its end.")
	}
	return out, nil
}

// of is the hash that a confirmation of this certificate has.
func (c *confirmation) of(raw []byte) []byte {
	hash := digests[c.digest]
	if hash == nil {
		hash = digests[oidSHA256]
		if x, err := x509.ParseCertificate(raw); err == nil {
			switch x.SignatureAlgorithm {
			case x509.ECDSAWithSHA384, x509.SHA384WithRSA:
				hash = digests[der.MustOID("2.16.840.1.101.3.4.2.2")]
			case x509.ECDSAWithSHA512, x509.SHA512WithRSA, x509.PureEd25519:
				hash = digests[der.MustOID("2.16.840.1.101.3.4.2.3")]
			}
		}
	}
	h := hash()
	h.Write(raw)
	return h.Sum(nil)
}

// commonName finds the one common name of a subject; a subject with two names
// nobody (A54).
func commonName(subject []byte) (string, error) {
	if len(subject) == 0 {
		return "", nil
	}
	name, err := der.Only(subject, der.TagSequence)
	if err != nil {
		return "", ErrTemplate.Wrap(err, "")
	}
	out := ""
	for in := name.Content; len(in) > 0; {
		rdn, rest, err := der.Take(in, der.TagSet)
		if err != nil {
			return "", ErrTemplate.Wrap(err, "")
		}
		in = rest
		for pairs := rdn.Content; len(pairs) > 0; {
			pair, rest, err := der.Take(pairs, der.TagSequence)
			if err != nil {
				return "", ErrTemplate.Wrap(err, "")
			}
			pairs = rest
			id, value, err := der.Next(pair.Content)
			if err != nil {
				return "", ErrTemplate.Wrap(err, "")
			}
			if o, err := id.OID(); err != nil || o != oidCommonName {
				continue
			}
			e, _, err := der.Next(value)
			if err != nil || out != "" || len(e.Content) == 0 || e.Tag != der.TagUTF8String && e.Tag != der.TagPrintableString && e.Tag != der.TagIA5String {
				return "", ErrTemplate.New("Its subject has no common name that can be read in one way.")
			}
			out = string(e.Content)
		}
	}
	return out, nil
}
