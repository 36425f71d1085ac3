package bootstrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

// Authorities knows the certification authorities; [ca.CA] does.
type Authorities interface {
	Authorities() []ca.Info
	PolicyArc() string
}

// Revocations is the revoked set in memory; [crl.Set] is one. Before it is
// loaded everything is revoked.
type Revocations interface {
	Revoked(authority string, serial ca.Serial) (reason crl.Reason, at time.Time, revoked bool)
}

// Records looks certificates up and knows which identities are blocked.
type Records interface {
	ca.Records
	Blocked(ctx context.Context, tenant, holder string) (at time.Time, blocked bool, err error)
}

// Owners tells whose device a unit is; [ownership.Service] does. Owner is asked with the
// tenant of the authority that made the birth certificate, Held with the tenant where
// the device lives. Both fail for a unit that is nobody's.
type Owners interface {
	Owner(ctx context.Context, home, holder string) (ownership.Unit, error)
	Held(ctx context.Context, tenant, holder string) (ownership.Unit, error)
}

// GateConfig makes a Gate.
type GateConfig struct {
	CA       Authorities
	Records  Records
	Registry *registry.Registry
	Revoked  Revocations
	// Owners knows the units that were transferred; nil: every device lives with the
	// tenant of its authority.
	Owners Owners
	Log    *slog.Logger
	Now    func() time.Time
}

// Gate tells who is at the device door. It is safe for concurrent use.
type Gate struct {
	cfg     GateConfig
	now     func() time.Time
	log     *slog.Logger
	refused refusals
	anchors sync.Map // *x509.Certificate of an issuer to anchored
}

// NewGate makes a Gate.
func NewGate(cfg GateConfig) *Gate {
	g := &Gate{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if g.now == nil {
		g.now = time.Now
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.refused.m = map[[32]byte]refusal{}
	return g
}

// Identity is a device that was let in.
type Identity struct {
	Tenant      string // where the device lives
	Holder      string // as first written
	Profile     profile.Name
	Authority   string // that issued the certificate
	Serial      ca.Serial
	Certificate *x509.Certificate
	Origin      profile.Origin
	NotAfter    time.Time
	Thing       fleet.ThingName       // of an operational certificate
	Status      fleet.PrincipalStatus // of an operational certificate; a birth certificate is ACTIVE
	How         registry.How          // an operational certificate came

	// unit is how a birth certificate's owner registers it, if that was said when the
	// unit was accepted; nil where its authority's registration says it.
	unit *ownership.Unit
	home string // tenant of the authority of a birth certificate; "" is Tenant

	dark bool // its certificate has expired; it came by the dark-device lane
	way  *way // nil: first boot's own interface
}

// Actor is the device in records.
func (i *Identity) Actor() access.Actor {
	return access.Actor{Tenant: i.Tenant, Kind: access.KindDevice, Name: i.Holder, Authority: i.Authority, Serial: i.Serial[:]}
}

const (
	maxCertificate = 16 << 10 // octets; the largest honest one has 3 KiB
	maxChain       = 8
)

// VerifyConnection is for [tls.Config]. It ends a handshake only for what no
// honest client sends; a certificate that is refused must still get its answer
// over HTTP. It runs for resumed sessions too, and so does [Gate.Admit], for
// every request (S19).
func (g *Gate) VerifyConnection(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) > maxChain {
		return ErrUnknown.New("It came with %d others.", len(cs.PeerCertificates)-1)
	}
	for _, c := range cs.PeerCertificates {
		if len(c.Raw) > maxCertificate {
			return ErrUnknown.New("It has %d octets.", len(c.Raw))
		}
	}
	return nil
}

// Admit tells who is at the other end of a connection. That the peer holds the
// certificate's key was proven in the handshake; this proves the certificate.
func (g *Gate) Admit(ctx context.Context, cs *tls.ConnectionState) (Identity, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Identity{}, ErrNoCertificate.New("")
	}
	return g.AdmitCertificate(ctx, cs.PeerCertificates[0])
}

// AdmitCertificate is [Gate.Admit] for a certificate whose key was proven.
func (g *Gate) AdmitCertificate(ctx context.Context, c *x509.Certificate) (Identity, error) {
	fingerprint := sha256.Sum256(c.Raw)
	now := g.now()
	// 1. What was refused a moment ago for what does not change costs nothing (S41).
	if err := g.refused.find(fingerprint, now); err != nil {
		return Identity{}, err
	}
	id, lasting, err := g.admit(ctx, c, now)
	if err != nil && lasting {
		g.refused.add(fingerprint, now, err)
	}
	return id, err
}

