package acme

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // ES384 and ES512
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"slices"

	"go.step.sm/crypto/jose"

	"hallmark/ca/keycheck"
	"hallmark/internal/strictjson"
)

// maxBody bounds a message. The largest honest one carries an attestation of a TPM
// with its chain, or a CSR of [csr.MaxSize].
const maxBody = 64 << 10

// message is a flattened JWS (RFC 7515, Section 7.2.2). That an unprotected header
// and more than one signature have no place in it is the standard's wish (RFC 8555,
// Section 6.2).
type message struct {
	Protected string `json:"protected"`
	Payload   string `json:"payload"`
	Signature string `json:"signature"`
}

// header is its protected header.
type header struct {
	Alg   string          `json:"alg"`
	Nonce string          `json:"nonce"`
	URL   string          `json:"url"`
	JWK   json.RawMessage `json:"jwk"`
	KeyID string          `json:"kid"`
	Crit  json.RawMessage `json:"crit"`
}

// signed is a message that was read and not verified yet.
type signed struct {
	header
	input     []byte // what the signature is over
	payload   []byte
	signature []byte
}

var bounded = strictjson.WithLimits(strictjson.Limits{Size: maxBody, Depth: 8, Values: 2000})

// parse reads a message.
func parse(raw []byte) (signed, error) {
	var m message
	if err := strictjson.Decode(raw, &m, bounded); err != nil {
		return signed{}, ErrMessage.Wrap(err, "It is not one JSON object with protected, payload and signature.")
	}
	protected, err := decode(m.Protected)
	if err != nil {
		return signed{}, ErrMessage.Wrap(err, "The protected header is not base64url.")
	}
	s := signed{input: []byte(m.Protected + "." + m.Payload)}
	if s.payload, err = decode(m.Payload); err != nil {
		return signed{}, ErrMessage.Wrap(err, "The payload is not base64url.")
	}
	if s.signature, err = decode(m.Signature); err != nil || len(s.signature) == 0 {
		return signed{}, ErrMessage.Wrap(err, "The signature is not base64url.")
	}
	if err := strictjson.Decode(protected, &s.header, bounded, strictjson.AllowUnknownFields()); err != nil {
		return signed{}, ErrMessage.Wrap(err, "The protected header is not a JSON object as it should be.")
	}
	if s.Crit != nil {
		return signed{}, ErrMessage.New("The protected header has critical extensions.")
	}
	return s, nil
}

// decode takes base64url in its one form: without padding, and without bits that
// nobody looks at.
func decode(text string) ([]byte, error) { return base64.RawURLEncoding.Strict().DecodeString(text) }

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// algorithms that requests are signed with (RFC 7518, Section 3.1; RFC 8037).
var algorithms = []string{"ES256", "ES384", "ES512", "RS256", "EdDSA"}

var curves = map[string]struct {
	curve elliptic.Curve
	hash  crypto.Hash
}{
	"ES256": {elliptic.P256(), crypto.SHA256},
	"ES384": {elliptic.P384(), crypto.SHA384},
	"ES512": {elliptic.P521(), crypto.SHA512},
}

// readKey reads a public key and checks that it is strong enough to stand for
// somebody.
func readKey(raw json.RawMessage) (*jose.JSONWebKey, string, error) {
	var fields map[string]any
	if err := strictjson.Decode(raw, &fields, bounded); err != nil {
		return nil, "", ErrMessage.Wrap(err, "The jwk is not a JSON object.")
	}
	for _, name := range []string{"d", "k", "p", "q", "x5c", "x5u", "x5t", "x5t#S256"} {
		if _, has := fields[name]; has {
			return nil, "", ErrPublicKey.New("The jwk has the member %s, which no public key needs.", name)
		}
	}
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(raw); err != nil || !k.Valid() || !k.IsPublic() {
		return nil, "", ErrPublicKey.Wrap(err, "The jwk is none that is understood.")
	}
	k.KeyID, k.Algorithm, k.Use = "", "", ""
	if err := keycheck.Check(k.Key); err != nil {
		return nil, "", ErrPublicKey.Wrap(err, "")
	}
	print, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return nil, "", ErrPublicKey.Wrap(err, "")
	}
	return &k, encode(print), nil
}

// printOf is the thumbprint of any public key, "" for one that no JWK has.
func printOf(pub crypto.PublicKey) string {
	k := jose.JSONWebKey{Key: pub}
	print, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return ""
	}
	return encode(print)
}

// verify checks the signature. The algorithm has to be the one of the key.
func (s *signed) verify(pub crypto.PublicKey) error {
	ok := false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		c, known := curves[s.Alg]
		if !known || k.Curve != c.curve {
			return ErrAlgorithm.New("The key is one of another algorithm.")
		}
		size := (c.curve.Params().BitSize + 7) / 8
		if len(s.signature) == 2*size {
			h := c.hash.New()
			h.Write(s.input)
			ok = ecdsa.Verify(k, h.Sum(nil), new(big.Int).SetBytes(s.signature[:size]), new(big.Int).SetBytes(s.signature[size:]))
		}
	case *rsa.PublicKey:
		if s.Alg != "RS256" {
			return ErrAlgorithm.New("The key is one of another algorithm.")
		}
		sum := sha256.Sum256(s.input)
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], s.signature) == nil
	case ed25519.PublicKey:
		if s.Alg != "EdDSA" {
			return ErrAlgorithm.New("The key is one of another algorithm.")
		}
		ok = ed25519.Verify(k, s.input, s.signature)
	}
	if !ok {
		return ErrSignature.New("")
	}
	return nil
}

// known refuses algorithms before a key is looked for.
func (s *signed) known() error {
	if !slices.Contains(algorithms, s.Alg) {
		return ErrAlgorithm.New("%.40q is none of %v.", s.Alg, algorithms)
	}
	return nil
}

// sealedBy checks a MAC (RFC 8555, Section 7.3.4).
func (s *signed) sealedBy(secret []byte) bool {
	m := hmac.New(sha256.New, secret)
	m.Write(s.input)
	return s.Alg == "HS256" && subtle.ConstantTimeCompare(m.Sum(nil), s.signature) == 1
}
