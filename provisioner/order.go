package provisioner

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gowebpki/jcs"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/internal/der"
	"hallmark/internal/strictjson"
)

// PayloadType is the DSSE payload type of an order.
const PayloadType = "application/vnd.hallmark.order+json"

// OrderState is where an order stands.
type OrderState string

// The states, in their order.
const (
	OrderDraft    OrderState = "draft"
	OrderApproved OrderState = "approved"
	OrderOpen     OrderState = "open"
	OrderClosed   OrderState = "closed"
)

// Body is what an approver signs: everything that limits what may be made. Its
// canonical form is RFC 8785 JSON.
type Body struct {
	ID       string     `json:"id"`
	Tenant   string     `json:"tenant"`
	Product  string     `json:"product"`
	Quantity int64      `json:"quantity"`
	Serials  SerialRule `json:"serials"`
	// Stations that may work on it; empty means every active station of the tenant.
	Stations []string `json:"stations,omitempty"`
	// The window, seconds since 1970; 0 leaves an end open.
	NotBefore int64 `json:"not_before,omitempty"`
	NotAfter  int64 `json:"not_after,omitempty"`
	// KeyOrigin says where the devices' keys come from (S5).
	KeyOrigin profile.Origin `json:"key_origin"`
	// CNIsUnit lets the simple endpoint take the unit from the CSR (S11).
	CNIsUnit bool `json:"cn_is_unit,omitempty"`
	// CertificateDays is the life of the birth certificates; 0 means 9999-12-31.
	CertificateDays int `json:"certificate_days,omitempty"`
	// RequireProof refuses a commit without the device's signature; true unless AllowUnproven.
	AllowUnproven bool   `json:"allow_unproven,omitempty"`
	Organization  string `json:"organization,omitempty"`
	// Region may decide, with Product, which authority issues; "" is anywhere.
	Region    string `json:"region,omitempty"`
	CreatedBy string `json:"created_by"`
}

// SerialRule says which units an order may make. Exactly one of its forms is set.
type SerialRule struct {
	// Range: Prefix followed by numbers First to Last, Width digits with leading zeros.
	Prefix string `json:"prefix,omitempty"`
	First  int64  `json:"first,omitempty"`
	Last   int64  `json:"last,omitempty"`
	Width  int    `json:"width,omitempty"`
	// Pattern: a regular expression (RE2) for the whole serial.
	Pattern string `json:"pattern,omitempty"`
	// List: the serials.
	List []string `json:"list,omitempty"`
	// HardwareType and Hardware make the list a manifest: the object identifier of
	// the hardware type, and each unit's hardware serial number in hexadecimal, in
	// the order of the list. They become the certificate's hardwareModuleName
	// (RFC 4108, Section 5; IEEE 802.1AR-2018, Section 8.10.4).
	HardwareType string   `json:"hardware_type,omitempty"`
	Hardware     []string `json:"hardware,omitempty"`
}

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	unitPattern = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)
)

// reserved are the starts of holder names that are not units.
var reserved = []string{"station:", "service:"}

// ValidUnit checks the form of a unit's serial (A51).
func ValidUnit(unit string) error {
	if !unitPattern.MatchString(unit) {
		return ErrUnitInvalid.New("A unit is 1 to 64 characters of A-Z a-z 0-9 . _ : -")
	}
	for _, p := range reserved {
		if len(unit) >= len(p) && strings.EqualFold(unit[:len(p)], p) {
			return ErrUnitInvalid.New("Names that start with %s are the service's own.", p)
		}
	}
	return nil
}

// String is the rule in words.
func (r SerialRule) String() string {
	switch {
	case r.Pattern != "":
		return "pattern " + r.Pattern
	case len(r.List) > 0:
		return fmt.Sprintf("list of %d", len(r.List))
	default:
		return r.nth(r.First) + " to " + r.nth(r.Last)
	}
}

func (r SerialRule) nth(n int64) string { return fmt.Sprintf("%s%0*d", r.Prefix, r.Width, n) }

