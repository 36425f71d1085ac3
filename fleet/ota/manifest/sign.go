package manifest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"math/big"

	"github.com/fxamacker/cbor/v2"
)

// ContentType is in the protected header, so that a signature over something else is
// none over a manifest.
const ContentType = "application/vnd.hallmark.firmware+cbor"

// COSE algorithms (RFC 9053, Section 2).
const (
	es256 = -7
	eddsa = -8
	es384 = -35
)

const (
	coseSign      = 98 // CBOR tag of COSE_Sign, RFC 9052, Section 4.1
	maxSignatures = 8
	maxChain      = 4 // certificates of a signer
)

// Signed is a manifest with its signatures, which nobody verified: see [Trust.Verify].
type Signed struct {
	payload    []byte
	manifest   *Manifest
	signatures []signature
}

// signature is COSE_Signature: [protected, unprotected, signature].
type signature struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected struct{}
	Signature   []byte
}

type envelope struct {
	_           struct{} `cbor:",toarray"`
	Protected   []byte
	Unprotected struct{}
	Payload     []byte
	Signatures  []signature
}

type bodyHeader struct {
	ContentType string `cbor:"3,keyasint"`
}

// signerHeader has the key's identifier, the SHA-256 of its SubjectPublicKeyInfo,
// and the certificates where a root and not the key is pinned (RFC 9360, Section 2).
type signerHeader struct {
	Algorithm int64    `cbor:"1,keyasint"`
	KeyID     []byte   `cbor:"4,keyasint"`
	Chain     [][]byte `cbor:"33,keyasint,omitempty"`
}

var bodyProtected = must(encoder.Marshal(bodyHeader{ContentType}))

// New makes the envelope of a manifest; it has no signature yet.
func New(m *Manifest) (*Signed, error) {
	raw, err := m.encode()
	if err != nil {
		return nil, err
	}
	copied, err := decode(raw)
	return &Signed{payload: raw, manifest: copied}, err
}

// Parse reads the one encoding of a signed manifest.
func Parse(raw []byte) (*Signed, error) {
	if len(raw) > MaxSize {
		return nil, ErrManifest.New("It has more than %d octets.", MaxSize)
	}
	var tag cbor.RawTag
	if err := decoder.Unmarshal(raw, &tag); err != nil || tag.Number != coseSign {
		return nil, ErrManifest.Wrap(err, "It is no COSE_Sign.")
	}
	var e envelope
	if err := decoder.Unmarshal(tag.Content, &e); err != nil {
		return nil, ErrManifest.Wrap(err, "")
	}
	if !bytes.Equal(e.Protected, bodyProtected) {
		return nil, ErrManifest.New("Its content is not of the type %s.", ContentType)
	}
	m, err := decode(e.Payload)
	if err != nil {
		return nil, err
	}
	s := &Signed{payload: e.Payload, manifest: m, signatures: e.Signatures}
	for i := range s.signatures {
		if _, err := s.signatures[i].header(); err != nil {
			return nil, err
		}
	}
	again, err := s.Encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, raw) {
		return nil, ErrManifest.New("It is not in the deterministic encoding.")
	}
	return s, nil
}

// Encode writes it.
func (s *Signed) Encode() ([]byte, error) {
	if len(s.signatures) == 0 || len(s.signatures) > maxSignatures {
		return nil, ErrManifest.New("It has 1 to %d signatures.", maxSignatures)
	}
	return encoder.Marshal(cbor.Tag{Number: coseSign, Content: envelope{Protected: bodyProtected, Payload: s.payload, Signatures: s.signatures}})
}

// Unverified is what the manifest says, for display: nobody looked at its signatures.
func (s *Signed) Unverified() Manifest { return *s.manifest }

func (g *signature) header() (h signerHeader, err error) {
	if err := decoder.Unmarshal(g.Protected, &h); err != nil {
		return h, ErrManifest.Wrap(err, "The header of a signature.")
	}
	again, err := encoder.Marshal(h)
	if err != nil || !bytes.Equal(again, g.Protected) || len(h.KeyID) != sha256.Size || len(h.Chain) > maxChain {
		return h, ErrManifest.Wrap(err, "The header of a signature is not of the form.")
	}
	return h, nil
}

