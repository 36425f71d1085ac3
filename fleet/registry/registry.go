package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/provisioner/template"
)

// Thing is a device after first boot.
type Thing struct {
	Tenant        string
	Name          fleet.ThingName
	Holder        string // the identity that it was registered from, in lower case
	Attributes    map[string]string
	Type          string
	Groups        []string
	BillingGroup  string
	Policies      []string          // names
	Configuration map[string]string // as answered at first boot
	RegisteredBy  string            // authority of the birth certificate
	Version       int64             // 1 at first; rises with every change
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Query selects things. Without an attribute the names are searched.
type Query struct {
	Attribute string // key; "" searches names
	Prefix    string // of the value, or of the name
	From, To  string // value range From <= value < To; "" leaves an end open; only with an attribute
	Cursor    string // [Page.Next] of the page before
	Limit     int    // at most 1000; 0 means 100
}

// Range is a [Query] in the store's words: rows with From <= key < To, after
// the row (AfterKey, AfterThing), in the order of both.
type Range struct {
	Attribute            string
	From, To             string
	AfterKey, AfterThing string
	After                bool
	Limit                int
}

// Match is a thing that a search found.
type Match struct {
	Thing Thing
	Key   string // what the order follows: the value, or the folded name
}

// Page is a part of a search's result.
type Page struct {
	Things []Thing
	Next   string // cursor of the next page, "" at the end
}

// Store persists the registry. Contract: Atomic runs fn in one transaction that
// every method joins; look-ups see one tenant; Thing returns ErrThingUnknown when
// there is none; PutThing inserts when was is 0 and else changes the row only if
// its version is still was, with ErrThingChanged when somebody was faster. It
// keeps the index right in the same transaction (see [IndexStore]), and so does
// DropThing. Rows that grant something are protected against other writers
// (S32).
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	Thing(ctx context.Context, s access.Scope, folded string) (Thing, error)
	ThingsOf(ctx context.Context, s access.Scope, holder string) ([]Thing, error)
	SearchThings(ctx context.Context, s access.Scope, r Range) ([]Match, error)
	PutThing(ctx context.Context, t Thing, was int64) error
	DropThing(ctx context.Context, tenant string, folded string, was int64) error
	CertificateStore
	CAStore
	AttachmentStore
	PolicyStore
	GroupStore
	IndexStore
	// OnRegistryChange has f called after each commit that changed something;
	// f must not wait.
	OnRegistryChange(f func(Change))
	// Broken lists what does not fit together; see [Registry.Fsck].
	Broken(ctx context.Context, now time.Time, report func(check, object, detail string)) error
}

// Config makes a Registry.
type Config struct {
	Store Store
	// Alone says that this process hears of every change when it is made, since no
	// other node writes to the database. Then what connections ask for is
	// remembered until it changes.
	Alone bool
	Now   func() time.Time
}

// Registry keeps things. It is safe for concurrent use.
type Registry struct {
	store   Store
	now     func() time.Time
	alone   bool
	changes changes
	sets    sets
	knowns  knowns
}

// New makes a Registry.
func New(cfg Config) *Registry {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Registry{store: cfg.Store, now: cfg.Now, alone: cfg.Alone}
	r.changes.init()
	r.sets.init()
	r.store.OnRegistryChange(r.changes.note)
	return r
}

// Registration is what a first boot wants to be true.
type Registration struct {
	Thing     Thing
	Overrides template.ThingOverrides
	Policies  []Policy // documents; the names are in Thing.Policies too
	// Strict refuses groups, types, billing groups and policies that do not exist,
	// as the wire does. Without it missing groups and types are made, and a policy
	// that is only named is attached once it exists and the device registers again.
	Strict bool
	// TakeOver allows a thing that has a live certificate of another device.
	// Set it only if both the registration and the hook allow it (S22).
	TakeOver bool
	// Still, if it is not nil, is asked inside of the transaction whether the device may
	// still be registered here: what was true before it can have changed.
	Still func(ctx context.Context) error
}

