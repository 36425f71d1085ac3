package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"io"
	"time"

	"hallmark/hsm/token"
	"hallmark/internal/strictjson"
)

// TransferSchema names the form of a [Transfer].
const TransferSchema = "hallmark key transfer v1"

const maxTransfer = 64 << 10

// Transfer is the record of how a key came from the token that made it into a
// second one (S6): which key, which tokens, under which wrapping key. Both
// tokens sign it with the key itself, so each of them proves that it holds it.
type Transfer struct {
	Schema   string        `json:"schema"`
	Key      TransferKey   `json:"key"`
	From     TransferToken `json:"from"`
	To       TransferToken `json:"to"`
	Wrapping WrappingKey   `json:"wrapping"`
	Made     time.Time     `json:"made"`
	By       string        `json:"by"`      // who did it, as they say
	Program  string        `json:"program"` // SHA-256 of the program that did it

	FromSignature []byte `json:"from_signature"`
	ToSignature   []byte `json:"to_signature"`
}

// TransferKey is the key that was moved.
type TransferKey struct {
	Object    string    `json:"object"`
	ID        string    `json:"id"` // hexadecimal
	Algorithm Algorithm `json:"algorithm"`
	SPKI      []byte    `json:"spki"`
	SHA256    string    `json:"spki_sha256"`
}

// TransferToken is a token as it names itself, and what it says of the key.
type TransferToken struct {
	Label        string            `json:"label"`
	Manufacturer string            `json:"manufacturer"`
	Model        string            `json:"model"`
	Serial       string            `json:"serial"`
	Firmware     string            `json:"firmware"`
	URI          string            `json:"uri"` // of the key, without PIN or module
	Attributes   map[string]string `json:"attributes"`
}

// WrappingKey is what protected the key on its way: an RSA key that the second
// token made for this one transfer, and the mechanisms.
type WrappingKey struct {
	Algorithm Algorithm `json:"algorithm"`
	SPKI      []byte    `json:"spki"`
	SHA256    string    `json:"spki_sha256"`
	KEK       string    `json:"kek"`       // what the RSA key carried
	Mechanism string    `json:"mechanism"` // how that wrapped the key
	Trusted   bool      `json:"trusted"`   // the key allowed only wrapping keys that the security officer trusts
	Destroyed bool      `json:"destroyed"` // wrapping keys, afterwards
}

// TokenFacts is the part of a record that a key's attributes give.
func TokenFacts(a Attributes) TransferToken {
	t := TransferToken{
		Label: a.Token.Label, Manufacturer: a.Token.Manufacturer, Model: a.Token.Model, Serial: a.Token.Serial, Firmware: a.Token.Firmware,
		URI: a.URI, Attributes: map[string]string{},
	}
	for _, f := range facts(a) {
		t.Attributes[f.name] = f.got.String()
	}
	return t
}

type fact struct {
	name string
	got  Tri
}

func facts(a Attributes) []fact {
	return []fact{
		{"token", a.OnToken}, {"private", a.Private}, {"sensitive", a.Sensitive}, {"always-sensitive", a.AlwaysSensitive},
		{"extractable", a.Extractable}, {"never-extractable", a.NeverExtractable}, {"local", a.Local}, {"sign", a.Sign},
		{"sign-recover", a.SignRecover}, {"decrypt", a.Decrypt}, {"unwrap", a.Unwrap}, {"derive", a.Derive}, {"modifiable", a.Modifiable},
	}
}

// message is what both tokens sign: the record without the signatures, behind a
// prefix that no certificate or list begins with.
func (t Transfer) message() ([]byte, error) {
	t.FromSignature, t.ToSignature = nil, nil
	b, err := json.Marshal(t)
	if err != nil {
		return nil, ErrTransfer.Wrap(err, "It cannot be written.")
	}
	return append([]byte(TransferSchema+"\x00"), b...), nil
}

// SignTransfer has both tokens sign the record.
func SignTransfer(ctx context.Context, t *Transfer, from, to Signer) error {
	m, err := t.message()
	if err != nil {
		return err
	}
	if t.FromSignature, err = signMessage(ctx, from, m); err != nil {
		return err
	}
	if t.ToSignature, err = signMessage(ctx, to, m); err != nil {
		return err
	}
	return t.Verify()
}

