package bootstrap

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/internal/fault"
	"hallmark/internal/lane"
	"hallmark/provisioner"
)

// Issuer makes operational certificates; [ca.CA] does.
type Issuer interface {
	Issue(ctx context.Context, r ca.Request) (ca.Issued, error)
	Authority(name string) (ca.Info, error)
	Roots() []*x509.Certificate
	// CrossesOf are the cross certificates of the root of an authority.
	CrossesOf(a *x509.Certificate) []*x509.Certificate
}

// Planner turns a birth certificate into a plan; [provisioner.Planner] does.
type Planner interface {
	Plan(ctx context.Context, in provisioner.PlanInput) (provisioner.Plan, error)
}

// Orders tells what an order says about which authority issues, and hears that one of
// its units lives; [provisioner.Provisioner] does.
type Orders interface {
	MadeFor(ctx context.Context, tenant, order string) (product, region string, err error)
	Booted(ctx context.Context, birth *ca.Record) error
}

// Config makes a Service.
type Config struct {
	Gate     *Gate
	Issuer   Issuer
	Planner  Planner
	Registry *registry.Registry
	Records  ca.Records
	// Orders lets product and region of the birth certificate choose who issues the
	// operational ones too, and gives no new birth certificate to a unit that lives; nil
	// takes what is declared for all, and tells nobody.
	Orders Orders
	// DailyLimit is how many operational certificates a device gets in 24 hours
	// (S17); 0 means 10.
	DailyLimit int
	// NonceKey authenticates nonces; all nodes need the same. nil draws one,
	// which is good for one process.
	NonceKey []byte
	// Organization stands in the subject of operational certificates; may be empty.
	Organization string
	// Pseudonym, if it is not nil, gives the subject of a device's operational
	// certificates in place of its names: whoever sees the certificate on the wire
	// learns neither thing nor serial number (S43). It must always give the same
	// text for the same device.
	Pseudonym func(tenant, holder string) string
	// Withdrawer lets a device replace what rotation put on hold; nil does not.
	Withdrawer Withdrawer
	// Renewed, if it is not nil, hears of every certificate that a device got, and by
	// which one it asked.
	Renewed func(ctx context.Context, tenant string, thing fleet.ThingName, before, certificate, over string)
	// Advise says when a certificate is to be renewed; nil knows only when it ends.
	Advise func(ctx context.Context, tenant, authority string, c *x509.Certificate) (rotation.Advice, error)
	// Roots gives which of all roots a device of a tenant is told to trust; nil tells all.
	// While a root is replaced over the air, a device that is new is to trust what the
	// others were told.
	Roots func(ctx context.Context, tenant string, all []*x509.Certificate) ([]*x509.Certificate, error)
	// Dark lets devices with an expired certificate come back; nil refuses them.
	Dark *DarkLane
	Log  *slog.Logger
	Now  func() time.Time
}

// Service makes devices of birth certificates. It is safe for concurrent use.
type Service struct {
	cfg    Config
	now    func() time.Time
	log    *slog.Logger
	nonces nonces
	seed   maphash.Seed
	locks  [64]sync.Mutex // by holder: one device, one registration at a time
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, now: cfg.Now, log: cfg.Log, nonces: nonces{bytes.Clone(cfg.NonceKey)}, seed: maphash.MakeSeed()}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.cfg.DailyLimit <= 0 {
		s.cfg.DailyLimit = 10
	}
	if len(s.nonces.key) == 0 {
		s.nonces.key = make([]byte, 32)
		rand.Read(s.nonces.key)
	}
	return s
}

// Facts are what the connection says.
type Facts struct {
	Certificate *x509.Certificate // that the peer proved; nil for none
	Exporter    Exporter          // nil where the connection has none
}

// Request is what the device asks.
type Request struct {
	CSR        []byte
	Parameters map[string]string
}

