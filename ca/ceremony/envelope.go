package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/gowebpki/jcs"

	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

const payloadType = "application/vnd.hallmark.ceremony+json"

// envelope is a DSSE v1 envelope with one signature. Its file is canonical JSON
// without a line end.
type envelope struct {
	Payload     string      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"` // hexadecimal SHA-256 of the SPKI
	Sig   string `json:"sig"`
}

// canonical is the one form of an envelope. Its members are declared in the order
// of their names and hold base64, so that what encoding/json writes is canonical
// already unless somebody put something else there.
func (e *envelope) canonical() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e); err != nil {
		return nil, err
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if bytes.ContainsFunc(out, func(r rune) bool { return r == '\\' || r >= utf8.RuneSelf }) {
		return jcs.Transform(out)
	}
	return out, nil
}

// preAuth is the pre-authentication encoding of DSSE v1: it binds the type, and
// its first octets keep it apart from everything else that a CA key signs.
func preAuth(kind string, payload []byte) []byte {
	return append(fmt.Appendf(nil, "DSSEv1 %d %s %d ", len(kind), kind, len(payload)), payload...)
}

// seal signs a transcript.
func seal(ctx context.Context, key hsm.Signer, t *Transcript) ([]byte, error) {
	payload, err := canonical(t)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The transcript cannot be written.")
	}
	sig, err := sign(ctx, key, preAuth(payloadType, payload))
	if err != nil {
		return nil, err
	}
	e := envelope{
		Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: payloadType,
		Signatures: []signature{{KeyID: t.Key.SHA256, Sig: base64.StdEncoding.EncodeToString(sig)}},
	}
	return e.canonical()
}

// unseal checks an envelope against the key that its transcript names. Whether
// that key is the right one is for the caller.
func unseal(data []byte) (*Transcript, crypto.PublicKey, error) {
	if len(data) > MaxFile {
		return nil, nil, broken("file", nil, "It has %d octets; at most %d are read.", len(data), MaxFile)
	}
	var e envelope
	if err := strictjson.Decode(data, &e, strictjson.WithLimits(strictjson.Limits{Size: MaxFile, Values: 16})); err != nil {
		return nil, nil, broken("envelope", err, "It is not a signed transcript.")
	}
	if again, err := e.canonical(); err != nil || !bytes.Equal(again, data) {
		return nil, nil, broken("envelope", err, "It is not in the canonical form.")
	}
	if e.PayloadType != payloadType {
		return nil, nil, broken("payloadType", nil, "It is %.60q.", e.PayloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, nil, broken("signatures", nil, "There are %d, not one.", len(e.Signatures))
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(e.Payload)
	if err != nil {
		return nil, nil, broken("payload", err, "It is not base64.")
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(e.Signatures[0].Sig)
	if err != nil {
		return nil, nil, broken("signature", err, "It is not base64.")
	}
	t, err := parseTranscript(payload)
	if err != nil {
		return nil, nil, err
	}
	pub, err := keycheck.ParseSPKI(t.Key.SPKI)
	if err != nil {
		return nil, nil, broken("key.spki", err, "It is not a public key.")
	}
	if id := hexSum(t.Key.SPKI); t.Key.SHA256 != id {
		return nil, nil, broken("key.sha256", nil, "It is not the hash of the key.")
	} else if e.Signatures[0].KeyID != id {
		return nil, nil, broken("keyid", nil, "It is not the hash of the key in the transcript.")
	}
	if !verify(pub, preAuth(payloadType, payload), sig) {
		return nil, nil, broken("signature", nil, "It is not by the key %s over this content.", short(t.Key.SHA256))
	}
	return t, pub, nil
}

func short(hash string) string { return hash[:min(16, len(hash))] }

// sign signs octets and verifies the result with the public key (A25).
func sign(ctx context.Context, key hsm.Signer, message []byte) ([]byte, error) {
	_, hash, err := profile.SignatureAlgorithm(key.Public())
	if err != nil {
		return nil, ErrKey.Wrap(err, "This kind of key does not sign certificates here.")
	}
	sig, err := key.SignContext(ctx, digest(hash, message), hash)
	if err != nil {
		if fault.KindOf(err) != fault.Internal {
			return nil, err
		}
		return nil, ErrSignature.Wrap(err, "The token gave none.")
	}
	if !verify(key.Public(), message, sig) {
		return nil, ErrSignature.New("")
	}
	return sig, nil
}

// verify checks a signature in the one algorithm that its kind of key uses here.
func verify(pub crypto.PublicKey, message, sig []byte) bool {
	_, hash, err := profile.SignatureAlgorithm(pub)
	if err != nil {
		return false
	}
	d := digest(hash, message)
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, d, sig)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, hash, d, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, d, sig)
	}
	return false
}

func digest(hash crypto.Hash, message []byte) []byte {
	if hash == 0 {
		return message
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil)
}