// admit decides. lasting says that the refusal is about the certificate's own octets.
func (g *Gate) admit(ctx context.Context, c *x509.Certificate, now time.Time) (id Identity, lasting bool, err error) {
	// 2. Which authority signed it.
	issuer, err := g.issuer(c)
	if err != nil {
		return Identity{}, true, err
	}
	// 3. The record, octet by octet: a second certificate that an issuing key
	//    was made to sign is not one of ours (A12).
	serial, ok := ca.SerialFromInt(c.SerialNumber)
	if !ok {
		return Identity{}, true, ErrUnknown.New("")
	}
	rec, err := g.cfg.Records.RecordBySerial(ctx, issuer.Tenant, issuer.Name, serial)
	switch {
	case err != nil && fault.KindOf(err) == fault.NotFound:
		return Identity{}, true, ErrUnknown.New("")
	case err != nil:
		return Identity{}, false, err
	case !bytes.Equal(rec.DER, c.Raw):
		return Identity{}, true, ErrUnknown.New("")
	}
	// 4. The role: record, issuer and policy say the same (S18).
	p, _ := profile.Get(profile.Name(rec.Profile))
	if p.Name != profile.IDevID && p.Name != profile.LDevID || issuer.Duty != profile.DutyDevice || !hasPolicy(c, profile.RolePolicy(p, g.cfg.CA.PolicyArc())) {
		return Identity{}, true, ErrRole.New("")
	}
	id = Identity{Tenant: issuer.Tenant, Holder: rec.Shown, Profile: p.Name, Authority: issuer.Name, Serial: serial, Certificate: c,
		Origin: profile.Origin(rec.Origin), NotAfter: c.NotAfter, Status: fleet.Active}
	// 5. Whether it may be used now.
	if err := g.usable(ctx, &rec, now); err != nil {
		return Identity{}, false, err
	}
	if p.Name == profile.IDevID {
		return id, false, g.owned(ctx, &id)
	}
	// 6. An operational certificate acts for a thing, if its status lets it.
	return id, false, g.principal(ctx, &id)
}

// owned puts the owner of a unit into the identity that its birth certificate proved.
// The record of who owns it is asked before the authority's tenant: a released device
// gets in nowhere, and a transferred one where it belongs.
func (g *Gate) owned(ctx context.Context, id *Identity) error {
	if g.cfg.Owners == nil {
		return nil
	}
	u, err := g.cfg.Owners.Owner(ctx, id.Tenant, id.Holder)
	if err != nil {
		return err
	}
	if u.Version > 0 && (u.Foreign() || u.Template != "") {
		id.unit = &u
	}
	if !u.Foreign() {
		return nil
	}
	id.Tenant, id.home = u.Tenant, u.Home
	_, blocked, err := g.cfg.Records.Blocked(ctx, u.Tenant, id.Holder)
	if err == nil && blocked {
		err = ErrBlocked.New("")
	}
	return err
}

// issuer finds the authority whose key signed c.
func (g *Gate) issuer(c *x509.Certificate) (ca.Info, error) {
	var other bool
	all := g.cfg.CA.Authorities()
	for _, a := range all {
		if a.Duty == profile.DutyRoot || !bytes.Equal(a.Cert.RawSubject, c.RawIssuer) {
			continue
		}
		if a.Duty != profile.DutyDevice {
			other = other || c.CheckSignatureFrom(a.Cert) == nil
			continue
		}
		if err := g.chain(c, a.Cert, all); err == nil {
			return a, nil
		} else if c.CheckSignatureFrom(a.Cert) == nil {
			return ca.Info{}, ErrUnknown.Wrap(err, "")
		}
	}
	if other {
		return ca.Info{}, ErrRole.New("")
	}
	return ca.Info{}, ErrUnknown.New("")
}

// anchored is an issuer from which a chain was verified up to one of the roots.
type anchored struct {
	roots    []*x509.Certificate // all there were
	from, to time.Time           // while each certificate above the issuer is valid
}

// chain verifies up to a root. The time is one at which the certificate is
// valid: that it expired is an answer of its own. What lies above an issuer is
// verified for its first certificate and again when the roots change or one of
// those certificates ends; a fleet that comes back would else have it done for
// each device.
func (g *Gate) chain(c, issuer *x509.Certificate, all []ca.Info) error {
	at := g.now()
	if at.After(c.NotAfter) {
		at = c.NotAfter
	}
	if at.Before(c.NotBefore) {
		at = c.NotBefore
	}
	roots := make([]*x509.Certificate, 0, 8)
	for _, a := range all {
		if a.Duty == profile.DutyRoot {
			roots = append(roots, a.Cert)
		}
	}
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if known, ok := g.anchors.Load(issuer); ok {
		if k := known.(anchored); slices.Equal(k.roots, roots) && !at.Before(k.from) && !at.After(k.to) {
			options.Roots.AddCert(issuer)
			_, err := c.Verify(options)
			return err
		}
		g.anchors.Delete(issuer)
	}
	for _, r := range roots {
		options.Roots.AddCert(r)
	}
	options.Intermediates.AddCert(issuer)
	chains, err := c.Verify(options)
	if err != nil {
		return err
	}
	k := anchored{roots: roots, from: issuer.NotBefore, to: issuer.NotAfter}
	if !chains[0][1].Equal(issuer) {
		return nil
	}
	for _, above := range chains[0][2:] {
		if constrained(above) { // what it allows depends on the certificate
			return nil
		}
		if above.NotBefore.After(k.from) {
			k.from = above.NotBefore
		}
		if above.NotAfter.Before(k.to) {
			k.to = above.NotAfter
		}
	}
	g.anchors.Store(issuer, k)
	return nil
}