// Registration is what the device needs to live.
type Registration struct {
	Thing         fleet.ThingName
	Certificate   []byte // DER
	Chain         [][]byte
	TrustBundle   [][]byte
	Configuration map[string]string
	Policies      []string
	Status        fleet.PrincipalStatus
}

// Nonce gives the device a nonce for its CSR, for stacks that cannot export
// keying material.
func (s *Service) Nonce(ctx context.Context, f Facts) (nonce string, expires time.Time, err error) {
	if _, err := s.knock(ctx, f); err != nil {
		return "", time.Time{}, err
	}
	nonce, expires = s.nonces.make(f.Certificate.Raw, s.now())
	return nonce, expires, nil
}

func (s *Service) identify(ctx context.Context, f Facts) (Identity, error) {
	if f.Certificate == nil {
		return Identity{}, ErrNoCertificate.New("")
	}
	return s.cfg.Gate.AdmitCertificate(ctx, f.Certificate)
}

// Register is the first boot, and every renewal after it: a thing, its
// configuration, and an operational certificate for a new key. A device that came
// by claim or in bulk has no birth certificate and renews what it has; else the
// order is:
//
//  1. identify: the certificate at the door.
//  2. parse: the CSR proves that its sender holds the new key.
//  3. bind: the challenge proves that the sender holds both keys (S15).
//  4. birth: everything derives from the birth certificate, also a renewal.
//  5. plan: template and hook, outside any transaction; the hook may take seconds.
//  6. check: what the registry would refuse is refused before a certificate is made.
//  7. issue: idempotent by holder, slot and key. A crash after it leaves a
//     certificate that nobody has and the gate refuses; the same key resumes.
//  8. register: thing and certificate in one transaction, which decides again, and
//     after which the unit is installed, whether a station said so or not.
func (s *Service) Register(ctx context.Context, f Facts, r Request) (Registration, error) {
	ctx = lane.With(ctx, lane.Renewal)
	// 1. identify
	id, err := s.knock(ctx, f)
	if err != nil {
		return Registration{}, err
	}
	// 2. parse
	req, err := csr.Parse(r.CSR)
	if err != nil {
		return Registration{}, err
	}
	if bytes.Equal(req.SPKI, id.Certificate.RawSubjectPublicKeyInfo) {
		return Registration{}, ErrKeyReused.New("")
	}
	// 3. bind
	proven, err := s.nonces.bound(req.Challenge, f.Exporter, id.Certificate.Raw, s.now())
	if err != nil {
		return Registration{}, err
	}
	if id.dark {
		return s.reenter(ctx, &id, req, proven)
	}
	return s.enter(ctx, &id, req, proven, r.Parameters)
}

// enter is the steps from 4 on, for whoever was identified and showed a key.
func (s *Service) enter(ctx context.Context, id *Identity, req *csr.Request, proven bool, parameters map[string]string) (Registration, error) {
	// 4. birth, which still has to be good where there is one (S16). A renewal runs no
	//    template: thing, groups and policies stay as the owner of the fleet made them.
	if id.standalone() {
		return s.renew(ctx, id, req, proven)
	}
	birth, err := s.birth(ctx, id)
	if err != nil {
		return Registration{}, err
	}
	if id.Profile == profile.LDevID {
		if err := s.lives(ctx, birth); err != nil { // it booted before that was kept
			return Registration{}, err
		}
		return s.renew(ctx, id, req, proven)
	}
	// 5. plan
	in := provisioner.PlanInput{Tenant: id.Tenant, Authority: birth.record.Authority, Certificate: birth.certificate, Parameters: parameters, ClientID: id.Holder}
	if id.unit != nil {
		in.Template = id.unit.Template
	}
	plan, err := s.cfg.Planner.Plan(ctx, in)
	if err != nil {
		return Registration{}, err
	}
	unlock := s.lock(id.Tenant, birth.record.Holder)
	defer unlock()
	// 6. check
	want := registrationOf(id, &plan)
	want.Still = func(ctx context.Context) error {
		if err := s.still(ctx, id); err != nil {
			return err
		}
		return s.lives(ctx, birth)
	}
	if err := s.cfg.Registry.Check(ctx, want); err != nil {
		return Registration{}, err
	}
	// 7. issue
	issued, err := s.issue(ctx, id, plan.Thing.Name, profile.Origin(birth.record.Origin), req)
	if err != nil {
		return Registration{}, discreet(err)
	}
	// 8. register
	status := fleet.PendingActivation
	switch {
	case !plan.Active:
		status = fleet.Inactive
	case proven:
		status = fleet.Active
	}
	thing, principal, err := s.cfg.Registry.Register(ctx, want, registry.Attachment{Authority: issued.Authority, Serial: issued.Serial, Status: status})
	if err != nil {
		return Registration{}, err
	}
	s.tell(ctx, id, &issued, &thing)
	if !issued.Replayed {
		s.log.InfoContext(ctx, "device registered", "holder", id.Holder, "thing", string(thing.Name), "serial", issued.Serial.String(), "status", string(principal.Status), "with", string(id.Profile))
	}
	return s.answer(ctx, issued, &thing, &principal)
}