// check refuses a rule that cannot name the order's quantity of units.
func (r SerialRule) check(quantity int64) error {
	forms := 0
	if r.Pattern != "" {
		forms++
		if len(r.Pattern) > 256 {
			return ErrOrderInvalid.New("The pattern is longer than 256 characters.")
		}
		if _, err := regexp.Compile("^(?:" + r.Pattern + ")$"); err != nil {
			return ErrOrderInvalid.New("The pattern is not a regular expression: %v.", err)
		}
	}
	if len(r.List) > 0 {
		forms++
		seen := map[string]bool{}
		for _, u := range r.List {
			if err := ValidUnit(u); err != nil {
				return ErrOrderInvalid.New("The serial %q in the list is not valid.", u)
			}
			if k := strings.ToLower(u); seen[k] {
				return ErrOrderInvalid.New("The serial %q is in the list twice.", u)
			} else {
				seen[k] = true
			}
		}
		if int64(len(r.List)) < quantity {
			return ErrOrderInvalid.New("The list has %d serials for %d units.", len(r.List), quantity)
		}
	}
	if r.Last != 0 || r.Prefix != "" {
		forms++
		if r.First < 0 || r.Last < r.First || r.Width < 0 || r.Width > 20 {
			return ErrOrderInvalid.New("The range %d to %d is empty.", r.First, r.Last)
		}
		if r.Last-r.First+1 < quantity {
			return ErrOrderInvalid.New("The range has %d serials for %d units.", r.Last-r.First+1, quantity)
		}
		if err := ValidUnit(r.nth(r.Last)); err != nil {
			return ErrOrderInvalid.New("The serial %q of the range is not valid.", r.nth(r.Last))
		}
	}
	if err := r.checkHardware(); err != nil {
		return err
	}
	if forms != 1 {
		return ErrOrderInvalid.New("State exactly one serial rule: a range, a pattern or a list.")
	}
	return nil
}

// checkHardware refuses a manifest that is not one hardware serial number a unit.
func (r SerialRule) checkHardware() error {
	if r.HardwareType == "" && len(r.Hardware) == 0 {
		return nil
	}
	if _, err := der.ParseOID(r.HardwareType); err != nil {
		return ErrOrderInvalid.New("The hardware type %q is not an object identifier.", r.HardwareType)
	}
	if len(r.Hardware) != len(r.List) {
		return ErrOrderInvalid.New("The manifest has %d hardware serial numbers for %d units in the list.", len(r.Hardware), len(r.List))
	}
	seen := map[string]bool{}
	for i, h := range r.Hardware {
		b, err := hex.DecodeString(h)
		if err != nil || len(b) == 0 || len(b) > profile.MaxHardwareSerial {
			return ErrOrderInvalid.New("The hardware serial number of %s is not 1 to %d octets in hexadecimal.", r.List[i], profile.MaxHardwareSerial)
		}
		if seen[string(b)] {
			return ErrOrderInvalid.New("The hardware serial number %s is in the manifest twice.", h)
		}
		seen[string(b)] = true
	}
	return nil
}

// matcher decides about serials of one order.
type matcher struct {
	rule SerialRule
	re   *regexp.Regexp
	list map[string]bool

	hardwareType der.OID
	hardware     map[string][]byte // of each unit; nil without a manifest
}

func newMatcher(r SerialRule) *matcher {
	m := &matcher{rule: r}
	if r.Pattern != "" {
		m.re = regexp.MustCompile("^(?:" + r.Pattern + ")$") // checked when the order was made
	}
	if len(r.List) > 0 {
		m.list = make(map[string]bool, len(r.List))
		for _, u := range r.List {
			m.list[u] = true
		}
	}
	if len(r.Hardware) > 0 { // checked when the order was made
		m.hardwareType, m.hardware = der.MustOID(r.HardwareType), make(map[string][]byte, len(r.List))
		for i, u := range r.List {
			m.hardware[u], _ = hex.DecodeString(r.Hardware[i])
		}
	}
	return m
}

