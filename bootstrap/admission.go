package bootstrap

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
)

// Admission is who was let in at the MQTT door.
type Admission struct {
	Tenant        string
	Thing         fleet.ThingName   // its exclusive thing, or the only one; empty for a claim certificate
	Things        []fleet.ThingName // all that it may act for
	CertificateID string            // lower-case hex of the SHA-256 of the DER
	Certificate   *x509.Certificate
	Authority     string // our own that issued it, "" for others
	Serial        string // its serial number, hex
	Holder        string // the device that it identifies
	How           registry.How
	Version       int64 // of the registered certificate's row
	NotAfter      time.Time
	Claim         bool // a claim certificate: it provisions, and does nothing else

	known *registry.Known
}

// JITPPlanner evaluates the template of a registered CA; [provisioner.Planner] does.
type JITPPlanner interface {
	PlanJITP(ctx context.Context, in provisioner.PlanInput) (provisioner.Plan, error)
}

// DoorConfig makes a Door.
type DoorConfig struct {
	Gate     *Gate
	Registry *registry.Registry
	Grants   Grants
	// Planner and Publisher are for certificates that nobody has registered yet.
	// Without a Planner nothing is registered at the door, whatever a CA says:
	// production mode (S22).
	Planner   JITPPlanner
	Publisher fleet.Publisher
	// Tenant gives the tenant of the server name that a device asked for, ""
	// if the name belongs to none; nil gives "". Only CAs of the mode SNI_ONLY and
	// certificates that several tenants have need it.
	Tenant func(serverName string) string
	// Account is the account number in events; "" means the tenant.
	Account string
	Keys    keycheck.Policy
	// Imported knows the revocation lists of CAs that are not ours; nil means that
	// none is imported.
	Imported Imported
	Log      *slog.Logger
	Now      func() time.Time
}

// Imported tells what other CAs say of their certificates; [crl.Imports] does. It
// fails where a list has to be there and is not.
type Imported interface {
	Check(c *x509.Certificate) (r crl.Reason, revoked bool, err error)
}

// imported refuses what its own CA revoked.
func (d *Door) imported(c *x509.Certificate) error {
	if d.cfg.Imported == nil {
		return nil
	}
	r, revoked, err := d.cfg.Imported.Check(c)
	switch {
	case revoked && r == crl.CertificateHold:
		return ErrHeld.New("")
	case revoked:
		return ErrRevoked.New("")
	}
	return err
}

// Door tells who is at the MQTT door, and registers those whom a registered CA
// vouches for: with a template at once (JITP), without one to wait (JITR). It is
// safe for concurrent use.
type Door struct {
	cfg     DoorConfig
	now     func() time.Time
	log     *slog.Logger
	refused refusals
	seed    maphash.Seed
	locks   [64]sync.Mutex // by certificate: one registration at a time in this process
}

// NewDoor makes a Door.
func NewDoor(cfg DoorConfig) *Door {
	d := &Door{cfg: cfg, now: cfg.Now, log: cfg.Log, seed: maphash.MakeSeed()}
	if d.now == nil {
		d.now = time.Now
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	d.refused.m = map[[32]byte]refusal{}
	return d
}

// Admit tells who is at the other end of a connection. That the peer holds the
// certificate's key was proven in the handshake; what else it sent is not
// looked at: no chain, no name and no header decides (A62).
//
// A certificate that was registered by this very call is refused once, with
// [ErrRegistered]; the device connects again.
func (d *Door) Admit(ctx context.Context, cs *tls.ConnectionState) (Admission, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Admission{}, ErrNoCertificate.New("")
	}
	if err := d.cfg.Gate.VerifyConnection(*cs); err != nil {
		return Admission{}, err
	}
	tenant := ""
	if d.cfg.Tenant != nil {
		tenant = d.cfg.Tenant(cs.ServerName)
	}
	c := cs.PeerCertificates[0]
	now := d.now()
	// 1. What was refused a moment ago costs a hash and no look-up (S41). The
	//    tenant is in the key: of the same certificate it can change the answer.
	key := sha256.Sum256(append([]byte(tenant+"\x00"), c.Raw...))
	if err := d.refused.find(key, now); err != nil {
		return Admission{}, err
	}
	// A CA that is registered, activated or opened meanwhile lifts what was refused
	// for want of one; the registry hears of it on every node.
	wide := d.cfg.Registry.Wide()
	a, lasting, err := d.admit(ctx, c, tenant, now)
	if err != nil && lasting > 0 {
		d.refused.addFor(key, now, lasting, err, func() bool { return d.cfg.Registry.Wide() != wide })
	}
	return a, err
}

// How long refusals are remembered: those of the certificate's own octets, and
// those that somebody can lift. Both end sooner, but for a second, with a change of the
// registry that can have lifted them.
const (
	refuseOctets = refuseFor
	refuseState  = 10 * time.Second
)