// birthCertificate is the IDevID behind whoever asks.
type birthCertificate struct {
	record      ca.Record
	certificate *x509.Certificate
}

// birth finds it. A renewal stands on it too: a device whose birth certificate
// was revoked or blocked gets no new operational one (S16).
func (s *Service) birth(ctx context.Context, id *Identity) (*birthCertificate, error) {
	var found *ca.Record
	if id.Profile == profile.IDevID {
		r, err := s.cfg.Records.RecordBySerial(ctx, id.born(), id.Authority, id.Serial)
		if err != nil {
			return nil, err
		}
		found = &r
	} else {
		all, err := s.births(ctx, id)
		if err != nil {
			return nil, err
		}
		for i := range all {
			if all[i].State != "" && all[i].DER != nil { // the identity's current one
				found = &all[i]
			}
		}
		if found == nil {
			return nil, ErrNoBirth.New("")
		}
		if err := s.cfg.Gate.usable(ctx, found, s.now()); err != nil {
			return nil, noBirth(err)
		}
	}
	c, err := x509.ParseCertificate(found.DER)
	if err != nil {
		return nil, err
	}
	return &birthCertificate{*found, c}, nil
}

// births reads the birth certificates behind an operational one, which may be of
// another tenant's authority.
func (s *Service) births(ctx context.Context, id *Identity) ([]ca.Record, error) {
	at := *id
	if s.cfg.Gate.cfg.Owners != nil {
		u, err := s.cfg.Gate.cfg.Owners.Held(ctx, id.Tenant, id.Holder)
		if err == nil && u.State != ownership.Owned {
			err = ownership.ErrLeft.New("")
		}
		if errors.Is(err, ownership.ErrReleased) { // it left, and is not late
			return nil, ErrNoBirth.Wrap(err, "%s", fault.From(err).What)
		}
		if err != nil {
			return nil, noBirth(err)
		}
		at.Tenant = u.Home
	}
	return s.records(ctx, &at, profile.IDevID)
}

// noBirth says of a refused birth certificate that the device has none. What could
// not be found out goes as it is: the device is told to come again (A80).
func noBirth(err error) error {
	if fault.KindOf(err) != fault.Forbidden {
		return err
	}
	return ErrNoBirth.Wrap(err, "%s", fault.From(err).What)
}

// born is the tenant of the authority of a birth certificate.
func (i *Identity) born() string {
	if i.home != "" {
		return i.home
	}
	return i.Tenant
}