// constrained tells whether a certificate has name constraints (RFC 5280, Section 4.2.1.10).
func constrained(c *x509.Certificate) bool {
	return slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 30}) })
}

func hasPolicy(c *x509.Certificate, oid string) bool {
	for _, p := range c.Policies {
		if p.String() == oid {
			return true
		}
	}
	return false
}

// usable refuses what is revoked, on hold, out of its time or blocked. The
// memory is asked before the record: it hears of revocations first.
func (g *Gate) usable(ctx context.Context, rec *ca.Record, now time.Time) error {
	reason, _, revoked := g.cfg.Revoked.Revoked(rec.Authority, rec.Serial)
	if revoked && reason == crl.CertificateHold && !rec.ReleasedAt.IsZero() {
		revoked = false // the row is newer: it was released a moment ago
	}
	if revoked || rec.Revoked() {
		if revoked && reason == crl.CertificateHold || !revoked && rec.Reason == int(crl.CertificateHold) {
			return ErrHeld.New("")
		}
		return ErrRevoked.New("")
	}
	switch {
	case !now.Before(rec.NotAfter):
		return ErrExpired.New("It ended at %s.", rec.NotAfter.Format(time.RFC3339))
	case now.Before(rec.NotBefore):
		return ErrNotYet.New("It starts at %s.", rec.NotBefore.Format(time.RFC3339))
	}
	_, blocked, err := g.cfg.Records.Blocked(ctx, rec.Tenant, rec.Holder)
	if err != nil {
		return err
	}
	if blocked {
		return ErrBlocked.New("")
	}
	return nil
}

// principal fills the thing in, and activates a certificate that was waiting
// for this: the handshake proved its key (S15).
func (g *Gate) principal(ctx context.Context, id *Identity) error {
	scope := access.Scope{Tenant: id.Tenant}
	p, err := g.cfg.Registry.Principal(ctx, scope, id.Authority, id.Serial)
	if errors.Is(err, registry.ErrPrincipalUnknown) {
		return ErrInactive.New("") // made, but its registration did not end; the device asks again
	}
	if err != nil {
		return err
	}
	if p.Status == fleet.PendingActivation && g.now().Before(id.NotAfter) && (p.How == registry.HowFirstBoot || p.How == registry.HowRenewal) {
		if _, err := g.cfg.Registry.Prove(ctx, scope, id.Authority, id.Serial); err != nil {
			return err
		}
		g.log.InfoContext(ctx, "device proved its new key", "holder", id.Holder, "serial", id.Serial.String())
		p.Status = fleet.Active
	}
	id.Thing, id.Status, id.How = p.Thing, p.Status, p.How
	switch p.Status {
	case fleet.Active:
		return nil
	case fleet.Revoked:
		return ErrRevoked.New("")
	}
	return ErrInactive.New("")
}

// refusals remembers certificates that can never be let in, so that a device
// in a loop costs a hash and not a look-up (S41).
type refusals struct {
	mu sync.Mutex
	m  map[[32]byte]refusal
}

type refusal struct {
	until time.Time
	fault *fault.Fault
	// unless, if set, tells that something changed that can have lifted it; nobody
	// asks before the time again.
	unless func() bool
	again  time.Time
}

const (
	lookAgain   = time.Second // a busy registry does not make a loop cost a look-up each time (S41)
	maxRefusals = 4096        // some 500 kB
	refuseFor   = time.Minute // a certificate that another node has just made is not lost for long
)

func (r *refusals) find(fingerprint [32]byte, now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, ok := r.m[fingerprint]
	if ok && f.unless != nil && !now.Before(f.again) && f.unless() {
		delete(r.m, fingerprint)
		return nil
	}
	if ok && now.Before(f.until) {
		again := *f.fault // faults can be added to by whoever reports them
		return &again
	}
	return nil
}

func (r *refusals) add(fingerprint [32]byte, now time.Time, err error) {
	r.addFor(fingerprint, now, refuseFor, err, nil)
}

func (r *refusals) addFor(fingerprint [32]byte, now time.Time, d time.Duration, err error, unless func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.m) >= maxRefusals {
		for k, f := range r.m { // the outdated, and a quarter of the others in no order
			if !now.Before(f.until) || len(r.m) > maxRefusals*3/4 {
				delete(r.m, k)
			}
		}
	}
	r.m[fingerprint] = refusal{until: now.Add(d), fault: fault.From(err), unless: unless, again: now.Add(lookAgain)}
}

func (r *refusals) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.m)
}

// TLSConfig is that of the device door: it asks for any client certificate,
// which the gate then judges. Ticket keys are made by crypto/tls, live in
// memory, rotate daily, and belong to this configuration alone (S19).
func TLSConfig(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), g *Gate) *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS12,
		GetCertificate:   certificate,
		ClientAuth:       tls.RequestClientCert,
		NextProtos:       []string{"http/1.1"}, // one request a device a year: HTTP/2 would be surface for nothing
		VerifyConnection: g.VerifyConnection,
	}
}