// admit decides; lasting is how long a refusal stands without looking again.
func (d *Door) admit(ctx context.Context, c *x509.Certificate, tenant string, now time.Time) (a Admission, lasting time.Duration, err error) {
	id := registry.CertificateID(c.Raw)
	if err := d.imported(c); err != nil {
		return a, 0, err // a newer list may say otherwise
	}
	// 2. A registered one.
	known, err := d.cfg.Registry.AtDoor(ctx, id, tenant)
	if err == nil {
		return d.registered(ctx, c, known, now)
	}
	if !errors.Is(err, registry.ErrCertificateUnknown) {
		return a, 0, err
	}
	// 3. One that we issued. It can be a birth certificate whose CA registers at
	//    the door; every other way to be let in went through the registry.
	own, err := d.issuedHere(ctx, c, now)
	if err != nil {
		return a, lastingOf(err), err
	}
	// 4. One that a registered CA vouches for.
	issuer, err := d.cfg.Registry.IssuerAtDoor(ctx, c, tenant)
	switch {
	case errors.Is(err, registry.ErrCAUnknown) && own != nil:
		return a, refuseState, ErrInactive.New("Its registration did not end, or it has to register first.")
	case errors.Is(err, registry.ErrCAUnknown):
		return a, refuseState, ErrUnknown.New("")
	case err != nil:
		return a, 0, err
	case own == nil != (issuer.Authority == ""):
		return a, refuseOctets, ErrUnknown.New("") // signed with an issuing key of ours, and not on record (A12)
	}
	if err := d.mayRegister(c, &issuer, now); err != nil {
		return a, refuseState, err
	}
	return d.newcomer(ctx, c, &issuer, own, now)
}

// lastingOf says how long a refusal of one of our own certificates stands.
func lastingOf(err error) time.Duration {
	if errors.Is(err, ErrUnknown) || errors.Is(err, ErrRole) {
		return refuseOctets
	}
	return 0
}

// issuedHere finds the record of a certificate that one of our own authorities
// signed; nil if none did. Signed and not on record octet by octet is refused
// (A12), and so is what was revoked.
func (d *Door) issuedHere(ctx context.Context, c *x509.Certificate, now time.Time) (*ca.Record, error) {
	g := d.cfg.Gate
	for _, a := range g.cfg.CA.Authorities() {
		if a.Duty == profile.DutyRoot || string(a.Cert.RawSubject) != string(c.RawIssuer) || c.CheckSignatureFrom(a.Cert) != nil {
			continue
		}
		serial, ok := ca.SerialFromInt(c.SerialNumber)
		if !ok {
			return nil, ErrUnknown.New("")
		}
		rec, err := g.cfg.Records.RecordBySerial(ctx, a.Tenant, a.Name, serial)
		switch {
		case err != nil && fault.KindOf(err) == fault.NotFound:
			return nil, ErrUnknown.New("")
		case err != nil:
			return nil, err
		case string(rec.DER) != string(c.Raw):
			return nil, ErrUnknown.New("")
		}
		p, _ := profile.Get(profile.Name(rec.Profile))
		if p.Name != profile.IDevID && p.Name != profile.LDevID && p.Name != profile.Claim || p.Issuer != a.Duty || !hasPolicy(c, profile.RolePolicy(p, g.cfg.CA.PolicyArc())) {
			return nil, ErrRole.New("")
		}
		if err := g.usable(ctx, &rec, now); err != nil {
			return nil, err
		}
		if p.Name == profile.IDevID && g.cfg.Owners != nil {
			// One that a registered CA lets in as it is: only where it belongs.
			u, err := g.cfg.Owners.Owner(ctx, a.Tenant, rec.Holder)
			if err == nil && u.Foreign() {
				err = ownership.ErrLeft.New("")
			}
			if err != nil {
				return nil, err
			}
		}
		return &rec, nil
	}
	return nil, nil
}

