package bootstrap

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/provisioner"
)

// UnitIssuer makes birth certificates against orders; [provisioner.Provisioner] does.
type UnitIssuer interface {
	CheckEnrolment(ctx context.Context, tenant, order, unit string) error
	CheckAttested(ctx context.Context, tenant, order, unit string) error
	EnrolUnit(ctx context.Context, e provisioner.UnitEnrolment) (provisioner.IssueAnswer, error)
}

// Rules is what an installation allows one protocol.
type Rules struct {
	Protocol string // its name in records
	// PerMinute is how many enrolments a minute this node takes; 0 means 600.
	PerMinute int
	// RequireProof refuses a request that is not tied to its connection, where the
	// protocol has connections that can be named.
	RequireProof bool
	// ServerKeys lets the service make a device's key (S17).
	ServerKeys bool
}

// EnrollerConfig makes an Enroller.
type EnrollerConfig struct {
	Rules
	Service   *Service
	Units     UnitIssuer
	Passwords Passwords
	// Secret derives the password of an id under a key outside the database (S39);
	// at least 16 octets nobody else can compute.
	Secret  func(id string) []byte
	Revoker Revoker
	Log     *slog.Logger
	Now     func() time.Time
}

// Enroller is what every enrolment protocol speaks for. A protocol proves who
// asks and which key they hold; whatever follows is here, and ends where first
// boot, renewal and the factory line end: templates, orders, quotas, slots and the
// permanent table of revocations decide, and names never come from a request. It
// is safe for concurrent use.
type Enroller struct {
	cfg  EnrollerConfig
	now  func() time.Time
	log  *slog.Logger
	pace pace
}

