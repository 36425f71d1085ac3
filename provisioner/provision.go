package provisioner

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
)

// Issuer is the part of [ca.CA] that this package uses.
type Issuer interface {
	Issue(ctx context.Context, r ca.Request) (ca.Issued, error)
	Authority(name string) (ca.Info, error)
	Authorities() []ca.Info
	Roots() []*x509.Certificate
	// CrossesOf are the cross certificates of the root of an authority.
	CrossesOf(a *x509.Certificate) []*x509.Certificate
}

// UnitStore persists what happens to units. Contract: Commit marks the unit of a
// reservation as installed and keeps the evidence; it is idempotent, and refuses
// (ErrUnitUnknown) when the reservation is not the unit's current one or another
// station's. Booted does the same without evidence, whatever station it was; it
// refuses (ca.ErrHolderRevoked) a reservation that is not the unit's current one.
// HolderOfKey finds the unit of an order that has a public key, "" if none. Taken
// tells whether an identity exists.
type UnitStore interface {
	Commit(ctx context.Context, id ca.Identity, reservation int64, station string, evidence []byte, now time.Time) error
	Booted(ctx context.Context, id ca.Identity, reservation int64, now time.Time) error
	HolderOfKey(ctx context.Context, tenant, order string, spki [32]byte) (holder string, err error)
	Taken(ctx context.Context, id ca.Identity) (bool, error)
	Units(ctx context.Context, s access.Scope, order, after string, limit int) ([]Unit, error)
}

// Unit is one unit of an order.
type Unit struct {
	Unit        string
	Order       string
	Station     string
	State       string // reserved, issued, installed, revoked
	Serial      ca.Serial
	Rekeys      int
	InstalledAt time.Time
	Proven      bool
}

// Config makes a Provisioner.
type Config struct {
	Orders   *Orders // verifies envelopes
	Store    OrderStore
	Units    UnitStore
	Stations StationStore
	Records  ca.Records
	CA       Issuer
	// Roots picks from all roots what a station of a tenant is told to trust: those that
	// its units' certificates and the doors are under. nil takes all.
	Roots func(ctx context.Context, tenant string, all []*x509.Certificate) ([]*x509.Certificate, error)
	// Nonce derives the secret-keyed nonce of a reservation: the same for every
	// replay, not known before the certificate.
	Nonce func(reservation ca.Serial) []byte
	// VerifyCommit checks the device's signature over nonce, unit and
	// certificate; the station protocol knows the octets.
	VerifyCommit func(pub crypto.PublicKey, nonce []byte, unit string, der, signature []byte) error
	// Domain is the owned domain of units' DNS names; "" leaves them out (S29).
	Domain string
	// MaxRekeys bounds new keys of a unit before it is installed; 0 means 5.
	MaxRekeys int
	Log       *slog.Logger
	Now       func() time.Time
}

// Provisioner decides what may be made, and has it made.
type Provisioner struct {
	cfg Config
	now func() time.Time
	log *slog.Logger

	mu    sync.Mutex
	cache map[orderKey]cachedOrder
	next  map[orderKey]int64 // where the search for a free serial starts
}

type orderKey struct{ tenant, id string }

type cachedOrder struct {
	state    OrderState
	envelope []byte
	v        *verifiedOrder
	until    time.Time
}

// orderFresh is how long an order row is believed. A state that changed
// meanwhile is seen by the reservation, which reads it in its transaction.
const orderFresh = time.Second

