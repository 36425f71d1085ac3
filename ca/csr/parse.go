package csr

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"unicode"
	"unicode/utf8"

	"hallmark/ca/keycheck"
	"hallmark/internal/der"
)

const (
	// MaxSize bounds a request, DER or PEM. The largest honest one, RSA-4096
	// with an attestation, has about 6 KiB.
	MaxSize = 16 << 10

	maxCommonName = 128 // the longest thing name
	maxChallenge  = 255 // RFC 2985, pkcs-9-ub-challengePassword
)

// Object identifiers, RFC 2985 and RFC 5280.
var (
	oidChallenge         = der.MustOID("1.2.840.113549.1.9.7")
	oidExtensionRequest  = der.MustOID("1.2.840.113549.1.9.14")
	oidMicrosoftRequest  = der.MustOID("1.3.6.1.4.1.311.2.1.14") // the same, by an older name
	oidCommonName        = der.MustOID("2.5.4.3")
	oidBasicConstraints  = der.MustOID("2.5.29.19")
	oidKeyUsage          = der.MustOID("2.5.29.15")
	oidExtendedKeyUsage  = der.MustOID("2.5.29.37")
	oidOCSPSigning       = der.MustOID("1.3.6.1.5.5.7.3.9")
	oidAnyExtendedUsage  = der.MustOID("2.5.29.37.0")
	keyCertSign, cRLSign = uint32(1 << 5), uint32(1 << 6)
)

// Extension is one that the request asks for.
type Extension struct {
	ID       der.OID
	Critical bool
	Value    []byte // the content of extnValue
}

// Request is a request that [Parse] found good. Its slices share one copy.
type Request struct {
	Raw                []byte // the whole request in DER
	PublicKey          crypto.PublicKey
	SPKI               []byte   // SubjectPublicKeyInfo in DER
	SPKIHash           [32]byte // SHA-256 of SPKI
	RawSubject         []byte   // Name in DER; a claim
	CommonName         string   // of the subject, "" = none; a claim
	Challenge          string   // challengePassword, "" = none
	Extensions         []Extension
	SignatureAlgorithm x509.SignatureAlgorithm
}

// Parse reads a request in DER or PEM and verifies its signature. data is not
// kept.
func Parse(data []byte) (*Request, error) {
	if len(data) > MaxSize {
		return nil, ErrTooLarge.New("It has %d octets.", len(data))
	}
	raw, err := unarmour(data)
	if err != nil {
		return nil, err
	}

	// 1. The frame: CertificationRequest and CertificationRequestInfo
	//    (RFC 2986, Sections 4.1 and 4.2).
	whole, err := der.Only(raw, der.TagSequence)
	if err != nil {
		return nil, malformed(err)
	}
	if err := der.Check(raw, der.MaxDepth); err != nil {
		return nil, malformed(err)
	}
	info, rest, err := der.Take(whole.Content, der.TagSequence)
	if err != nil {
		return nil, malformed(err)
	}
	algorithm, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, malformed(err)
	}
	signature, err := der.Only(rest, der.TagBitString)
	if err != nil {
		return nil, malformed(err)
	}
	version, rest, err := der.Take(info.Content, der.TagInteger)
	if err != nil {
		return nil, malformed(err)
	}
	if v, err := version.Int(); err != nil || v != 0 {
		return nil, ErrMalformed.New("Its version is not 0.")
	}
	subject, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, malformed(err)
	}
	spki, rest, err := der.Take(rest, der.TagSequence)
	if err != nil {
		return nil, malformed(err)
	}
	attributes, err := der.Only(rest, der.ContextConstructed(0))
	if err != nil {
		return nil, malformed(err)
	}

	// 2. What it says.
	r := &Request{Raw: raw, SPKI: spki.Raw, RawSubject: subject.Raw}
	if r.CommonName, err = commonName(subject.Content); err != nil {
		return nil, err
	}
	if err := r.attributes(attributes.Content); err != nil {
		return nil, err
	}

	// 3. The key, bounded so that the signature check is cheap.
	if r.PublicKey, err = keycheck.ParseSPKI(spki.Raw); err != nil {
		return nil, err
	}
	r.SPKIHash = sha256.Sum256(spki.Raw)

	// 4. The proof of possession.
	sig, err := signature.Bits()
	if err != nil {
		return nil, malformed(err)
	}
	if r.SignatureAlgorithm, err = signatureAlgorithm(algorithm, raw); err != nil {
		return nil, err
	}
	proof := x509.CertificateRequest{
		RawTBSCertificateRequest: info.Raw,
		Signature:                sig,
		SignatureAlgorithm:       r.SignatureAlgorithm,
		PublicKey:                r.PublicKey,
	}
	if err := proof.CheckSignature(); err != nil {
		return nil, ErrSignature.Wrap(err, "")
	}
	return r, nil
}