// toSign is Sig_structure (RFC 9052, Section 4.4).
func (s *Signed) toSign(protected []byte) ([]byte, error) {
	return encoder.Marshal([]any{"Signature", bodyProtected, protected, []byte{}, s.payload})
}

// Sign adds a signature. The chain begins with the key's own certificate and leaves
// the root out; it is empty where the key itself is pinned. A key signs once.
func (s *Signed) Sign(key crypto.Signer, chain []*x509.Certificate) error {
	alg, err := algorithm(key.Public())
	if err != nil {
		return err
	}
	id, err := KeyID(key.Public())
	if err != nil {
		return err
	}
	h := signerHeader{Algorithm: alg, KeyID: id}
	for i, c := range chain {
		if i == 0 {
			if own, err := KeyID(c.PublicKey); err != nil || !bytes.Equal(own, id) {
				return ErrKey.Wrap(err, "The first certificate is not that of the key.")
			}
		}
		h.Chain = append(h.Chain, c.Raw)
	}
	for i := range s.signatures {
		if have, err := s.signatures[i].header(); err != nil || bytes.Equal(have.KeyID, id) {
			return ErrKey.Wrap(err, "It has signed this manifest already.")
		}
	}
	g := signature{}
	if g.Protected, err = encoder.Marshal(h); err != nil {
		return err
	}
	octets, err := s.toSign(g.Protected)
	if err != nil {
		return err
	}
	if g.Signature, err = sign(key, alg, octets); err != nil {
		return err
	}
	next := append(s.signatures[:len(s.signatures):len(s.signatures)], g)
	if len(next) > maxSignatures || len(h.Chain) > maxChain {
		return ErrManifest.New("It has 1 to %d signatures with at most %d certificates each.", maxSignatures, maxChain)
	}
	s.signatures = next
	return nil
}

// KeyID is the SHA-256 of a key's SubjectPublicKeyInfo.
func KeyID(pub crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, ErrKey.Wrap(err, "")
	}
	sum := sha256.Sum256(der)
	return sum[:], nil
}

func algorithm(pub crypto.PublicKey) (int64, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return es256, nil
		case elliptic.P384():
			return es384, nil
		}
	case ed25519.PublicKey:
		return eddsa, nil
	}
	return 0, ErrKey.New("")
}

// hashOf is the hash of an algorithm, and the octets of a coordinate.
func hashOf(alg int64) (crypto.Hash, int) {
	if alg == es384 {
		return crypto.SHA384, 48
	}
	return crypto.SHA256, 32
}

func digest(h crypto.Hash, octets []byte) []byte {
	d := h.New()
	d.Write(octets)
	return d.Sum(nil)
}

// sign makes a COSE signature: for ECDSA that is r and s side by side (RFC 9053,
// Section 2.1).
func sign(key crypto.Signer, alg int64, octets []byte) ([]byte, error) {
	if alg == eddsa {
		return key.Sign(rand.Reader, octets, crypto.Hash(0))
	}
	h, size := hashOf(alg)
	der, err := key.Sign(rand.Reader, digest(h, octets), h)
	if err != nil {
		return nil, err
	}
	var v struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &v); err != nil || len(rest) > 0 || v.R.Sign() <= 0 || v.S.Sign() <= 0 || v.R.BitLen() > 8*size || v.S.BitLen() > 8*size {
		return nil, ErrKey.Wrap(err, "Its signature cannot be read.")
	}
	out := make([]byte, 2*size)
	v.R.FillBytes(out[:size])
	v.S.FillBytes(out[size:])
	return out, nil
}

// verify is the other side of sign.
func verify(pub crypto.PublicKey, alg int64, octets, sig []byte) bool {
	if want, err := algorithm(pub); err != nil || want != alg {
		return false
	}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, octets, sig)
	case *ecdsa.PublicKey:
		h, size := hashOf(alg)
		if len(sig) != 2*size {
			return false
		}
		return ecdsa.Verify(k, digest(h, octets), new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
	}
	return false
}
