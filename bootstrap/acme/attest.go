package acme

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"go.step.sm/crypto/x509util"

	"hallmark/ca/keycheck"
	"hallmark/internal/strictjson"
)

// The formats of attestations.
const (
	formatStep  = "step"
	formatTPM   = "tpm"
	formatApple = "apple"
)

// Formats are the formats that can be switched on.
var Formats = []string{formatStep, formatTPM, formatApple}

// attestation is an attestation object (W3C WebAuthn, Section 6.5.4).
type attestation struct {
	Format    string    `cbor:"fmt"`
	Statement statement `cbor:"attStmt"`
}

type statement struct {
	Version   string   `cbor:"ver,omitempty"`
	Algorithm int64    `cbor:"alg,omitempty"`
	Chain     [][]byte `cbor:"x5c,omitempty"`
	Signature []byte   `cbor:"sig,omitempty"`
	CertInfo  []byte   `cbor:"certInfo,omitempty"`
	PubArea   []byte   `cbor:"pubArea,omitempty"`
}

// strict reads CBOR of a few levels and members, of definite lengths, and without
// tags: nothing in an attestation needs more, and nothing that is bigger inside
// than outside gets further.
var strict = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16, FieldNameMatching: cbor.FieldNameMatchingCaseSensitive}.DecMode()
	if err != nil {
		panic(err) // constants
	}
	return m
}()

// Object identifiers of attestation certificates.
var (
	oidCardSerial    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	oidManagedDevice = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}
	oidPhoneNonce    = asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}
	oidPurposes      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidAIK           = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
)

// maxChain is how many certificates come with an attestation.
const maxChain = 8

// reason is why an attestation is not looked at; "" is none.
type reason string

// screen reads the response to a device-attest-01 challenge and writes it anew
// with nothing but what it understood. What it refuses would make the verification
// behind it fail in other ways than with a refusal (A44), or pass with less than a
// proof: an attestation without a serial number, without freshness, or of
// something else than a key.
func screen(payload []byte) (format string, clean []byte, why reason) {
	var response struct {
		Object string `json:"attObj"`
	}
	if strictjson.Decode(payload, &response, bounded, strictjson.AllowUnknownFields()) != nil {
		return "", nil, "The response is no JSON object with attObj."
	}
	raw, err := decode(response.Object)
	if err != nil || len(raw) == 0 {
		return "", nil, "attObj is not base64url, or empty."
	}
	var a attestation
	if strict.Unmarshal(raw, &a) != nil {
		return "", nil, "attObj is no attestation object in CBOR, or one with more in it than attestations have."
	}
	if !slices.Contains(Formats, a.Format) {
		return "", nil, "The format is none that is known."
	}
	if n := len(a.Statement.Chain); n == 0 || n > maxChain {
		return a.Format, nil, "x5c is empty or too long."
	}
	var leaf *x509.Certificate
	for i, der := range a.Statement.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return a.Format, nil, "x5c has something that is no certificate."
		}
		if keycheck.Bounds(c.PublicKey) != nil {
			return a.Format, nil, "x5c has a key that is not taken."
		}
		if i == 0 {
			leaf = c
		}
	}
	switch a.Format {
	case formatStep:
		why = screenStep(&a.Statement, leaf)
	case formatTPM:
		why = screenTPM(&a.Statement, leaf)
	case formatApple:
		if why = "The attestation has no nonce, so that nothing shows that it is new."; slices.ContainsFunc(extensions(leaf), oidPhoneNonce.Equal) {
			why = ""
		}
		a.Statement = statement{Chain: a.Statement.Chain}
	}
	if why != "" {
		return a.Format, nil, why
	}
	object, err := cbor.Marshal(a)
	if err != nil {
		return a.Format, nil, "The attestation cannot be written."
	}
	clean, err = json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(object)})
	if err != nil {
		return a.Format, nil, "The attestation cannot be written."
	}
	return a.Format, clean, ""
}

func extensions(c *x509.Certificate) (out []asn1.ObjectIdentifier) {
	for _, e := range c.Extensions {
		out = append(out, e.Id)
	}
	return out
}

// screenStep wants a signature, and a certificate that names its hardware.
func screenStep(s *statement, leaf *x509.Certificate) reason {
	var sig []byte
	if strict.Unmarshal(s.Signature, &sig) != nil || len(sig) == 0 {
		return "sig is no signature in CBOR."
	}
	switch k := leaf.PublicKey.(type) {
	case *rsa.PublicKey, ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() { // for which the library panics
			return "The key is none that is verified: P-256, RSA or Ed25519."
		}
	}
	named := false
	for _, e := range leaf.Extensions {
		var rest []byte
		var err error
		switch {
		case e.Id.Equal(oidCardSerial):
			var n int
			rest, err = asn1.Unmarshal(e.Value, &n)
		case e.Id.Equal(oidManagedDevice):
			var d struct{ DeviceID string }
			rest, err = asn1.Unmarshal(e.Value, &d)
		default:
			continue
		}
		if err != nil || len(rest) > 0 || named {
			return "The attestation names its hardware in a way that is not understood."
		}
		named = true
	}
	if !named {
		return "The attestation does not name its hardware."
	}
	*s = statement{Algorithm: s.Algorithm, Chain: s.Chain, Signature: s.Signature}
	return ""
}

// What a TPM signs begins with these (TPM 2.0 Library, Part 2, Sections 6.9 and
// 10.12.12).
const (
	tpmGenerated = 0xff544347
	tpmCertify   = 0x8017
	tpmRSASSA    = 0x0014
)

// screenTPM wants the certification of a key by an attestation key whose
// certificate names the TPM. A quote is not one, whatever it covers [go-attestation
// CVE-2022-0317].
func screenTPM(s *statement, leaf *x509.Certificate) reason {
	if _, ok := leaf.PublicKey.(*rsa.PublicKey); s.Version != "2.0" || s.Algorithm != -257 || !ok {
		return "ver or alg is none that is taken: 2.0 and RS256." // the library verifies no other
	}
	if len(s.CertInfo) < 6 || binary.BigEndian.Uint32(s.CertInfo) != tpmGenerated || binary.BigEndian.Uint16(s.CertInfo[4:]) != tpmCertify {
		return "certInfo does not certify a key."
	}
	if len(s.PubArea) == 0 || len(s.Signature) < 8 || binary.BigEndian.Uint16(s.Signature) != tpmRSASSA {
		return "pubArea is empty, or sig no signature with RSASSA."
	}
	purpose := false
	for _, e := range leaf.Extensions {
		if e.Id.Equal(oidPurposes) {
			var ids []asn1.ObjectIdentifier
			rest, err := asn1.Unmarshal(e.Value, &ids)
			purpose = err == nil && len(rest) == 0 && slices.ContainsFunc(ids, oidAIK.Equal)
		}
	}
	if !purpose {
		return "The certificate is not that of an attestation key."
	}
	sans, err := x509util.ParseSubjectAlternativeNames(leaf)
	if err != nil || len(sans.PermanentIdentifiers) == 0 {
		return "The attestation key's certificate names no device."
	}
	*s = statement{Version: s.Version, Algorithm: s.Algorithm, Chain: s.Chain, Signature: s.Signature, CertInfo: s.CertInfo, PubArea: s.PubArea}
	return ""
}