func malformed(err error) error { return ErrMalformed.Wrap(err, "") }

// unarmour returns a copy of the request in DER. PEM is recognised by its first
// octets and taken strictly: one block of the right type, no headers, no text
// around it (RFC 7468, Section 3).
func unarmour(data []byte) ([]byte, error) {
	text := bytes.TrimSpace(data)
	if !bytes.HasPrefix(text, []byte("-----")) {
		return bytes.Clone(data), nil
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return nil, ErrMalformed.New("Its PEM form is damaged.")
	case block.Type != "CERTIFICATE REQUEST" && block.Type != "NEW CERTIFICATE REQUEST":
		return nil, ErrMalformed.New("It is something else in PEM.")
	case !bytes.HasPrefix(text, []byte("-----BEGIN "+block.Type+"-----")), len(rest) != 0, len(block.Headers) != 0:
		return nil, ErrMalformed.New("It has something before, within or after the PEM block.")
	}
	return block.Bytes, nil
}

// commonName finds the one common name of a Name. Two would let two readers see
// two devices, so two are refused.
func commonName(rdns []byte) (string, error) {
	name, found := "", false
	for len(rdns) > 0 {
		rdn, rest, err := der.Take(rdns, der.TagSet)
		if err != nil {
			return "", malformed(err)
		}
		rdns = rest
		if len(rdn.Content) == 0 {
			return "", ErrMalformed.New("Its subject has an empty part.")
		}
		for pairs := rdn.Content; len(pairs) > 0; {
			pair, rest, err := der.Take(pairs, der.TagSequence)
			if err != nil {
				return "", malformed(err)
			}
			pairs = rest
			kind, rest, err := der.Next(pair.Content)
			if err != nil {
				return "", malformed(err)
			}
			value, rest, err := der.Next(rest)
			if err != nil || len(rest) != 0 {
				return "", ErrMalformed.New("Its subject has a malformed part.")
			}
			id, err := kind.OID()
			if err != nil {
				return "", malformed(err)
			}
			if id != oidCommonName {
				continue
			}
			if found {
				return "", ErrSubject.New("It has two common names.")
			}
			if name, found = text(value, maxCommonName); !found {
				return "", ErrSubject.New("Its common name is too long or not plain text.")
			}
		}
	}
	return name, nil
}

// text reads the string types that have one meaning: UTF-8 and its subsets.
// Control characters and invisible ones are refused: they make two names look
// alike, and a NUL once ended a name early.
func text(e der.Element, limit int) (string, bool) {
	switch e.Tag {
	case der.TagUTF8String, der.TagPrintableString, der.TagIA5String:
	case der.TagTeletexString:
		if !der.IsIA5(string(e.Content)) {
			return "", false
		}
	default:
		return "", false
	}
	s := string(e.Content)
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > limit {
		return "", false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return "", false
		}
	}
	return s, true
}