// Attachment is the certificate to attach: a registered one by its id, or one of
// ours by authority and serial number.
type Attachment struct {
	Certificate string
	Authority   string
	Serial      ca.Serial
	Status      fleet.PrincipalStatus // for a new one; a pending one becomes this
	How         How                   // of a new one of ours; "" means first boot
	Kind        Kind                  // "" means Exclusive
}

// Check tells whether [Registry.Register] would take the registration now. It
// is asked before a certificate is made; Register decides again.
func (r *Registry) Check(ctx context.Context, reg Registration) error {
	_, err := r.decide(ctx, &reg, r.now())
	return err
}

// Register makes or changes the thing and attaches the certificate, in one
// transaction; it returns what is now true. When another node was faster it
// decides again about what is there then.
func (r *Registry) Register(ctx context.Context, reg Registration, at Attachment) (thing Thing, p Principal, err error) {
	for range 8 {
		// Many devices at once make the same group, type or policy.
		thing, p, err = r.register(ctx, reg, at)
		if !errors.Is(err, ErrThingChanged) && !errors.Is(err, ErrGroupChanged) && !errors.Is(err, ErrTypeChanged) && !errors.Is(err, ErrPolicyChanged) && !errors.Is(err, ErrCertificateChanged) {
			break
		}
	}
	return thing, p, err
}

func (r *Registry) register(ctx context.Context, reg Registration, at Attachment) (thing Thing, p Principal, err error) {
	now := r.now().UTC().Truncate(time.Millisecond) // as it is stored
	scope := access.Scope{Tenant: reg.Thing.Tenant}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		if reg.Still != nil {
			if err := reg.Still(ctx); err != nil {
				return err
			}
		}
		// 1. The thing: what should be, and what has to go.
		d, err := r.decide(ctx, &reg, now)
		if err != nil {
			return err
		}
		if err := r.checkThing(ctx, d.was, &d.thing, !reg.Strict); err != nil {
			return err
		}
		if thing = d.thing; d.changed {
			thing.Version, thing.UpdatedAt = thing.Version+1, now
			if err := r.store.PutThing(ctx, thing, d.thing.Version); err != nil {
				return err
			}
		}
		for _, old := range d.evict {
			_, err := r.changeCertificate(ctx, scope, old.Certificate, func(_ context.Context, c *Certificate) error {
				c.Status = fleet.Inactive
				return nil
			})
			if err != nil {
				return err
			}
		}
		for _, doc := range reg.Policies {
			if err := r.bring(ctx, doc); err != nil {
				return err
			}
		}
		// 2. The certificate: once attached, only its proof changes it here.
		c, err := r.certificateFor(ctx, scope, &at)
		if err != nil {
			return err
		}
		things, err := r.store.CertificateThings(ctx, scope, c.ID)
		if err != nil {
			return err
		}
		p = Principal{Tenant: thing.Tenant, Thing: thing.Name, Certificate: c.ID, Kind: at.Kind, AttachedAt: now}
		bound := false
		for _, have := range things {
			switch {
			case have.Thing == thing.Name:
				p.Kind, p.AttachedAt, bound = have.Kind, have.AttachedAt, true
			case have.Kind == Exclusive || at.Kind == Exclusive:
				return ErrPrincipalBound.New("")
			}
		}
		if !bound {
			if err := r.store.PutAttachment(ctx, thing.Tenant, thing.Name.Fold(), c.ID, p.Kind, now); err != nil {
				return err
			}
		}
		p.Authority, p.Serial, p.Status, p.How, p.NotAfter, p.Holder, p.Profile, p.Slot, p.Revoked = c.Authority, c.Serial, c.Status, c.How, c.NotAfter, c.Holder, c.Profile, c.Slot, c.Revoked
		// 3. What it may do.
		for _, name := range thing.Policies {
			err := r.attachPolicy(ctx, scope, CertificateTarget(c.ID), name)
			if err != nil && (reg.Strict || !errors.Is(err, ErrPolicyUnknown)) {
				return err
			}
		}
		return nil
	})
	return thing, p, err
}