// NewEnroller makes the Enroller of one protocol.
func NewEnroller(cfg EnrollerConfig) *Enroller {
	e := &Enroller{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if e.now == nil {
		e.now = time.Now
	}
	if e.log == nil {
		e.log = slog.New(slog.DiscardHandler)
	}
	if e.cfg.PerMinute <= 0 {
		e.cfg.PerMinute = 600
	}
	e.pace.most = e.cfg.PerMinute
	return e
}

// Applicant is who asks, as far as the protocol proved it. One of them is set.
type Applicant struct {
	Certificate *x509.Certificate // whose key was proven
	Password    *Password         // whose secret was proven
}

// Application is a request for a certificate.
type Application struct {
	Applicant
	// Request has the key, whose possession was proven, and what the applicant
	// claims besides.
	Request *csr.Request
	// Profile that was asked for; "" means the one that the applicant may have.
	Profile profile.Name
	// Bindings are the challenges that tie the request to its connection; nil where
	// the protocol has none, so that the key has to prove itself (S15).
	Bindings []string
}

// Enrolled is a certificate that was made, or found.
type Enrolled struct {
	Profile     profile.Name
	Certificate []byte   // DER
	Chain       [][]byte // its issuer first
	Roots       [][]byte
	Thing       fleet.ThingName       // of an operational certificate
	Status      fleet.PrincipalStatus // of an operational certificate
	// PrivateKey is PKCS #8, only of [Enroller.ServerKey], and kept nowhere.
	PrivateKey []byte
}

// way says how somebody came in, for the record.
type way struct {
	tool   string
	actor  string         // "" means the device itself
	origin profile.Origin // of the key; "" means that of the certificate behind it (S16)
}

// Enrol makes the certificate that the applicant may have: with a birth
// certificate the operational one, with an operational one the next, with a
// one-time password the one that the password is for. The same key gets the same
// certificate again.
func (e *Enroller) Enrol(ctx context.Context, a Application) (Enrolled, error) {
	proven, err := e.bound(&a)
	if err != nil {
		return Enrolled{}, err
	}
	return e.enrol(ctx, &a, proven, "")
}

// Reenrol is [Enroller.Enrol] for an operational certificate that goes on under
// the same names: subject and alternative names of the request are those of the
// certificate (A13).
func (e *Enroller) Reenrol(ctx context.Context, a Application) (Enrolled, error) {
	if a.Certificate == nil {
		return Enrolled{}, ErrEnrolRenew.New("")
	}
	id, err := e.renewer(ctx, &a)
	if err != nil {
		return Enrolled{}, err
	}
	if id.Profile != profile.LDevID {
		return Enrolled{}, ErrEnrolRenew.New("A birth certificate is not renewed.")
	}
	if !sameName(a.Request.RawSubject, a.Certificate.RawSubject) || !sameAltNames(a.Request, a.Certificate) {
		return Enrolled{}, ErrEnrolRenew.New("Its subject or names differ.")
	}
	if id.dark {
		return e.reenter(ctx, &id, &a)
	}
	return e.Enrol(ctx, a)
}

// renewer is the device that renews. The lane for dark devices (S33) asks for a
// request that is tied to its connection, so a protocol that has no connections to
// name has no lane.
func (e *Enroller) renewer(ctx context.Context, a *Application) (Identity, error) {
	if a.Bindings == nil {
		return e.admit(ctx, a)
	}
	return e.cfg.Service.knock(ctx, Facts{Certificate: a.Certificate})
}

// admit lets in whom the gate lets in. A device that would be let in by the lane, but
// not over this protocol, is told so.
func (e *Enroller) admit(ctx context.Context, a *Application) (Identity, error) {
	s := e.cfg.Service
	id, err := s.cfg.Gate.AdmitCertificate(ctx, a.Certificate)
	if a.Bindings == nil && s.cfg.Dark != nil && errors.Is(err, ErrExpired) {
		if _, barred := s.dark(ctx, a.Certificate); barred == nil {
			return id, ErrDarkElsewhere.New("")
		}
	}
	return id, err
}

// reenter lets a device with an expired certificate back in, into quarantine.
func (e *Enroller) reenter(ctx context.Context, id *Identity, a *Application) (Enrolled, error) {
	proven, err := e.bound(a)
	if err != nil {
		return Enrolled{}, err
	}
	if err := e.pace.take(e.now()); err != nil {
		return Enrolled{}, err
	}
	if bytes.Equal(a.Request.SPKI, a.Certificate.RawSubjectPublicKeyInfo) {
		return Enrolled{}, ErrKeyReused.New("")
	}
	r, err := e.cfg.Service.reenter(lane.With(ctx, lane.Renewal), id, a.Request, proven)
	return enrolled(r), err
}

// ServerKey makes a key and its certificate. The key leaves in the answer and is
// kept nowhere; a password serves once for it, whatever becomes of the answer.
func (e *Enroller) ServerKey(ctx context.Context, a Application) (Enrolled, error) {
	if !e.cfg.ServerKeys {
		return Enrolled{}, ErrEnrolKeys.New("")
	}
	if _, err := e.bound(&a); err != nil {
		return Enrolled{}, err
	}
	// A unit's first identity is never one that was anywhere else (S5).
	if a.Profile == profile.IDevID || a.Password != nil && a.Password.Profile == profile.IDevID {
		return Enrolled{}, ErrEnrolKeys.New("The key of a birth certificate is made in the device.")
	}
	if a.Password != nil {
		if err := e.named(ctx, &a); err != nil {
			return Enrolled{}, err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Enrolled{}, err
	}
	raw, err := csr.Create(key, "", "")
	if err != nil {
		return Enrolled{}, err
	}
	if a.Request, err = csr.Parse(raw); err != nil {
		return Enrolled{}, err
	}
	out, err := e.enrol(ctx, &a, true, profile.OriginServerMade)
	if err != nil {
		return Enrolled{}, err
	}
	out.PrivateKey, err = x509.MarshalPKCS8PrivateKey(key)
	return out, err
}

// bound tells whether the request is tied to its connection. A wrong tie is worse
// than none: somebody may relay the request.
func (e *Enroller) bound(a *Application) (proven bool, err error) {
	if a.Bindings == nil {
		return false, nil
	}
	if a.Request.Challenge == "" {
		if e.cfg.RequireProof {
			return false, ErrEnrolAttributes.New("The challenge password with the channel binding is missing.")
		}
		return false, nil
	}
	for _, want := range a.Bindings {
		if subtle.ConstantTimeCompare([]byte(want), []byte(a.Request.Challenge)) == 1 {
			return true, nil
		}
	}
	return false, ErrEnrolProof.New("")
}

func (e *Enroller) enrol(ctx context.Context, a *Application, proven bool, origin profile.Origin) (Enrolled, error) {
	ctx = lane.With(ctx, lane.Renewal)
	switch {
	case a.Password != nil:
		return e.byPassword(ctx, a, proven, origin)
	case a.Certificate != nil:
		return e.byCertificate(ctx, a, proven, origin)
	}
	return Enrolled{}, ErrEnrolNone.New("")
}

func (e *Enroller) byCertificate(ctx context.Context, a *Application, proven bool, origin profile.Origin) (Enrolled, error) {
	s := e.cfg.Service
	id, err := e.admit(ctx, a)
	if err != nil {
		return Enrolled{}, err
	}
	// A stranger takes nothing of the minute.
	if err := e.pace.take(e.now()); err != nil {
		return Enrolled{}, err
	}
	if a.Profile != "" && a.Profile != profile.LDevID {
		return Enrolled{}, ErrEnrolIdentity.New("With a certificate the profile is %s.", profile.LDevID)
	}
	if bytes.Equal(a.Request.SPKI, a.Certificate.RawSubjectPublicKeyInfo) {
		return Enrolled{}, ErrKeyReused.New("")
	}
	id.way = &way{tool: e.cfg.Protocol, origin: origin}
	r, err := s.enter(ctx, &id, a.Request, proven, nil)
	return enrolled(r), err
}

func enrolled(r Registration) Enrolled {
	return Enrolled{Profile: profile.LDevID, Certificate: r.Certificate, Chain: r.Chain, Roots: r.TrustBundle, Thing: r.Thing, Status: r.Status}
}

// named compares what the request says with what the password is for (A37). What
// it says is not used for anything else.
func (e *Enroller) named(ctx context.Context, a *Application) error {
	p := a.Password
	if a.Profile != "" && a.Profile != p.Profile || a.Request.CommonName != "" && a.Request.CommonName != p.Unit {
		return e.fails(ctx, p, ErrEnrolIdentity.New(""))
	}
	return nil
}

func (e *Enroller) byPassword(ctx context.Context, a *Application, proven bool, origin profile.Origin) (Enrolled, error) {
	p, s := a.Password, e.cfg.Service
	if err := e.pace.take(e.now()); err != nil {
		return Enrolled{}, err
	}
	// 1. What is refused costs no password.
	if err := e.named(ctx, a); err != nil {
		return Enrolled{}, err
	}
	if err := keycheck.Check(a.Request.PublicKey); err != nil {
		return Enrolled{}, err
	}
	var id *Identity
	if p.Profile == profile.LDevID {
		var err error
		if id, err = e.born(ctx, p); err != nil {
			return Enrolled{}, err
		}
		if bytes.Equal(a.Request.SPKI, id.Certificate.RawSubjectPublicKeyInfo) {
			return Enrolled{}, ErrKeyReused.New("")
		}
	}
	// 2. From here on the password is this key's.
	if err := e.cfg.Passwords.RedeemPassword(ctx, p.ID, a.Request.SPKIHash, e.now()); err != nil {
		return Enrolled{}, err
	}
	by := "enrol-password/" + p.ID
	if id != nil {
		id.way = &way{tool: e.cfg.Protocol, actor: access.Actor{Kind: access.KindService, Name: by}.String(), origin: origin}
		r, err := s.enter(ctx, id, a.Request, proven, nil)
		return enrolled(r), err
	}
	got, err := e.cfg.Units.EnrolUnit(ctx, provisioner.UnitEnrolment{Tenant: p.Tenant, Order: p.Order, Unit: p.Unit, Request: a.Request, By: by, Tool: e.cfg.Protocol})
	if err != nil {
		return Enrolled{}, discreet(err)
	}
	out := Enrolled{Profile: profile.IDevID, Certificate: got.DER, Chain: got.Chain}
	out.Roots, err = s.bundle(ctx, p.Tenant)
	return out, err
}

// born finds the unit of a password by its birth certificate, which has to be good.
func (e *Enroller) born(ctx context.Context, p *Password) (*Identity, error) {
	s := e.cfg.Service
	id := &Identity{Tenant: p.Tenant, Holder: p.Unit}
	all, err := s.births(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range all {
		r := &all[i]
		if r.State == "" || r.DER == nil || r.Shown != p.Unit {
			continue
		}
		if err := s.cfg.Gate.usable(ctx, r, e.now()); err != nil {
			return nil, noBirth(err)
		}
		c, err := x509.ParseCertificate(r.DER)
		if err != nil {
			return nil, err
		}
		*id = Identity{Tenant: r.Tenant, Holder: r.Shown, Profile: profile.IDevID, Authority: r.Authority, Serial: r.Serial, Certificate: c,
			Origin: profile.Origin(r.Origin), NotAfter: c.NotAfter, Status: fleet.Active}
		// A password of the tenant where it was made enrols no device of somebody else.
		if err := s.cfg.Gate.owned(ctx, id); err != nil {
			return nil, err
		}
		if id.Tenant != p.Tenant {
			return nil, ErrNoBirth.New("")
		}
		return id, nil
	}
	return nil, ErrNoBirth.New("")
}

// Attributes is what a request should be like.
type Attributes struct {
	// Proof asks for the channel binding as challenge password; a request without
	// it is refused.
	Proof bool
	// Subject (a Name) and AltNames (the value of the extension) are what the next
	// request of an operational certificate has to say; nil for everybody else, whose
	// names nobody looks at.
	Subject, AltNames []byte
}

// Attributes tells what a request of the applicant should be like.
func (e *Enroller) Attributes(ctx context.Context, a Applicant) (Attributes, error) {
	out := Attributes{Proof: e.cfg.RequireProof}
	if a.Certificate == nil {
		return out, nil
	}
	id, err := e.cfg.Service.knock(ctx, Facts{Certificate: a.Certificate})
	if err != nil {
		return Attributes{}, err
	}
	out.Proof = out.Proof || id.dark
	if id.Profile == profile.LDevID {
		out.Subject, out.AltNames = a.Certificate.RawSubject, altNames(a.Certificate)
	}
	return out, nil
}

// CACertificates lists the authorities of a tenant, roots first: what devices and
// their peers verify with, and what they verify this service with.
func (e *Enroller) CACertificates(_ context.Context, tenant string) ([]*x509.Certificate, error) {
	var roots, others []*x509.Certificate
	for _, a := range e.cfg.Service.cfg.Gate.cfg.CA.Authorities() {
		switch {
		case a.Tenant != tenant:
		case a.Duty == profile.DutyRoot:
			roots = append(roots, a.Cert)
		default:
			others = append(others, a.Cert)
		}
	}
	for _, root := range roots { // RFC 7030, Section 4.1.3
		others = append(others, e.cfg.Service.cfg.Issuer.CrossesOf(root)...)
	}
	return append(roots, others...), nil
}

// Find gives the certificate of the applicant that match knows.
func (e *Enroller) Find(ctx context.Context, a Applicant, match func(der []byte) bool) (ca.Record, error) {
	id, name := &Identity{}, profile.LDevID
	if a.Password != nil {
		id.Tenant, id.Holder, name = a.Password.Tenant, a.Password.Unit, a.Password.Profile
	} else {
		admitted, err := e.cfg.Service.cfg.Gate.AdmitCertificate(ctx, a.Certificate)
		if err != nil {
			return ca.Record{}, err
		}
		id = &admitted
	}
	all, err := e.cfg.Service.records(ctx, id, name)
	if err != nil {
		return ca.Record{}, err
	}
	for i := range all {
		if all[i].DER != nil && match(all[i].DER) {
			return all[i], nil
		}
	}
	return ca.Record{}, ErrEnrolUnknown.New("")
}

// Decline takes back a certificate that its device did not take.
func (e *Enroller) Decline(ctx context.Context, a Applicant, r *ca.Record) error {
	by := access.Actor{Tenant: r.Tenant, Kind: access.KindDevice, Name: r.Holder}
	_, err := e.cfg.Revoker.Revoke(ctx, by, crl.Withdrawal{Authority: r.Authority, Serial: r.Serial, Reason: crl.CessationOfOperation, Note: "declined by the device (" + e.cfg.Protocol + ")", Reenrol: crl.ReenrolAllowed})
	return err
}

// Revoke gives up a certificate: the one that was shown, or another operational
// one of the same device (A34). A hold is for people, who could release it.
func (e *Enroller) Revoke(ctx context.Context, a Applicant, issuer []byte, serial ca.Serial, reason crl.Reason) error {
	if a.Certificate == nil {
		return ErrEnrolNone.New("A one-time password revokes nothing.")
	}
	s := e.cfg.Service
	id, err := s.cfg.Gate.AdmitCertificate(ctx, a.Certificate)
	if err != nil {
		return err
	}
	if err := e.pace.take(e.now()); err != nil {
		return err
	}
	if reason == crl.CertificateHold || !reason.Valid() {
		return crl.ErrReason.New("A device does not hold or release.")
	}
	r, err := s.cfg.Records.RecordBySerial(ctx, id.Tenant, "", serial)
	if fault.KindOf(err) == fault.NotFound {
		return ErrEnrolUnknown.New("")
	}
	if err != nil {
		return err
	}
	own := r.Authority == id.Authority && r.Serial == id.Serial
	authority, err := s.cfg.Issuer.Authority(r.Authority)
	if err != nil {
		return err
	}
	if r.Shown != id.Holder || !own && r.Profile != string(profile.LDevID) || !sameName(issuer, authority.Cert.RawSubject) {
		return ErrEnrolUnknown.New("")
	}
	_, err = e.cfg.Revoker.Revoke(ctx, id.Actor(), crl.Withdrawal{Authority: r.Authority, Serial: r.Serial, Reason: reason, Note: "asked for by the device (" + e.cfg.Protocol + ")"})
	if errors.Is(err, crl.ErrRight) {
		return ErrEnrolUnknown.Wrap(err, "")
	}
	return err
}

// sameName compares two names by their parts: whether a text is a UTF8String or a
// PrintableString makes no other name.
func sameName(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var x, y pkix.RDNSequence
	if rest, err := asn1.Unmarshal(a, &x); err != nil || len(rest) > 0 {
		return false
	}
	if rest, err := asn1.Unmarshal(b, &y); err != nil || len(rest) > 0 || len(x) != len(y) {
		return false
	}
	for i := range x {
		if len(x[i]) != len(y[i]) {
			return false
		}
		for j := range x[i] {
			s, ok := x[i][j].Value.(string)
			t, also := y[i][j].Value.(string)
			if !ok || !also || s != t || !x[i][j].Type.Equal(y[i][j].Type) {
				return false
			}
		}
	}
	return true
}

var oidAltName = asn1.ObjectIdentifier{2, 5, 29, 17}

func altNames(c *x509.Certificate) []byte {
	for _, x := range c.Extensions {
		if x.Id.Equal(oidAltName) {
			return x.Value
		}
	}
	return nil
}

func sameAltNames(r *csr.Request, c *x509.Certificate) bool {
	var asked []byte
	for _, x := range r.Extensions {
		if x.ID.String() == oidAltName.String() {
			asked = x.Value
		}
	}
	return bytes.Equal(asked, altNames(c))
}