// allows tells whether the rule has this unit, in exactly this spelling.
func (m *matcher) allows(unit string) bool {
	switch {
	case m.re != nil:
		return m.re.MatchString(unit)
	case m.list != nil:
		return m.list[unit]
	}
	digits, ok := strings.CutPrefix(unit, m.rule.Prefix)
	if !ok {
		return false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return err == nil && n >= m.rule.First && n <= m.rule.Last && m.rule.nth(n) == unit
}

// Order is an order as it is stored.
type Order struct {
	Body
	State     OrderState
	Used      int64
	Canonical []byte // the signed octets
	Envelope  []byte // DSSE, empty for a draft
	CreatedAt time.Time
	ChangedAt time.Time
}

// Check refuses an order that could not be worked.
func (b *Body) Check() error {
	switch {
	case !idPattern.MatchString(b.ID):
		return ErrOrderInvalid.New("The id %q is not 1 to 64 characters of A-Z a-z 0-9 . _ -", b.ID)
	case b.Tenant == "":
		return ErrOrderInvalid.New("The tenant is missing.")
	case b.Product == "" || !printableText(b.Product):
		return ErrOrderInvalid.New("The product is 1 to 64 printable characters.")
	case b.Quantity < 1 || b.Quantity > 1_000_000_000:
		return ErrOrderInvalid.New("The quantity %d is not 1 to 1,000,000,000.", b.Quantity)
	case b.NotAfter != 0 && b.NotAfter <= b.NotBefore:
		return ErrOrderInvalid.New("The window ends before it starts.")
	case !b.KeyOrigin.Valid() || b.KeyOrigin == profile.OriginServerMade: // fleet provisioning's alone
		return ErrOrderInvalid.New("The key origin %q is not attested, manifest, claimed or station-made.", b.KeyOrigin)
	case b.CertificateDays < 0 || b.CertificateDays > 30*365:
		return ErrOrderInvalid.New("The certificates' life of %d days is not 0 to %d.", b.CertificateDays, 30*365)
	case !printableText(b.Region):
		return ErrOrderInvalid.New("The region is not at most 64 printable characters.")
	case !printableText(b.Organization):
		return ErrOrderInvalid.New("The organization is not at most 64 printable characters.")
	}
	for _, s := range b.Stations {
		if err := ValidUnit(s); err != nil {
			return ErrOrderInvalid.New("The station %q is not a station id.", s)
		}
	}
	return b.Serials.check(b.Quantity)
}

// Ahead refuses a new order whose window is over already.
func (p *Provisioner) Ahead(b *Body) error {
	if now := p.now(); b.NotAfter != 0 && now.Unix() >= b.NotAfter {
		return ErrOrderOver.New("Order %s would end at %s; now it is %s.", b.ID, unixText(b.NotAfter), unixText(now.Unix()))
	}
	return nil
}

// printableText tells whether a text for people is at most 64 characters that can
// be seen: control and direction characters would change what a reader sees (A55).
func printableText(s string) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// Canonical is the signed form (RFC 8785).
func (b *Body) Canonical() ([]byte, error) {
	raw, err := json.Marshal(b)
	if err != nil {
		return nil, err
	}
	return jcs.Transform(raw)
}

// ParseBody reads the signed form back; the octets must be canonical.
func ParseBody(canonical []byte) (*Body, error) {
	b := &Body{}
	if err := strictjson.Decode(canonical, b); err != nil {
		return nil, ErrOrderInvalid.Wrap(err, "It is not an order in JSON.")
	}
	again, err := b.Canonical()
	if err != nil || string(again) != string(canonical) {
		return nil, ErrOrderInvalid.New("It is not in canonical form (RFC 8785).")
	}
	return b, b.Check()
}

// Envelope is a DSSE envelope.
type Envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // base64
	Signatures  []Signature `json:"signatures"`
}

// Signature is one approver's.
type Signature struct {
	KeyID string `json:"keyid"` // hexadecimal SHA-256 of the public key's DER
	Sig   string `json:"sig"`   // base64
}