// bring stores a policy that a template has with it. A template's policy of a
// known name and another document is a new version of it only by hand.
func (r *Registry) bring(ctx context.Context, p Policy) error {
	if err := policyName(p.Name); err != nil {
		return err
	}
	if _, err := policy.Parse([]byte(p.Document)); err != nil {
		return err
	}
	_, err := r.createPolicy(ctx, p)
	return err
}

// certificateFor finds the certificate to attach, or registers one of ours.
func (r *Registry) certificateFor(ctx context.Context, s access.Scope, at *Attachment) (c Certificate, err error) {
	if at.Kind == "" {
		at.Kind = Exclusive
	}
	if at.Certificate != "" {
		c, err = r.store.Certificate(ctx, s, at.Certificate)
	} else if c, err = r.store.CertificateBySerial(ctx, s, at.Authority, at.Serial); errors.Is(err, ErrCertificateUnknown) {
		if c, err = r.store.Issued(ctx, s, at.Authority, at.Serial); err != nil {
			return c, err
		}
		c.Status, c.How = at.Status, at.How
		if c.How == "" {
			c.How = HowFirstBoot
		}
		c.RegisteredAt, c.Version = r.stamp(), 1
		c.UpdatedAt = c.RegisteredAt
		return c, r.store.PutCertificate(ctx, c, 0)
	}
	if err != nil || c.Status != fleet.PendingActivation || at.Status == fleet.PendingActivation || c.Revoked {
		return c, err
	}
	if !c.Status.CanBecome(at.Status) {
		return c, ErrPrincipalStatus.New("It is %s.", c.Status)
	}
	was := c.Version
	c.Status, c.Version, c.UpdatedAt = at.Status, was+1, r.stamp()
	return c, r.store.PutCertificate(ctx, c, was)
}

// decision is what a registration comes to.
type decision struct {
	was     *Thing // nil for a new one
	thing   Thing  // as it should be; the version is that of the stored row, 0 for none
	changed bool   // it differs from the row
	evict   []Principal
}

func (r *Registry) decide(ctx context.Context, reg *Registration, now time.Time) (decision, error) {
	t := reg.Thing
	t.Holder = strings.ToLower(t.Holder)
	if _, err := fleet.ParseThingName(string(t.Name)); err != nil {
		return decision{}, err
	}
	scope := access.Scope{Tenant: t.Tenant}
	have, err := r.store.Thing(ctx, scope, t.Name.Fold())
	if errors.Is(err, ErrThingUnknown) {
		t.Version, t.CreatedAt = 0, now
		return decision{thing: t, changed: true}, nil
	}
	if err != nil {
		return decision{}, err
	}
	switch {
	case have.Name != t.Name:
		return decision{}, ErrThingCase.New("")
	// One made by hand, or whose device left, belongs to whom registers it first.
	case have.RegisteredBy != t.RegisteredBy && have.RegisteredBy != "" && have.RegisteredBy != Released:
		return decision{}, ErrThingElsewhere.New("")
	}
	// S22: a live certificate of another device keeps its thing.
	var d decision
	principals, err := r.store.ThingPrincipals(ctx, scope, t.Name.Fold())
	if err != nil {
		return decision{}, err
	}
	for _, p := range principals {
		if p.Live(now) && !strings.EqualFold(p.Holder, t.Holder) {
			if !reg.TakeOver {
				return decision{}, ErrThingTaken.New("")
			}
			d.evict = append(d.evict, p)
		}
	}
	if have.RegisteredBy == Released { // nothing is there that an override could be about
		t.Version, t.CreatedAt = have.Version, have.CreatedAt
		return decision{was: &have, thing: t, changed: true, evict: d.evict}, nil
	}
	// What the template may change of what is there.
	d.was, d.thing = &have, have
	d.thing.RegisteredBy = t.RegisteredBy
	d.thing.Holder, d.thing.Policies, d.thing.Configuration = t.Holder, t.Policies, t.Configuration
	if d.thing.Attributes, err = overrideMap(have.Attributes, t.Attributes, reg.Overrides.Attributes); err != nil {
		return decision{}, err
	}
	if d.thing.Type, err = overrideText(have.Type, t.Type, reg.Overrides.Type, "type"); err != nil {
		return decision{}, err
	}
	if d.thing.BillingGroup, err = overrideText(have.BillingGroup, t.BillingGroup, reg.Overrides.Type, "billing group"); err != nil {
		return decision{}, err
	}
	if d.thing.Groups, err = overrideList(have.Groups, t.Groups, reg.Overrides.Groups); err != nil {
		return decision{}, err
	}
	d.changed = !same(&have, &d.thing)
	return d, nil
}

