package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"time"

	"hallmark/ca/keycheck"
	"hallmark/hsm"
	"hallmark/internal/strictjson"
)

// What a custodian's statement is about.
const (
	AboutScript     = "script"     // before: the hash is of the script's file
	AboutTranscript = "transcript" // after: the hash is of the seal's line
)

const (
	statementSchema = "hallmark.ceremony-statement/v1"
	statementType   = "application/vnd.hallmark.ceremony-statement+json"
)

// Statement is what a custodian signs. Its file is a DSSE envelope.
type Statement struct {
	Schema      string   `json:"schema"`
	Ceremony    string   `json:"ceremony"`
	About       string   `json:"about"`
	SHA256      string   `json:"sha256"`
	Words       string   `json:"words"`
	Custodian   string   `json:"custodian"`
	At          string   `json:"at"`
	Exceptions  []string `json:"exceptions"`
	Key         KeyFacts `json:"key"`
	Attestation [][]byte `json:"attestation"`
}

// ApproveRequest asks a custodian's key for a statement. That the person has
// read what it is about is for the caller to see to.
type ApproveRequest struct {
	Keys      Keys
	KeyURI    string
	Custodian Custodian
	Ceremony  string
	About     string
	Of        []byte // the script's file, or the seal's line without its end
	// AcceptFirmware is the override of S7; the statement says so.
	AcceptFirmware bool
	Now            func() time.Time
}

// Approve signs a statement with a custodian's key.
func Approve(ctx context.Context, r ApproveRequest) ([]byte, error) {
	key, err := r.Keys.Signer(ctx, r.KeyURI)
	if err != nil {
		return nil, err
	}
	a, err := r.Keys.Attributes(ctx, r.KeyURI)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, ErrKey.Wrap(err, "The key has no standard form.")
	}
	if base64.StdEncoding.EncodeToString(spki) != r.Custodian.Key {
		return nil, ErrApproval.New("The script names another key for %s.", r.Custodian.Name)
	}
	s := Statement{
		Schema: statementSchema, Ceremony: r.Ceremony, About: r.About, SHA256: hexSum(r.Of), Words: WordsOf(r.Of),
		Custodian: r.Custodian.Name, At: stamp(r.Now()), Exceptions: []string{}, Key: keyFacts(a, key.URI(), spki, false), Attestation: [][]byte{},
	}
	// S7: a custodian's card is held to the same rule as the root's.
	if err := hsm.CheckFirmware(a, false); err != nil {
		if !r.AcceptFirmware {
			return nil, err
		}
		s.Exceptions = append(s.Exceptions, "firmware accepted by explicit override: "+detail(err))
	}
	chain, err := attestation(ctx, r.Keys, r.KeyURI)
	if err != nil {
		return nil, err
	}
	if chain != nil {
		s.Attestation = chain
	}
	payload, err := canonical(s)
	if err != nil {
		return nil, ErrRequest.Wrap(err, "The statement cannot be written.")
	}
	return sealAs(ctx, statementType, payload, key)
}

// sealAs makes an envelope with a signature of each key.
func sealAs(ctx context.Context, kind string, payload []byte, keys ...hsm.Signer) ([]byte, error) {
	e := envelope{Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: kind, Signatures: []signature{}}
	for _, k := range keys {
		sig, err := sign(ctx, k, preAuth(kind, payload))
		if err != nil {
			return nil, err
		}
		spki, err := x509.MarshalPKIXPublicKey(k.Public())
		if err != nil {
			return nil, ErrKey.Wrap(err, "The key has no standard form.")
		}
		e.Signatures = append(e.Signatures, signature{KeyID: hexSum(spki), Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	return e.canonical()
}

// openAs checks the form of an envelope; its signatures are for [envelope.good].
func openAs(data []byte, kind string) (*envelope, []byte, error) {
	if len(data) > maxLine {
		return nil, nil, fmt.Errorf("it is too long")
	}
	e := new(envelope)
	if err := strictjson.Decode(data, e, strictjson.WithLimits(strictjson.Limits{Size: maxLine, Values: 256})); err != nil {
		return nil, nil, err
	}
	if again, err := e.canonical(); err != nil || !bytes.Equal(again, data) {
		return nil, nil, fmt.Errorf("it is not in the canonical form")
	}
	if e.PayloadType != kind {
		return nil, nil, fmt.Errorf("it is of the type %.60q", e.PayloadType)
	}
	payload, err := decode64(e.Payload)
	return e, payload, err
}

// good tells whether signature i of an envelope is by the key.
func (e *envelope) good(i int, payload, spki []byte) bool {
	if i >= len(e.Signatures) || e.Signatures[i].KeyID != hexSum(spki) {
		return false
	}
	pub, err := keycheck.ParseSPKI(spki)
	if err != nil {
		return false
	}
	sig, err := decode64(e.Signatures[i].Sig)
	return err == nil && verify(pub, preAuth(e.PayloadType, payload), sig)
}

// ReadStatement checks a statement by itself: form, signature, and the rules
// for custodians' cards. Whether its key is the custodian's is for the caller.
func ReadStatement(data []byte) (*Statement, error) {
	e, payload, err := openAs(data, statementType)
	if err != nil {
		return nil, ErrApproval.Wrap(err, "It is not a signed statement.")
	}
	s := new(Statement)
	if err := strictjson.Decode(payload, s, strictjson.WithLimits(strictjson.Limits{Size: maxLine, Values: 4096})); err != nil {
		return nil, ErrApproval.Wrap(err, "It is not a statement.")
	}
	if again, err := canonical(s); err != nil || !bytes.Equal(again, payload) || s.Schema != statementSchema {
		return nil, ErrApproval.Wrap(err, "It is not in the canonical form, or of another schema.")
	}
	if len(e.Signatures) != 1 || hexSum(s.Key.SPKI) != s.Key.SHA256 || !e.good(0, payload, s.Key.SPKI) {
		return nil, ErrApproval.New("Its signature is not by the key in it.")
	}
	if s.About != AboutScript && s.About != AboutTranscript || !isHash(s.SHA256) {
		return nil, ErrApproval.New("It is about %.20q.", s.About)
	}
	if _, err := clock("at", s.At); err != nil {
		return nil, ErrApproval.Wrap(err, "Its time is malformed.")
	}
	a, err := s.Key.attributes()
	if err != nil {
		return nil, ErrApproval.Wrap(err, "It tells malformed attributes.")
	}
	if err := hsm.CheckFirmware(a, len(s.Exceptions) > 0); err != nil {
		return nil, err
	}
	if len(s.Attestation) > 0 {
		if _, err := checkAttestation(s.Attestation, &s.Key, nil); err != nil {
			return nil, ErrApproval.Wrap(err, "%s.", err)
		}
	}
	return s, nil
}

// fits tells whether a statement is by the custodian about these octets.
func (s *Statement) fits(ceremony, about string, of []byte, c Custodian) error {
	switch {
	case s.About != about || s.Ceremony != ceremony:
		return ErrApproval.New("It is about the %s of %q.", s.About, s.Ceremony)
	case s.SHA256 != hexSum(of) || s.Words != WordsOf(of):
		return ErrApproval.New("It is about another %s: %s.", about, short(s.SHA256))
	case s.Custodian != c.Name || base64.StdEncoding.EncodeToString(s.Key.SPKI) != c.Key:
		return ErrApproval.New("It is by another key than that of %s.", c.Name)
	}
	return nil
}