// New makes a Provisioner.
func New(cfg Config) *Provisioner {
	p := &Provisioner{cfg: cfg, now: cfg.Now, log: cfg.Log, cache: map[orderKey]cachedOrder{}, next: map[orderKey]int64{}}
	if p.now == nil {
		p.now = time.Now
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	if p.cfg.MaxRekeys == 0 {
		p.cfg.MaxRekeys = 5
	}
	return p
}

// IssueRequest is what a station asks for a unit.
type IssueRequest struct {
	Order string
	// Unit names the unit; "" allocates the next free serial of the order's rule.
	Unit string
	// FromCN allows the CSR's common name to name the unit, where the order does too (S11).
	FromCN   bool
	CSR      []byte // DER or PEM
	Operator string
	Tool     string
}

// IssueAnswer is a unit's certificate and what the station needs to commit it.
type IssueAnswer struct {
	ca.Issued
	Order string
	Unit  string
	Chain [][]byte // issuing CA first, then the cross certificates of its root
	Nonce []byte
}

// order finds an order and the body that its approvers signed.
func (p *Provisioner) order(ctx context.Context, tenant, id string) (*verifiedOrder, OrderState, error) {
	k, now := orderKey{tenant, id}, p.now()
	p.mu.Lock()
	c, ok := p.cache[k]
	p.mu.Unlock()
	if !ok || now.After(c.until) {
		o, err := p.cfg.Store.Order(ctx, access.Scope{Tenant: tenant}, id)
		if err != nil {
			return nil, "", err
		}
		if o.State == OrderDraft {
			return nil, "", ErrOrderState.New("Order %s is a draft.", id).With("order", id)
		}
		v, err := p.cfg.Orders.verify(o.Envelope)
		if err != nil {
			return nil, "", err
		}
		if v.body.ID != id || v.body.Tenant != tenant {
			return nil, "", ErrOrderSignature.New("The signed order is %s of %s.", v.body.ID, v.body.Tenant)
		}
		c = cachedOrder{o.State, o.Envelope, v, now.Add(orderFresh)}
		p.mu.Lock()
		if len(p.cache) >= maxVerified {
			clear(p.cache)
		}
		p.cache[k] = c
		p.mu.Unlock()
	}
	return c.v, c.state, nil
}

// station refuses an actor that may not work on the order now.
func (p *Provisioner) admit(v *verifiedOrder, station access.Actor) error {
	b, now := v.body, p.now().Unix()
	if station.Kind != access.KindStation || station.Tenant != b.Tenant || len(station.Serial) != ca.SerialLen {
		return ErrNotStation.New("")
	}
	if len(b.Stations) > 0 {
		ok := false
		for _, s := range b.Stations {
			ok = ok || s == station.Name
		}
		if !ok {
			return ErrOrderStation.New("Station %s, order %s.", station.Name, b.ID)
		}
	}
	// A station says of a key that its device made it, or that it made it itself. It
	// brings no attestation, and the manifest has no keys to compare with (S5).
	if b.KeyOrigin != profile.OriginClaimed && b.KeyOrigin != profile.OriginStationMade {
		return originUnshown(b)
	}
	if b.NotBefore != 0 && now < b.NotBefore || b.NotAfter != 0 && now >= b.NotAfter {
		return ErrOrderWindow.New("Order %s runs from %s to %s.", b.ID, unixText(b.NotBefore), unixText(b.NotAfter)).With("order", b.ID)
	}
	return nil
}

// originUnshown refuses to certify where a key comes from when nobody showed it.
func originUnshown(b *Body) error {
	return ErrOrderStation.New("Order %s states keys of the origin %s, which nothing shows here.", b.ID, b.KeyOrigin).With("order", b.ID)
}

func unixText(s int64) string {
	if s == 0 {
		return "always"
	}
	return time.Unix(s, 0).UTC().Format(time.RFC3339)
}

// Issue makes the birth certificate of a unit, or hands it out again.
//
//  1. the signed order, its window, its stations
//  2. the CSR: a public key and the proof that its private half exists
//  3. the unit: named, or from the common name, or allocated
//  4. ca.Issue, which counts, reserves, signs and records
func (p *Provisioner) Issue(ctx context.Context, station access.Actor, r IssueRequest) (IssueAnswer, error) {
	ctx = lane.With(ctx, lane.Line)
	v, _, err := p.order(ctx, station.Tenant, r.Order)
	if err != nil {
		return IssueAnswer{}, err
	}
	if err := p.admit(v, station); err != nil {
		return IssueAnswer{}, err
	}
	if !printableText(r.Operator) || !printableText(r.Tool) {
		return IssueAnswer{}, ErrRequestText.New("")
	}
	req, err := csr.Parse(r.CSR)
	if err != nil {
		return IssueAnswer{}, err
	}
	unit := r.Unit
	if r.FromCN && v.body.CNIsUnit && req.CommonName != "" {
		if unit != "" && unit != req.CommonName {
			return IssueAnswer{}, ErrUnitMismatch.New("%s and %s.", req.CommonName, unit)
		}
		unit = req.CommonName
	}
	if unit == "" && r.FromCN {
		return IssueAnswer{}, ErrUnitNamed.New("")
	}
	if unit != "" {
		return p.issueUnit(ctx, v, station, unit, false, req, &r)
	}
	return p.allocate(ctx, v, station, req, &r)
}

func (p *Provisioner) issueUnit(ctx context.Context, v *verifiedOrder, station access.Actor, unit string, fresh bool, req *csr.Request, r *IssueRequest) (IssueAnswer, error) {
	if err := ValidUnit(unit); err != nil {
		return IssueAnswer{}, err
	}
	if !v.matcher.allows(unit) {
		return IssueAnswer{}, ErrUnitInvalid.New("%s is not in the %s.", unit, v.body.Serials).With("unit", unit)
	}
	rekey := ca.RekeyBeforeInstalled
	if fresh {
		rekey = ca.RekeyRefuse
	}
	by := ca.Requester{Actor: station.String(), Station: station.Name, Authority: station.Authority, Serial: ca.Serial(station.Serial)}
	return p.issueFor(ctx, v, by, unit, rekey, req, r.Operator, r.Tool)
}

// issueFor makes the certificate of a unit that the order has.
func (p *Provisioner) issueFor(ctx context.Context, v *verifiedOrder, by ca.Requester, unit string, rekey ca.Rekey, req *csr.Request, operator, tool string) (IssueAnswer, error) {
	b := v.body
	cr := ca.Request{
		Identity: ca.Identity{Tenant: b.Tenant, Holder: unit, Profile: string(profile.IDevID)},
		Subject:  profile.Subject{Organization: b.Organization, CommonName: unit, SerialNumber: printable(unit)},
		Names:    p.names(unit, b.ID),
		SPKI:     req.SPKI, Key: req.PublicKey, Origin: b.KeyOrigin,
		Account: b.ID, Quota: b.Quantity,
		Rekey: rekey, MaxRekeys: p.cfg.MaxRekeys,
		Requester: by,
		Tool:      tool,
		Product:   b.Product, Region: b.Region,
	}
	if h := v.matcher.hardware[unit]; h != nil {
		cr.Names.Hardware = &profile.HardwareModule{Type: v.matcher.hardwareType, Serial: h}
	}
	if operator != "" {
		cr.Operator = "asserted:" + operator // S13: nothing proves it yet
	}
	if b.CertificateDays > 0 {
		cr.NotAfter = p.now().AddDate(0, 0, b.CertificateDays)
	}
	issued, err := p.cfg.CA.Issue(ctx, cr)
	if err != nil {
		return IssueAnswer{}, err
	}
	a, err := p.cfg.CA.Authority(issued.Authority)
	if err != nil {
		return IssueAnswer{}, err
	}
	return IssueAnswer{Issued: issued, Order: b.ID, Unit: unit, Chain: p.chain(&a), Nonce: p.cfg.Nonce(issued.Serial)}, nil
}

// printable is the subject's serialNumber: a PrintableString has no underscore.
func printable(unit string) string { return strings.ReplaceAll(unit, "_", "-") }

// names gives a unit its DNS name UNIT.ORDER.DOMAIN where its parts can be labels (S29).
func (p *Provisioner) names(unit, order string) profile.Names {
	u, o := strings.ToLower(unit), strings.ToLower(order)
	if p.cfg.Domain == "" || !profile.Label(u) || !profile.Label(o) {
		return profile.Names{}
	}
	return profile.Names{DNS: []string{u + "." + o + "." + p.cfg.Domain}}
}

// allocate finds a free serial for a key. The reservation decides: two stations
// that try the same serial get two different ones, and a key that asks again
// gets its own.
func (p *Provisioner) allocate(ctx context.Context, v *verifiedOrder, station access.Actor, req *csr.Request, r *IssueRequest) (IssueAnswer, error) {
	b := v.body
	if b.Serials.Pattern != "" {
		return IssueAnswer{}, ErrUnitNamed.New("Order %s names its units by a pattern, so nothing can be allocated.", b.ID)
	}
	holder, err := p.cfg.Units.HolderOfKey(ctx, b.Tenant, b.ID, sha256.Sum256(req.SPKI))
	if err != nil {
		return IssueAnswer{}, err
	}
	if holder != "" {
		return p.issueUnit(ctx, v, station, holder, false, req, r)
	}
	size := int64(len(b.Serials.List))
	if size == 0 {
		size = b.Serials.Last - b.Serials.First + 1
	}
	k := orderKey{b.Tenant, b.ID}
	for range size {
		p.mu.Lock()
		i := p.next[k] % size
		p.next[k] = i + 1
		p.mu.Unlock()
		unit := b.Serials.nth(b.Serials.First + i)
		if len(b.Serials.List) > 0 {
			unit = b.Serials.List[i]
		}
		id := ca.Identity{Tenant: b.Tenant, Holder: unit, Profile: string(profile.IDevID)}
		if taken, err := p.cfg.Units.Taken(ctx, id); err != nil {
			return IssueAnswer{}, err
		} else if taken {
			continue
		}
		a, err := p.issueUnit(ctx, v, station, unit, true, req, r)
		if errors.Is(err, ca.ErrRework) || errors.Is(err, ca.ErrElsewhere) {
			continue // somebody else took it between the look and the reservation
		}
		return a, err
	}
	return IssueAnswer{}, ErrUnitsNone.New("Order %s.", b.ID).With("order", b.ID)
}

// CommitRequest says that a unit's certificate is installed and verified.
type CommitRequest struct {
	Order, Unit string
	Serial      ca.Serial
	Signature   []byte // by the device
}

// Commit stores the evidence that a unit holds its key and certificate (S12).
func (p *Provisioner) Commit(ctx context.Context, station access.Actor, r CommitRequest) (Unit, error) {
	ctx = lane.With(ctx, lane.Line)
	if station.Kind != access.KindStation {
		return Unit{}, ErrNotStation.New("")
	}
	v, _, err := p.order(ctx, station.Tenant, r.Order)
	if err != nil {
		return Unit{}, err
	}
	rec, err := p.cfg.Records.RecordBySerial(ctx, station.Tenant, "", r.Serial)
	if err != nil {
		return Unit{}, err
	}
	if rec.DER == nil || rec.Account != r.Order || rec.Shown != r.Unit || rec.Requester != station.String() {
		return Unit{}, ErrUnitUnknown.New("Unit %s, serial number %s.", r.Unit, r.Serial)
	}
	if rec.Revoked() {
		return Unit{}, ca.ErrHolderRevoked.New("Unit %s.", r.Unit)
	}
	proven := len(r.Signature) > 0
	if proven || !v.body.AllowUnproven {
		c, err := x509.ParseCertificate(rec.DER)
		if err != nil {
			return Unit{}, err
		}
		if err := p.cfg.VerifyCommit(c.PublicKey, p.cfg.Nonce(rec.Serial), r.Unit, rec.DER, r.Signature); err != nil {
			return Unit{}, ErrCommitProof.Wrap(err, "Unit %s.", r.Unit)
		}
	}
	now := p.now()
	if err := p.cfg.Units.Commit(ctx, rec.Identity, rec.ID, station.Name, r.Signature, now); err != nil {
		return Unit{}, err
	}
	return Unit{Unit: r.Unit, Order: r.Order, Station: station.Name, State: "installed", Serial: rec.Serial, InstalledAt: now, Proven: proven}, nil
}

// Booted says that the device of a birth certificate lives: it showed the
// certificate's key at a door. From then on a new key is rework (S9), as after a
// commit. Without a signature to keep it is not proven (S12); a commit may still
// bring one. It may be called inside of a transaction, and more than once.
func (p *Provisioner) Booted(ctx context.Context, birth *ca.Record) error {
	return p.cfg.Units.Booted(ctx, birth.Identity, birth.ID, p.now())
}

// FactoryOrder is what a station may know of an order.
func (p *Provisioner) FactoryOrder(ctx context.Context, station access.Actor, id string) (Order, error) {
	o, err := p.cfg.Store.Order(ctx, station.Scope(), id)
	if err != nil {
		return Order{}, err
	}
	if o.State == OrderDraft {
		return Order{}, ErrOrderUnknown.New("%s.", id)
	}
	v, err := p.cfg.Orders.verify(o.Envelope)
	if err != nil {
		return Order{}, err
	}
	o.Body = *v.body
	if err := p.admit(v, station); err != nil && !errors.Is(err, ErrOrderWindow) {
		return Order{}, err
	}
	return o, nil
}

// CreateOrder stores a draft.
func (p *Provisioner) CreateOrder(ctx context.Context, actor access.Actor, b Body) (Order, error) {
	b.Tenant, b.CreatedBy = actor.Tenant, actor.Name
	if err := b.Check(); err != nil {
		return Order{}, err
	}
	canonical, err := b.Canonical()
	if err != nil {
		return Order{}, err
	}
	now := p.now()
	o := Order{Body: b, State: OrderDraft, Canonical: canonical, CreatedAt: now, ChangedAt: now}
	return o, p.cfg.Store.CreateOrder(ctx, o)
}

// ApproveOrder stores the approvers' signatures. The approver is not the creator (S36).
func (p *Provisioner) ApproveOrder(ctx context.Context, actor access.Actor, id string, envelope []byte) (Order, error) {
	o, err := p.cfg.Store.Order(ctx, actor.Scope(), id)
	if err != nil {
		return Order{}, err
	}
	approval, err := access.Approve(actor, access.ApproveOrder, sha256.Sum256(o.Canonical), o.CreatedBy, p.now())
	if err != nil {
		return Order{}, err
	}
	b, err := p.cfg.Orders.Verify(envelope)
	if err != nil {
		return Order{}, err
	}
	if signed, err := b.Canonical(); err != nil || !approval.Covers(access.ApproveOrder, sha256.Sum256(signed)) {
		return Order{}, ErrOrderSignature.New("The signed order is not the one that is stored as %s.", id)
	}
	return p.move(ctx, actor, id, []OrderState{OrderDraft}, OrderApproved, envelope)
}

// OpenOrder lets stations work on an approved order.
func (p *Provisioner) OpenOrder(ctx context.Context, actor access.Actor, id string) (Order, error) {
	return p.move(ctx, actor, id, []OrderState{OrderApproved}, OrderOpen, nil)
}

// CloseOrder ends an order for good.
func (p *Provisioner) CloseOrder(ctx context.Context, actor access.Actor, id string) (Order, error) {
	return p.move(ctx, actor, id, []OrderState{OrderDraft, OrderApproved, OrderOpen}, OrderClosed, nil)
}

func (p *Provisioner) move(ctx context.Context, actor access.Actor, id string, from []OrderState, to OrderState, envelope []byte) (Order, error) {
	if err := p.cfg.Store.SetOrder(ctx, actor.Scope(), id, from, to, envelope, p.now()); err != nil {
		return Order{}, err
	}
	p.mu.Lock()
	delete(p.cache, orderKey{actor.Tenant, id})
	p.mu.Unlock()
	p.log.InfoContext(ctx, "order changed", "order", id, "state", string(to), "by", actor.String())
	return p.cfg.Store.Order(ctx, actor.Scope(), id)
}

// Order, ListOrders and Units are for people.
func (p *Provisioner) Order(ctx context.Context, s access.Scope, id string) (Order, error) {
	return p.cfg.Store.Order(ctx, s, id)
}

// MadeFor is product and region of an order: they choose the authority of everything
// that its units get, for as long as they live. So neither the order's state nor
// whether its approvers are still known counts; the row is believed as it was written
// (S32). An order that is gone chooses nothing.
func (p *Provisioner) MadeFor(ctx context.Context, tenant, id string) (product, region string, err error) {
	o, err := p.cfg.Store.Order(ctx, access.Scope{Tenant: tenant}, id)
	if errors.Is(err, ErrOrderUnknown) {
		return "", "", nil
	}
	return o.Product, o.Region, err
}

// ListOrders lists the orders after an id.
func (p *Provisioner) ListOrders(ctx context.Context, s access.Scope, after string, limit int) ([]Order, error) {
	return p.cfg.Store.Orders(ctx, s, after, limit)
}

// Units lists the units of an order after a unit.
func (p *Provisioner) Units(ctx context.Context, s access.Scope, order, after string, limit int) ([]Unit, error) {
	return p.cfg.Units.Units(ctx, s, order, after, limit)
}