func same(a, b *Thing) bool {
	return a.Holder == b.Holder && a.RegisteredBy == b.RegisteredBy && a.Type == b.Type && a.BillingGroup == b.BillingGroup && maps.Equal(a.Attributes, b.Attributes) &&
		slices.Equal(a.Groups, b.Groups) && slices.Equal(a.Policies, b.Policies) && maps.Equal(a.Configuration, b.Configuration)
}

func overrideMap(have, want map[string]string, o template.Override) (map[string]string, error) {
	switch {
	case maps.Equal(have, want) || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	case o == template.Merge:
		out := maps.Clone(have)
		if out == nil {
			out = map[string]string{}
		}
		maps.Copy(out, want)
		return out, nil
	}
	return nil, ErrThingConflict.New("Its attributes differ.")
}

func overrideText(have, want string, o template.Override, what string) (string, error) {
	switch {
	case have == want || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	}
	return "", ErrThingConflict.New("Its %s differs.", what)
}

func overrideList(have, want []string, o template.Override) ([]string, error) {
	sorted := func(l []string) []string { return slices.Sorted(slices.Values(l)) }
	switch {
	case slices.Equal(sorted(have), sorted(want)) || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	case o == template.Merge:
		out := slices.Clone(have)
		for _, g := range want {
			if !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
		return out, nil
	}
	return nil, ErrThingConflict.New("Its groups differ.")
}

// Get finds a thing; the spelling must be exact.
func (r *Registry) Get(ctx context.Context, s access.Scope, name fleet.ThingName) (Thing, error) {
	return r.exact(ctx, s, name)
}

// ByHolder lists the things that were registered from an identity.
func (r *Registry) ByHolder(ctx context.Context, s access.Scope, holder string) ([]Thing, error) {
	return r.store.ThingsOf(ctx, s, strings.ToLower(holder))
}

// maxRune ends a prefix range: nothing that starts with the prefix is above it.
const maxRune = "\U0010ffff"

// List searches things, in pages.
func (r *Registry) List(ctx context.Context, s access.Scope, q Query) (Page, error) {
	rng := Range{Attribute: q.Attribute, From: q.From, To: q.To, Limit: q.Limit}
	if rng.Limit <= 0 || rng.Limit > 1000 {
		rng.Limit = 100
	}
	if q.Attribute == "" && (q.From != "" || q.To != "") || q.Prefix != "" && (q.From != "" || q.To != "") {
		return Page{}, ErrQuery.New("A range needs an attribute and no prefix.")
	}
	if q.Prefix != "" {
		p := q.Prefix
		if q.Attribute == "" {
			p = strings.ToLower(p)
		}
		rng.From, rng.To = p, p+maxRune
	}
	if q.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
		key, thing, ok := strings.Cut(string(raw), "\x00")
		if err != nil || !ok {
			return Page{}, ErrQuery.New("The cursor is damaged.")
		}
		rng.After, rng.AfterKey, rng.AfterThing = true, key, thing
	}
	rng.Limit++ // one more tells whether there is a next page
	found, err := r.store.SearchThings(ctx, s, rng)
	if err != nil {
		return Page{}, err
	}
	var page Page
	if len(found) == rng.Limit {
		found = found[:len(found)-1]
		last := found[len(found)-1]
		page.Next = base64.RawURLEncoding.EncodeToString([]byte(last.Key + "\x00" + last.Thing.Name.Fold()))
	}
	for _, m := range found {
		page.Things = append(page.Things, m.Thing)
	}
	return page, nil
}