// still tells whether the device of a birth certificate belongs where it did when it
// was let in: the hook may have taken seconds.
func (s *Service) still(ctx context.Context, id *Identity) error {
	if s.cfg.Gate.cfg.Owners == nil || id.Profile != profile.IDevID {
		return nil
	}
	u, err := s.cfg.Gate.cfg.Owners.Owner(ctx, id.born(), id.Holder)
	if err == nil && u.Tenant != id.Tenant {
		err = ownership.ErrLeft.New("")
	}
	return err
}

// lives makes the unit of a birth certificate an installed one, if no station did: who
// scans its label again gets no other birth certificate for it, which would revoke this
// one in the field (S11). In the transaction that registers the device one of the two
// wins: the device that booted, or the key that was certified meanwhile.
func (s *Service) lives(ctx context.Context, birth *birthCertificate) error {
	if s.cfg.Orders == nil || birth.record.State == "installed" {
		return nil
	}
	err := s.cfg.Orders.Booted(ctx, &birth.record)
	if errors.Is(err, ca.ErrHolderRevoked) {
		return ErrRevoked.Wrap(err, "")
	}
	return err
}

// records reads the holder's certificates of one profile.
func (s *Service) records(ctx context.Context, id *Identity, p profile.Name) (out []ca.Record, err error) {
	q := ca.RecordQuery{Tenant: id.Tenant, Holder: id.Holder, Profile: string(p), Limit: 1000}
	for {
		page, err := s.cfg.Records.Records(ctx, q)
		if err != nil {
			return nil, err
		}
		out = append(out, page...)
		if len(page) < q.Limit {
			return out, nil
		}
		q.After = page[len(page)-1].ID
	}
}

// issue makes the certificate, or finds the one that this key has.
func (s *Service) issue(ctx context.Context, id *Identity, thing string, origin profile.Origin, req *csr.Request) (ca.Issued, error) {
	// What does not change from try to try. The key's origin is that of the
	// certificate behind whoever asks (S16).
	r := ca.Request{
		Identity: ca.Identity{Tenant: id.Tenant, Holder: id.Holder, Profile: string(profile.LDevID)},
		Subject:  s.subject(id, thing),
		SPKI:     req.SPKI, Key: req.PublicKey, Origin: origin,
		Requester: ca.Requester{Actor: id.actorString(), Authority: id.Authority, Serial: id.Serial},
		Tool:      "bootstrap",
	}
	if id.way != nil {
		r.Tool = id.way.tool
		if id.way.actor != "" {
			r.Requester.Actor = id.way.actor
		}
		if id.way.origin != "" {
			r.Origin = id.way.origin
		}
	}
	if err := s.quarantined(ctx, id); err != nil {
		return ca.Issued{}, err
	}
	var err error
	if r.Product, r.Region, err = s.madeFor(ctx, id); err != nil {
		return ca.Issued{}, err
	}
	for try := 0; ; try++ {
		held, err := s.records(ctx, id, profile.LDevID)
		if err != nil {
			return ca.Issued{}, err
		}
		now := s.now()
		known := false
		r.Rekey = ca.RekeyRefuse
		for i := range held {
			if held[i].State != "" && held[i].SPKI == req.SPKIHash {
				r.Slot, known = held[i].Slot, true
			}
		}
		if !known {
			if err := s.budget(held, now); err != nil {
				return ca.Issued{}, err
			}
			cleared, err := s.clearHeld(ctx, id, held)
			if err != nil {
				return ca.Issued{}, err
			}
			if cleared {
				continue
			}
			var supersedes bool
			if r.Slot, supersedes = s.slot(id, held, now); supersedes {
				r.Rekey = ca.RekeySupersede
			}
		}
		issued, err := s.cfg.Issuer.Issue(ctx, r)
		// Another node filled the slot meanwhile: choose again.
		if errors.Is(err, ca.ErrRework) && try < 3 {
			continue
		}
		return issued, err
	}
}

