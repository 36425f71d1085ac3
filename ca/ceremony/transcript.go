package ceremony

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/gowebpki/jcs"

	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/internal/strictjson"
)

// Schema names this form of a transcript. A change of any member is a new schema.
const Schema = "hallmark.ceremony/v1"

// MaxFile bounds every file that is brought to or from a ceremony.
const MaxFile = 512 << 10

// Kind is what a step does.
type Kind string

// The kinds of steps.
const (
	KindRoot    Kind = "root"    // a root was created; signed by it
	KindSign    Kind = "sign"    // the certificate of an issuing authority was signed; signed by the root
	KindList    Kind = "crl"     // the root's list was signed; signed by the root
	KindCSR     Kind = "csr"     // an issuing key and its CSR were made; signed by the issuing key
	KindInstall Kind = "install" // a certificate was checked for installation; signed by the issuing key
	KindCross   Kind = "cross"   // another root was certified; signed by the root that certified it
	KindDestroy Kind = "destroy" // a key was about to be destroyed; signed by that key
)

// Transcript is the record of one step. All members are always present, so that
// its canonical JSON (RFC 8785) has one form and no member can be added.
type Transcript struct {
	Schema string `json:"schema"`
	Kind   Kind   `json:"kind"`
	// Previous is the SHA-256 of the transcript file before this one, "" = first.
	Previous string `json:"previous"`
	Started  string `json:"started"`  // RFC 3339, UTC, by the machine's clock
	Finished string `json:"finished"` // likewise
	// ClockRead is the time that a person read from another clock and typed.
	ClockRead string   `json:"clock_read"`
	Witnesses []string `json:"witnesses"`
	// Confirmed says how somebody agreed to Shown.
	Confirmed  string   `json:"confirmed"`
	Mode       string   `json:"mode"`       // "production" or "development"
	Exceptions []string `json:"exceptions"` // every rule that was not enforced
	Host       Host     `json:"host"`
	Program    Program  `json:"program"`
	Key        KeyFacts `json:"key"`
	Script     Script   `json:"script"`
	Shown      string   `json:"shown"` // what was shown before signing
	Objects    []Object `json:"objects"`
}

// Script is what the step was asked to do.
type Script struct {
	Authority      string    `json:"authority"`
	Profile        string    `json:"profile"`
	ProfileVersion int       `json:"profile_version"`
	Subject        Subject   `json:"subject"`
	NotBefore      string    `json:"not_before"`
	NotAfter       string    `json:"not_after"`
	SerialNumber   string    `json:"serial_number"`
	Root           string    `json:"root"`
	BaseURL        string    `json:"base_url"`
	ListURL        string    `json:"list_url"`
	ListNumber     string    `json:"list_number"`
	Revoked        []Revoked `json:"revoked"`
	// Constraints narrow the certificate, or with a CSR are asked for.
	Constraints *profile.Constraints `json:"constraints,omitempty"`
}

// constraints are those of the certificate.
func (s *Script) constraints() profile.Constraints {
	if s.Constraints == nil {
		return profile.Constraints{}
	}
	return *s.Constraints
}

// constrain notes constraints and narrows a profile.
func (s *Script) constrain(p profile.Profile, c profile.Constraints) (profile.Profile, error) {
	if c.Empty() {
		return p, nil
	}
	s.Constraints = &c
	narrow, err := p.Constrained(c)
	if err != nil {
		return p, ErrRequest.Wrap(err, "Constraints: %s.", err)
	}
	return narrow, nil
}

// Subject is the name that was put into a certificate.
type Subject struct {
	Country            string `json:"country"`
	Organization       string `json:"organization"`
	OrganizationalUnit string `json:"organizational_unit"`
	CommonName         string `json:"common_name"`
	SerialNumber       string `json:"serial_number"`
}

// Revoked is an entry of the root's list.
type Revoked struct {
	SerialNumber string `json:"serial_number"`
	Reason       int    `json:"reason"`
	RevokedAt    string `json:"revoked_at"`
}

// Role says what an object of a transcript is.
type Role string

// The roles.
const (
	RoleRoot         Role = "root-certificate"
	RoleCertificate  Role = "certificate"
	RoleCSR          Role = "csr"
	RoleList         Role = "crl"
	RolePreviousList Role = "previous-crl"
	RoleRequest      Role = "request"    // the transcript that a CSR came in
	RoleOtherRoot    Role = "other-root" // the root that another one certifies
)