func signMessage(ctx context.Context, s Signer, m []byte) ([]byte, error) {
	digest, opts := messageDigest(s.Public(), m)
	return s.SignContext(ctx, digest, opts)
}

func messageDigest(pub crypto.PublicKey, m []byte) ([]byte, crypto.SignerOpts) {
	if token.AlgorithmOf(pub) == Ed25519 {
		return m, crypto.Hash(0)
	}
	d := sha256.Sum256(m)
	return d[:], crypto.SHA256
}

// Verify holds the record to itself: digests, two different tokens, and a
// signature of the key from each.
func (t *Transfer) Verify() error {
	if t.Schema != TransferSchema {
		return ErrTransfer.New("Its schema is %.60q.", t.Schema)
	}
	pub, err := x509.ParsePKIXPublicKey(t.Key.SPKI)
	if err != nil || token.AlgorithmOf(pub) != t.Key.Algorithm || t.Key.Algorithm == "" {
		return ErrTransfer.Wrap(err, "Its public key is not what it says.")
	}
	if wpub, err := x509.ParsePKIXPublicKey(t.Wrapping.SPKI); err != nil || token.AlgorithmOf(wpub) != t.Wrapping.Algorithm || t.Wrapping.Algorithm.RSABits() == 0 {
		return ErrTransfer.Wrap(err, "Its wrapping key is not what it says.")
	}
	if hexDigest(t.Key.SPKI) != t.Key.SHA256 || hexDigest(t.Wrapping.SPKI) != t.Wrapping.SHA256 {
		return ErrTransfer.New("A digest is not that of its key.")
	}
	if t.From.Serial == "" || t.To.Serial == "" || t.From.Serial == t.To.Serial && t.From.Manufacturer == t.To.Manufacturer && t.From.Model == t.To.Model {
		return ErrTransfer.New("It does not name two tokens.")
	}
	m, err := t.message()
	if err != nil {
		return err
	}
	digest, opts := messageDigest(pub, m)
	for _, s := range []struct {
		who string
		sig []byte
	}{{"first", t.FromSignature}, {"second", t.ToSignature}} {
		if !token.Verify(pub, digest, opts, s.sig) {
			return ErrTransfer.New("The signature of the %s token does not verify.", s.who)
		}
	}
	return nil
}

// Digest is what people compare.
func (t *Transfer) Digest() string {
	b, err := json.Marshal(t)
	if err != nil {
		return ""
	}
	return hexDigest(b)
}

// ReadTransfer reads and verifies a record.
func ReadTransfer(r io.Reader) (*Transfer, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTransfer+1))
	if err != nil || len(b) > maxTransfer {
		return nil, ErrTransfer.Wrap(err, "It cannot be read.")
	}
	if err := strictjson.Check(b); err != nil {
		return nil, ErrTransfer.Wrap(err, "It is not strict JSON.")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	t := &Transfer{}
	if err := d.Decode(t); err != nil {
		return nil, ErrTransfer.Wrap(err, "It is not a record.")
	}
	return t, t.Verify()
}

// covers tells whether the record speaks of this key in this token.
func (t *Transfer) covers(a Attributes) bool {
	if !bytes.Equal(t.Key.SPKI, a.SPKI) {
		return false
	}
	for _, k := range []TransferToken{t.From, t.To} {
		if k.Serial == a.Token.Serial && k.Label == a.Token.Label && k.Manufacturer == a.Token.Manufacturer && k.Model == a.Token.Model {
			return true
		}
	}
	return false
}

// CheckReplicatedKey is [CheckCAKey] for a key that a record says was moved
// between tokens: only what a transfer changes by its nature is excused
// (local, always-sensitive, never-extractable), and only in the tokens and for
// the key that the record names (S6).
func CheckReplicatedKey(a Attributes, records []*Transfer, development bool) error {
	err := CheckCAKey(a, development)
	if err == nil || len(records) == 0 {
		return err
	}
	named := false
	for _, t := range records {
		if err := t.Verify(); err != nil {
			return err
		}
		named = named || t.covers(a)
	}
	if !named {
		return ErrTransfer.New("It does not name this key in token %q, serial %q.", a.Token.Label, a.Token.Serial)
	}
	a.Local, a.AlwaysSensitive, a.NeverExtractable = Yes, Yes, Yes
	return CheckCAKey(a, development)
}

func hexDigest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}