// madeFor is product and region of the order that the device was made on. A device
// that came by claim, in bulk or with another's certificate has no order.
func (s *Service) madeFor(ctx context.Context, id *Identity) (product, region string, err error) {
	if s.cfg.Orders == nil {
		return "", "", nil
	}
	births, err := s.records(ctx, id, profile.IDevID)
	if err != nil {
		return "", "", err
	}
	for i := range births {
		if births[i].State != "" && births[i].DER != nil && births[i].Account != "" { // the current one
			return s.cfg.Orders.MadeFor(ctx, id.Tenant, births[i].Account)
		}
	}
	return "", "", nil
}

func (i *Identity) actorString() string { a := i.Actor(); return a.String() }

// budget refuses a device in a loop (S17).
func (s *Service) budget(held []ca.Record, now time.Time) error {
	n, oldest := 0, now
	for i := range held {
		if at := held[i].ReservedAt; at.After(now.Add(-24 * time.Hour)) {
			if n++; at.Before(oldest) {
				oldest = at
			}
		}
	}
	if n < s.cfg.DailyLimit {
		return nil
	}
	return ca.ErrSlots.New("It had %d in 24 hours.", n).After(oldest.Add(24 * time.Hour).Sub(now))
}

// registrationOf says in the registry's words what the plan wants.
func registrationOf(id *Identity, p *provisioner.Plan) registry.Registration {
	out := registry.Registration{
		Thing: registry.Thing{
			Tenant: id.Tenant, Name: fleet.ThingName(p.Thing.Name), Holder: id.Holder, Attributes: p.Thing.Attributes, Type: p.Thing.Type,
			Groups: p.Thing.Groups, BillingGroup: p.Thing.BillingGroup, Configuration: p.Configuration, RegisteredBy: p.Authority,
		},
		Overrides: p.Thing.Overrides,
		TakeOver:  p.TakeOver,
	}
	if u := id.unit; u != nil {
		out.Thing.RegisteredBy = registry.Transferred
		for _, g := range u.Groups {
			if !slices.Contains(out.Thing.Groups, g) {
				out.Thing.Groups = append(slices.Clip(out.Thing.Groups), g)
			}
		}
	}
	for _, policy := range p.Policies {
		out.Thing.Policies = append(out.Thing.Policies, policy.Name)
		if policy.Document != "" {
			out.Policies = append(out.Policies, registry.Policy{Tenant: id.Tenant, Name: policy.Name, Document: policy.Document})
		}
	}
	return out
}

// discreet takes out of a refusal what names another device (S15); the log
// still has it.
func discreet(err error) error {
	for _, d := range []*fault.Definition{ca.ErrKeyInUse, ca.ErrElsewhere} {
		if errors.Is(err, d) {
			return d.Wrap(err, "")
		}
	}
	return err
}

func (s *Service) answer(ctx context.Context, issued ca.Issued, t *registry.Thing, p *registry.Principal) (Registration, error) {
	a, err := s.cfg.Issuer.Authority(issued.Authority)
	if err != nil {
		return Registration{}, err
	}
	out := Registration{Thing: t.Name, Certificate: issued.DER, Chain: [][]byte{a.Cert.Raw}, Configuration: t.Configuration, Policies: t.Policies, Status: p.Status}
	for _, cross := range s.cfg.Issuer.CrossesOf(a.Cert) { // who trusts only another root accepts the chain then
		out.Chain = append(out.Chain, cross.Raw)
	}
	out.TrustBundle, err = s.bundle(ctx, t.Tenant)
	return out, err
}

// bundle is which roots a device of a tenant is told to trust.
func (s *Service) bundle(ctx context.Context, tenant string) (out [][]byte, err error) {
	roots := s.cfg.Issuer.Roots()
	if s.cfg.Roots != nil {
		if roots, err = s.cfg.Roots(ctx, tenant, roots); err != nil {
			return nil, err
		}
	}
	for _, root := range roots {
		out = append(out, root.Raw)
	}
	return out, nil
}