// Object is a certificate, list, CSR or transcript that the step made or used.
type Object struct {
	Role   Role   `json:"role"`
	Made   bool   `json:"made"` // false: brought to the step
	SHA256 string `json:"sha256"`
	Words  string `json:"words"`
	DER    []byte `json:"der"` // octets; for [RoleRequest] the JSON of the transcript
}

// Host is the machine as it describes itself.
type Host struct {
	Name   string `json:"name"`
	System string `json:"system"`
	Kernel string `json:"kernel"`
	// NetworkUp lists the interfaces that are up, besides loopback. An
	// air-gapped machine has none.
	NetworkUp []string `json:"network_up"`
}

// Program is what ran.
type Program struct {
	SHA256   string `json:"sha256"`
	Go       string `json:"go"`
	Revision string `json:"revision"`
}

// KeyFacts is the key that signed, as its token reports it.
type KeyFacts struct {
	URI        string        `json:"uri"` // without PIN and module
	Scheme     string        `json:"scheme"`
	Generated  bool          `json:"generated"` // in this step
	Algorithm  string        `json:"algorithm"`
	SPKI       []byte        `json:"spki"`
	SHA256     string        `json:"sha256"` // of SPKI
	Token      TokenFacts    `json:"token"`
	Attributes KeyAttributes `json:"attributes"`
}

// TokenFacts is a token as it names itself.
type TokenFacts struct {
	Label        string `json:"label"`
	Manufacturer string `json:"manufacturer"`
	Model        string `json:"model"`
	Serial       string `json:"serial"`
	Firmware     string `json:"firmware"`
}

// KeyAttributes are "yes", "no" or "unknown".
type KeyAttributes struct {
	OnToken          string `json:"on_token"`
	Private          string `json:"private"`
	Sensitive        string `json:"sensitive"`
	AlwaysSensitive  string `json:"always_sensitive"`
	Extractable      string `json:"extractable"`
	NeverExtractable string `json:"never_extractable"`
	Local            string `json:"local"`
	Sign             string `json:"sign"`
	SignRecover      string `json:"sign_recover"`
	Decrypt          string `json:"decrypt"`
	Unwrap           string `json:"unwrap"`
	Derive           string `json:"derive"`
	Modifiable       string `json:"modifiable"`
}

func keyFacts(a hsm.Attributes, uri string, spki []byte, generated bool) KeyFacts {
	return KeyFacts{
		URI: uri, Scheme: a.Scheme, Generated: generated, Algorithm: string(a.Algorithm), SPKI: spki, SHA256: hexSum(spki),
		Token: TokenFacts(a.Token),
		Attributes: KeyAttributes{
			OnToken: a.OnToken.String(), Private: a.Private.String(), Sensitive: a.Sensitive.String(), AlwaysSensitive: a.AlwaysSensitive.String(),
			Extractable: a.Extractable.String(), NeverExtractable: a.NeverExtractable.String(), Local: a.Local.String(), Sign: a.Sign.String(),
			SignRecover: a.SignRecover.String(), Decrypt: a.Decrypt.String(), Unwrap: a.Unwrap.String(), Derive: a.Derive.String(), Modifiable: a.Modifiable.String(),
		},
	}
}

func object(role Role, made bool, der []byte) Object {
	return Object{Role: role, Made: made, SHA256: hexSum(der), Words: WordsOf(der), DER: der}
}

// Object finds the one object of a role; nil if there is none.
func (t *Transcript) Object(r Role) []byte {
	for _, o := range t.Objects {
		if o.Role == r {
			return o.DER
		}
	}
	return nil
}

// canonical is the one form of a transcript.
func canonical(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return jcs.Transform(b.Bytes())
}

// parseTranscript reads canonical JSON and takes no other form: what it returns
// would be written as the same octets.
func parseTranscript(payload []byte) (*Transcript, error) {
	t := new(Transcript)
	if err := strictjson.Decode(payload, t, strictjson.WithLimits(strictjson.Limits{Size: MaxFile, Values: 16384})); err != nil {
		return nil, broken("payload", err, "It is not a transcript.")
	}
	if t.Schema != Schema {
		return nil, broken("schema", nil, "It has the schema %.40q, not %s.", t.Schema, Schema)
	}
	again, err := canonical(t)
	if err != nil || !bytes.Equal(again, payload) {
		return nil, broken("payload", err, "It is not in the canonical form, or a member is missing.")
	}
	return t, nil
}

// broken is a transcript fault that names the part.
func broken(part string, cause error, detail string, args ...any) error {
	f := ErrTranscript.New(detail, args...)
	f.Detail = "Part " + part + ": " + f.Detail
	f.Cause = cause
	return f.With("part", part)
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func stamp(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }

func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