// registered judges a certificate that the registry has.
func (d *Door) registered(ctx context.Context, c *x509.Certificate, known *registry.Known, now time.Time) (Admission, time.Duration, error) {
	row := known.Certificate
	rec, things := &row, known.Things
	if rec.Authority != "" {
		own, err := d.issuedHere(ctx, c, now)
		if err == nil && (own == nil || own.Authority != rec.Authority || own.Serial != rec.Serial) {
			err = ErrUnknown.New("")
		}
		if err != nil {
			return Admission{}, lastingOf(err), err
		}
	}
	switch {
	case rec.Status == fleet.Revoked || rec.Revoked:
		return Admission{}, refuseState, ErrRevoked.New("")
	case !now.Before(c.NotAfter):
		return Admission{}, refuseOctets, ErrExpired.New("It ended at %s.", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return Admission{}, refuseState, ErrNotYet.New("It starts at %s.", c.NotBefore.UTC().Format(time.RFC3339))
	}
	if rec.Status == fleet.PendingActivation {
		if err := d.pending(ctx, c, rec, now); err != nil {
			return Admission{}, waitOf(err), err
		}
		var err error
		if things, err = d.cfg.Registry.CertificateThings(ctx, access.Scope{Tenant: rec.Tenant}, rec.ID); err != nil {
			return Admission{}, 0, err
		}
	}
	if rec.Status != fleet.Active {
		return Admission{}, 0, ErrInactive.New("It is %s.", rec.Status)
	}
	a := admission(c, rec, things)
	a.known = known
	return a, 0, nil
}

// waitOf is how long a pending certificate is refused without looking: a device
// that was just registered comes back at once.
func waitOf(err error) time.Duration {
	if errors.Is(err, ErrParked) {
		return refuseState
	}
	return 0
}

// pending is what a connection does for a certificate that waits. A first boot's
// key is proven by it (S15). A claim's waits for RegisterThing, and a handshake is
// no activation. One that was seen at the door is tried again (JITP) or
// announced again (JITR).
func (d *Door) pending(ctx context.Context, c *x509.Certificate, rec *registry.Certificate, now time.Time) error {
	scope := access.Scope{Tenant: rec.Tenant}
	switch rec.How {
	case registry.HowFirstBoot, registry.HowRenewal:
		things, err := d.cfg.Registry.CertificateThings(ctx, scope, rec.ID)
		if err != nil {
			return err
		}
		if len(things) == 0 {
			return ErrInactive.New("It belongs to no thing yet.")
		}
		if _, err := d.cfg.Registry.Prove(ctx, scope, rec.Authority, rec.Serial); err != nil {
			return err
		}
		rec.Status = fleet.Active
		return nil
	case registry.HowJITP, registry.HowJITR:
		issuer, err := d.cfg.Registry.CA(ctx, scope, rec.CA)
		if errors.Is(err, registry.ErrCAUnknown) {
			return ErrParked.New("Its CA is not registered any more.")
		}
		if err != nil {
			return err
		}
		if err := d.mayRegister(c, &issuer, now); err != nil {
			return ErrParked.Wrap(err, "%s", fault.From(err).What)
		}
		_, _, err = d.newcomer(ctx, c, &issuer, nil, now)
		return err
	}
	return ErrParked.New("")
}

// admission says for what the certificate acts.
func admission(c *x509.Certificate, rec *registry.Certificate, things []registry.Principal) Admission {
	a := Admission{Tenant: rec.Tenant, CertificateID: rec.ID, Certificate: c, Authority: rec.Authority, Serial: c.SerialNumber.Text(16), Holder: rec.Holder,
		How: rec.How, Version: rec.Version, NotAfter: c.NotAfter, Claim: rec.How == registry.HowClaimCert}
	if rec.Authority != "" {
		a.Serial = rec.Serial.String()
	}
	if a.Claim {
		return a
	}
	for i := range things {
		a.Things = append(a.Things, things[i].Thing)
	}
	if len(things) == 1 {
		a.Thing = things[0].Thing
	}
	return a
}

// Recheck asks again whether an admitted certificate may be used, from the
// database: for the gap between the admission and the moment from which a
// revocation finds the connection.
func (d *Door) Recheck(ctx context.Context, a *Admission) error {
	now := d.now()
	if a.Authority == "" && a.Certificate != nil {
		if err := d.imported(a.Certificate); err != nil {
			return err
		}
	}
	if a.Authority == "" && a.known != nil && a.known.Stands() && now.Before(a.NotAfter) {
		return nil // nobody changed anything since
	}
	rec, err := d.cfg.Registry.Certificate(ctx, access.Scope{Tenant: a.Tenant}, a.CertificateID)
	switch {
	case errors.Is(err, registry.ErrCertificateUnknown):
		return ErrInactive.New("It was deleted.")
	case err != nil:
		return err
	case rec.Status == fleet.Revoked || rec.Revoked:
		return ErrRevoked.New("")
	case rec.Status != fleet.Active:
		return ErrInactive.New("It is %s.", rec.Status)
	case !now.Before(a.NotAfter):
		return ErrExpired.New("")
	case rec.Authority == "":
		return nil
	}
	if reason, _, revoked := d.cfg.Gate.cfg.Revoked.Revoked(rec.Authority, rec.Serial); revoked && reason != crl.CertificateHold {
		return ErrRevoked.New("")
	}
	_, blocked, err := d.cfg.Gate.cfg.Records.Blocked(ctx, rec.Tenant, rec.Holder)
	if err == nil && blocked {
		err = ErrBlocked.New("")
	}
	return err
}

func (d *Door) lock(id string) *sync.Mutex {
	return &d.locks[maphash.String(d.seed, id)%uint64(len(d.locks))]
}