// attributes reads Attribute { type, values SET OF } (RFC 2986, Section 4.1).
func (r *Request) attributes(in []byte) error {
	seen := map[der.OID]bool{}
	for len(in) > 0 {
		attribute, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return malformed(err)
		}
		in = rest
		kind, rest, err := der.Next(attribute.Content)
		if err != nil {
			return malformed(err)
		}
		values, err := der.Only(rest, der.TagSet)
		if err != nil {
			return malformed(err)
		}
		id, err := kind.OID()
		if err != nil {
			return malformed(err)
		}
		if id == oidMicrosoftRequest {
			id = oidExtensionRequest // so that one of each counts as two
		}
		if seen[id] {
			return ErrDuplicate.New("Attribute %s.", short(id))
		}
		seen[id] = true
		switch id {
		case oidChallenge:
			value, rest, err := der.Next(values.Content)
			if err != nil || len(rest) != 0 {
				return ErrChallenge.New("It is not a single value.")
			}
			s, ok := text(value, maxChallenge)
			if !ok || s == "" {
				return ErrChallenge.New("")
			}
			r.Challenge = s
		case oidExtensionRequest:
			list, err := der.Only(values.Content, der.TagSequence)
			if err != nil {
				return malformed(err)
			}
			if err := r.extensions(list.Content); err != nil {
				return err
			}
		}
	}
	return nil
}

// extensions reads Extensions and stops requests for an authority's powers (A10).
func (r *Request) extensions(in []byte) error {
	seen := map[der.OID]bool{}
	for len(in) > 0 {
		e, rest, err := der.Take(in, der.TagSequence)
		if err != nil {
			return malformed(err)
		}
		in = rest
		kind, rest, err := der.Next(e.Content)
		if err != nil {
			return malformed(err)
		}
		var x Extension
		if x.ID, err = kind.OID(); err != nil {
			return malformed(err)
		}
		value, tail, err := der.Next(rest)
		if err == nil && value.Tag == der.TagBoolean {
			if x.Critical, err = value.Bool(); err == nil && !x.Critical {
				return ErrMalformed.New("Extension %s writes a default value.", short(x.ID))
			}
			value, tail, err = der.Next(tail)
		}
		if err != nil || value.Tag != der.TagOctetString || len(tail) != 0 {
			return ErrMalformed.New("Extension %s is malformed.", short(x.ID))
		}
		x.Value = value.Content
		if seen[x.ID] {
			return ErrDuplicate.New("Extension %s.", short(x.ID))
		}
		seen[x.ID] = true
		if err := x.harmless(); err != nil {
			return err
		}
		r.Extensions = append(r.Extensions, x)
	}
	return nil
}

// harmless refuses an extension that asks for an authority's powers, and one of
// the three that could which cannot be read.
func (x Extension) harmless() error {
	unreadable := func() error { return ErrMalformed.New("Extension %s is malformed.", short(x.ID)) }
	switch x.ID {
	case oidBasicConstraints:
		e, err := der.Only(x.Value, der.TagSequence)
		if err != nil || der.Check(x.Value, 4) != nil {
			return unreadable()
		}
		if len(e.Content) == 0 {
			return nil
		}
		// cA DEFAULT FALSE, so a boolean here is TRUE; a path length without
		// it is for authorities as well (RFC 5280, Section 4.2.1.9). Common
		// tools write an explicit FALSE, which asks for nothing.
		first, rest, err := der.Next(e.Content)
		if err != nil {
			return unreadable()
		}
		if ca, err := first.Bool(); err == nil && !ca && len(rest) == 0 {
			return nil
		}
		return ErrAuthority.New("It asks for CA:TRUE.")
	case oidKeyUsage:
		e, err := der.Only(x.Value, der.TagBitString)
		if err != nil {
			return unreadable()
		}
		bits, err := e.NamedBits()
		if err != nil {
			return unreadable()
		}
		if bits&(keyCertSign|cRLSign) != 0 {
			return ErrAuthority.New("It asks for keyCertSign or cRLSign.")
		}
	case oidExtendedKeyUsage:
		e, err := der.Only(x.Value, der.TagSequence)
		if err != nil {
			return unreadable()
		}
		for in := e.Content; len(in) > 0; {
			usage, rest, err := der.Next(in)
			if err != nil {
				return unreadable()
			}
			in = rest
			id, err := usage.OID()
			if err != nil {
				return unreadable()
			}
			if id == oidOCSPSigning || id == oidAnyExtendedUsage {
				return ErrAuthority.New("It asks for OCSPSigning or anyExtendedKeyUsage.")
			}
		}
	}
	return nil
}

// short is an identifier for a message; a hostile one can be kilobytes long.
func short(id der.OID) string {
	if len(id) > 32 {
		return "with a very long identifier"
	}
	return id.String()
}