// PAE is DSSE's pre-authentication encoding: the octets that are signed.
func PAE(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// KeyID names a public key in envelopes and in the configuration.
func KeyID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// Approver is a key that may sign orders. Approvers are pinned in the
// configuration, outside the database (S32).
type Approver struct {
	Name string
	Key  crypto.PublicKey
}

// Orders verifies orders and remembers what it verified, by hash.
type Orders struct {
	approvers map[string]Approver // by key id
	need      int
	mu        sync.Mutex
	verified  map[[32]byte]*verifiedOrder
}

type verifiedOrder struct {
	body    *Body
	matcher *matcher
}

// maxVerified bounds the cache; a line works on a few orders at a time.
const maxVerified = 256

// NewOrders makes a verifier that wants signatures of need different approvers
// (0 means 1).
func NewOrders(approvers []Approver, need int) (*Orders, error) {
	o := &Orders{approvers: map[string]Approver{}, need: max(need, 1), verified: map[[32]byte]*verifiedOrder{}}
	for _, a := range approvers {
		id, err := KeyID(a.Key)
		if err != nil {
			return nil, err
		}
		o.approvers[id] = a
	}
	return o, nil
}

// Verify checks the envelope of an order and returns the signed body. Nothing
// but the envelope counts: the row's columns could be anybody's.
func (o *Orders) Verify(envelope []byte) (*Body, error) {
	v, err := o.verify(envelope)
	if err != nil {
		return nil, err
	}
	return v.body, nil
}

func (o *Orders) verify(envelope []byte) (*verifiedOrder, error) {
	hash := sha256.Sum256(envelope)
	o.mu.Lock()
	v := o.verified[hash]
	o.mu.Unlock()
	if v != nil {
		return v, nil
	}
	var e Envelope
	if err := strictjson.Decode(envelope, &e); err != nil {
		return nil, ErrOrderSignature.Wrap(err, "It is not a DSSE envelope.")
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil || e.PayloadType != PayloadType {
		return nil, ErrOrderSignature.New("The envelope holds no order.")
	}
	pae := PAE(e.PayloadType, payload)
	var signed []string
	for _, s := range e.Signatures {
		a, known := o.approvers[s.KeyID]
		sig, err := base64.StdEncoding.DecodeString(s.Sig)
		if known && err == nil && verifySignature(a.Key, pae, sig) && !slices.Contains(signed, s.KeyID) {
			signed = append(signed, s.KeyID)
		}
	}
	if len(signed) < o.need {
		return nil, ErrOrderSignature.New("It has %d of %d signatures.", len(signed), o.need)
	}
	b, err := ParseBody(payload)
	if err != nil {
		return nil, err
	}
	v = &verifiedOrder{body: b, matcher: newMatcher(b.Serials)}
	o.mu.Lock()
	if len(o.verified) >= maxVerified {
		clear(o.verified)
	}
	o.verified[hash] = v
	o.mu.Unlock()
	return v, nil
}

func verifySignature(pub crypto.PublicKey, message, sig []byte) bool {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize > 256 {
			d := sha512.Sum384(message)
			return ecdsa.VerifyASN1(k, d[:], sig)
		}
		d := sha256.Sum256(message)
		return ecdsa.VerifyASN1(k, d[:], sig)
	case *rsa.PublicKey:
		d := sha256.Sum256(message)
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, d[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, sig)
	}
	return false
}

// OrderStore persists orders. Contract: SetOrder moves an order from one of the
// given states, or refuses with ErrOrderState; look-ups see one tenant.
type OrderStore interface {
	CreateOrder(ctx context.Context, o Order) error
	Order(ctx context.Context, s access.Scope, id string) (Order, error)
	Orders(ctx context.Context, s access.Scope, after string, limit int) ([]Order, error)
	SetOrder(ctx context.Context, s access.Scope, id string, from []OrderState, to OrderState, envelope []byte, now time.Time) error
}

// VerifySignature says whether an approver's key made a signature over a message.
func (a *Approver) VerifySignature(message, sig []byte) bool {
	return verifySignature(a.Key, message, sig)
}
